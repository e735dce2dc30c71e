"""g++ and the folder where what it builds is kept: by content, so that nothing is built twice."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path


class CompilerError(RuntimeError):
    """g++ is missing or does not accept what it was given; the message holds what it said."""


@cache
def compiler() -> str:
    """The path of g++. Raises CompilerError if there is none, or if this is no Linux."""
    if sys.platform != "linux":
        raise CompilerError("the Metal emulator runs on Linux only; on a Mac run the kernels on Metal itself")
    path = shutil.which("g++")
    if path is None:
        raise CompilerError("the Metal emulator compiles kernels with g++, which is not installed: apt install g++")
    return path


def compile_cpp(*arguments: str | Path) -> None:
    """Runs g++. Raises CompilerError with its messages."""
    done = subprocess.run([compiler(), *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CompilerError(done.stderr[:6000])


def cached_library(name: str, content: str, build: Callable[[Path], Path]) -> Path:
    """The library that `build` makes of `content`, from the cache if it is there.

    `build` gets an empty scratch folder and returns the file it made. Several processes may do this at once: each
    builds in a folder of its own, and the file moves to its place in one step.
    """
    digest = hashlib.sha256(f"{_compiler_version()}\n{content}".encode()).hexdigest()[:24]
    library = _folder() / f"{name}-{digest}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=_folder()) as scratch:
            os.replace(build(Path(scratch)), library)
    return library


@cache
def _compiler_version() -> str:
    return subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=True).stdout


@cache
def _folder() -> Path:
    """A folder for temporary files that no other user can write to, for code is loaded from it."""
    folder = Path(tempfile.gettempdir()) / f"ds4-mlx-mslemu-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise CompilerError(f"{folder} should be yours alone and is not; remove it and run again")
    return folder
