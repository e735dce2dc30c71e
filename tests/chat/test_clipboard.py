"""Copying."""

import base64
import io
from pathlib import Path

import pytest

from ds4_mlx.chat import clipboard


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def install(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_the_first_program_that_works_gets_the_text(programs: Path) -> None:
    install(programs, "wl-copy", "exit 1")  # no display
    install(programs, "xsel", f"/bin/cat > {programs}/copied")
    assert clipboard.copy("text…", None) == "xsel"
    assert (programs / "copied").read_text(encoding="utf-8") == "text…"


def test_the_terminal_is_asked_too(programs: Path) -> None:
    terminal = Terminal()
    assert clipboard.copy("text", terminal) == "the terminal"
    assert terminal.getvalue() == f"\x1b]52;c;{base64.b64encode(b'text').decode()}\a"


def test_without_a_way_it_says_so(programs: Path) -> None:
    assert clipboard.copy("text", io.StringIO()) is None


def test_what_is_too_long_for_a_terminal_is_not_sent(programs: Path) -> None:
    assert clipboard.copy("x" * 80_000, Terminal()) is None
