"""A program in a terminal of 80 columns and 24 rows, and what is to be seen there."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path
from types import TracebackType

import pyte


class PseudoTerminal:
    """with PseudoTerminal(command) as terminal: terminal.send("hi\\r"); terminal.wait_for("text")"""

    def __init__(self, command: list[str], *, columns: int = 80, rows: int = 24, **environment: str) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=1.0)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
        self._process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**kept, "TERM": "xterm-256color", **environment},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  # so that Ctrl-C is a signal
        )
        os.close(theirs)

    def __enter__(self) -> PseudoTerminal:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._ours)

    def send(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def paste(self, text: str) -> None:
        """As terminals send what is pasted."""
        self.send(f"\x1b[200~{text}\x1b[201~")

    def wait_for(self, text: str, seconds: float = 60) -> str:
        """Until the text is on the screen; returns the screen. AssertionError with the screen if it never comes."""
        end = time.monotonic() + seconds
        while text not in (seen := self.seen()):
            assert time.monotonic() < end, f"{text!r} did not come:\n{seen}"
            if not self.read(0.2) and self._process.poll() is not None:
                assert text in self.seen(), f"it ended without {text!r}:\n{self.seen()}"
        return seen

    def wait_until_gone(self, text: str, seconds: float = 60) -> None:
        """Until the text is no more on the screen."""
        end = time.monotonic() + seconds
        while text in self.seen():
            assert time.monotonic() < end, f"{text!r} stays:\n{self.seen()}"
            self.read(0.2)

    def read(self, seconds: float) -> bool:
        """What comes within that time; whether something did."""
        if not select.select([self._ours], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # the other end is closed
            return False
        self.raw += data
        self._answer_queries(data)
        self._stream.feed(data)
        return bool(data)

    def _answer_queries(self, data: bytes) -> None:
        if b"\x1b[6n" in data:  # where is the cursor?
            self.send(f"\x1b[{self.screen.cursor.y + 1};{self.screen.cursor.x + 1}R")

    def seen(self) -> str:
        """The screen as text."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def everything(self) -> str:
        """With what was scrolled away."""
        columns = range(self.screen.columns)
        gone = ["".join(line[x].data for x in columns).rstrip() for line in self.screen.history.top]
        return "\n".join([*gone, self.seen()])

    def wait(self, seconds: float = 30) -> int:
        """Until the program ends; returns its exit code."""
        end = time.monotonic() + seconds
        while self._process.poll() is None:
            assert time.monotonic() < end, f"it does not end:\n{self.seen()}"
            self.read(0.1)
        while self.read(0.1):
            pass
        return int(self._process.returncode)


def in_a_new_home(folder: Path) -> dict[str, str]:
    """Environment of a person who has used nothing of ours yet."""
    return {"HOME": str(folder), "XDG_STATE_HOME": str(folder / "state"), "XDG_CACHE_HOME": str(folder / "cache")}
