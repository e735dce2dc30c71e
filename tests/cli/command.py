"""Runs a command in this process, as the console script would."""

import io
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest


class Result(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


class Command:
    """command("generate", "-p", "hi", stdin=b"...") -> Result."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capfd = monkeypatch, capfd

    def __call__(self, *args: str, stdin: bytes = b"") -> Result:
        from ds4_mlx.cli import main

        return self.run(main, *args, stdin=stdin)

    def run(self, entry: Callable[[], None], *args: str, stdin: bytes = b"") -> Result:
        """Any other entry point."""
        self._capfd.readouterr()
        self._monkeypatch.setattr(sys, "argv", ["ds4-mlx", *args])
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        with pytest.raises(SystemExit) as caught:
            entry()  # typer always ends this way
        out, err = self._capfd.readouterr()
        return Result(int(caught.value.code or 0), out, err)
