"""Copying to the clipboard: by the platform's program, and by asking the terminal (OSC 52), which works over ssh."""

from __future__ import annotations

import base64
import shutil
import subprocess
from typing import TextIO

_PROGRAMS = (
    ("pbcopy",),
    ("wl-copy",),
    ("xclip", "-selection", "clipboard"),
    ("xsel", "--clipboard", "--input"),
    ("clip.exe",),
)
_LONGEST = 74_994  # bytes: what xterm, and those that follow it, take in one sequence


def copy(text: str, terminal: TextIO | None) -> str | None:
    """Copies by every way there is; returns the ways taken as words, None if there was none."""
    ways = [name for name in (_by_program(text), _by_terminal(text, terminal)) if name]
    return " and ".join(ways) or None


def _by_program(text: str) -> str | None:
    for program in _PROGRAMS:
        if shutil.which(program[0]) is None:
            continue
        try:
            # Some of them stay behind to serve the selection: nothing of ours may be held open by them.
            subprocess.run(
                program,
                input=text.encode("utf-8", "replace"),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=5,
                check=True,
            )
            return program[0]
        except (OSError, subprocess.SubprocessError):  # no display, say
            continue
    return None


def _by_terminal(text: str, terminal: TextIO | None) -> str | None:
    data = text.encode("utf-8", "replace")
    if terminal is None or not terminal.isatty() or len(data) > _LONGEST:
        return None
    terminal.write(f"\x1b]52;c;{base64.b64encode(data).decode()}\a")
    terminal.flush()
    return "the terminal"
