"""A `ds4-mlx serve` of its own process, for load scripts."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx


class ServerProcess:
    """url: its origin. rss: (seconds since the start, bytes in RAM), twice a second."""

    def __init__(self, kv_dir: Path, *flags: str) -> None:
        command = [str(Path(sys.executable).with_name("ds4-mlx")), "serve", "--port", "0", "--kv-dir", str(kv_dir)]
        self.process = subprocess.Popen(
            [*command, "--log-level", "warning", *flags], stderr=subprocess.PIPE, text=True, errors="replace"
        )
        self.lines: list[str] = []
        self.url = ""
        self.rss: list[tuple[float, int]] = []
        self._begin = time.monotonic()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip())
            if found := re.search(r"on (http://\S+) \(", line):
                self.url = found[1]

    def _watch(self) -> None:
        status = Path(f"/proc/{self.process.pid}/status")
        while self.process.poll() is None and status.exists():  # elsewhere than on Linux memory is not watched
            found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text())
            if found:
                self.rss.append((time.monotonic() - self._begin, int(found[1]) * 1024))
            time.sleep(0.5)

    def ready(self, seconds: float = 120) -> ServerProcess:
        """Waits until it answers."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if self.url and httpx.get(f"{self.url}/health").status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError("\n".join(["The server did not start:", *self.lines]))

    def terminate(self) -> None:
        """SIGTERM; does not wait."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = 60) -> int:
        """Its exit code."""
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code


@contextmanager
def serving(kv_dir: Path, *flags: str) -> Iterator[ServerProcess]:
    """A server that answers; told to end, and waited for, at the end."""
    server = ServerProcess(kv_dir, *flags)
    try:
        yield server.ready()
    finally:
        if server.process.poll() is None:
            server.terminate()
            try:
                server.wait()
            except subprocess.TimeoutExpired:
                server.process.kill()
                raise
