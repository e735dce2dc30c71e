"""Progress of reading or writing many bytes: a bar in a terminal, a line per file elsewhere."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from ds4_convert.units import duration, size


class Meter:
    """Counts bytes and shows them. Use as a context manager; `done` bytes of `total` were there before.

    Several threads may advance it.
    """

    def __init__(self, console: Console, what: str, *, total: int, files: int, done: int = 0) -> None:
        """`what` names the work ('Converting'), `files` is how many files it touches."""
        self._console, self._total, self._files = console, total, files
        self._start, self._before, self._now, self._file = time.monotonic(), done, done, 0
        columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
        self._bar = Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task(what, total=total, completed=done)
        self._lock = threading.Lock()

    def __enter__(self) -> Meter:
        """Starts the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the bar as it is, also after Ctrl-C."""
        self._bar.stop()

    def advance(self, nbytes: int) -> None:
        """`nbytes` more are done."""
        with self._lock:
            self._now += nbytes
        self._bar.advance(self._task, nbytes)

    def finished(self, file: str, *, already: bool = False) -> None:
        """A file is done; `already` when it was before this run."""
        self._file += 1
        if self._console.is_terminal:
            return
        line = f"[{self._file}/{self._files}] {file}"
        if already:
            line += "  already there"
        else:
            rate = (self._now - self._before) / max(time.monotonic() - self._start, 1e-9)
            left = duration((self._total - self._now) / rate) if rate else "?"
            line += f"  {size(self._now)} of {size(self._total)}, {size(rate)}/s, {left} left"
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def note(self, line: str) -> None:
        """Shows a line of its own, above the bar where there is one."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
