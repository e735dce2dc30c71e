"""`ds4-mlx serve` as a process of its own, for clients that are processes of their own."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STARTS_IN = 120  # seconds, on a busy machine
_URL = re.compile(r"http://127\.0\.0\.1:\d+")


@dataclass
class Served:
    """A running server. url: its origin. trace: the file that its requests are written to."""

    url: str
    trace: Path
    process: subprocess.Popen[str]

    def traced(self) -> list[dict[str, Any]]:
        """Its answers so far, the first one first."""
        if not self.trace.exists():
            return []
        return [json.loads(line) for line in self.trace.read_text(encoding="utf-8").splitlines()]


@contextmanager
def serving(folder: Path, *flags: str, command: Sequence[str] = ()) -> Iterator[Served]:
    """A server on a free port, stopped by SIGTERM; its log, trace and sessions are in `folder`.

    command: what to run instead of `ds4-mlx serve`; it takes the same flags and says in the same way where it listens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = command or (sys.executable, "-m", "ds4_mlx.cli", "serve", "--kv-dir", str(folder / "kv"))
    trace = folder / "trace.jsonl"
    process = subprocess.Popen(
        [*command, "--port", "0", "--trace", str(trace), *flags], stderr=subprocess.PIPE, text=True
    )
    log = (folder / "server.log").open("a", encoding="utf-8")
    listens = threading.Event()
    said: list[str] = []

    def read() -> None:
        assert process.stderr is not None
        with log:
            for line in process.stderr:
                log.write(line)
                log.flush()
                said.append(line)
                if "Listening" in line:
                    listens.set()
        listens.set()  # it has ended

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert listens.wait(STARTS_IN), "the server did not start in time"
        found = _URL.search(said[-1]) if "Listening" in said[-1] else _URL.search("".join(said))
        assert found, "the server did not start:\n" + "".join(said)
        yield Served(found[0], trace, process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        reader.join(10)
