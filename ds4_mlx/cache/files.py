"""Files that are there whole or not at all, however a process ends, and a place for those that turn out damaged."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import xxhash

_LEFT_OVER = 3600.0  # seconds after which a file written aside belongs to a process that died

Warn = Callable[[str], None]


def sync_file(path: Path) -> None:
    """Returns once the file's bytes are on the medium."""
    fd = os.open(path, os.O_RDONLY)
    try:
        _sync(fd)
    finally:
        os.close(fd)


def sync_directory(path: Path) -> None:
    """The same for the names in a directory."""
    sync_file(path)


def _sync(fd: int) -> None:
    try:
        import fcntl

        full = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: fsync alone leaves the bytes in the drive's cache
        if full is not None:
            fcntl.fcntl(fd, full)
            return
    except (ImportError, OSError):  # a file system without it
        pass
    os.fsync(fd)


def aside(directory: Path, ending: str) -> Path:
    """A fresh path in the store's folder for files that are being written."""
    folder = directory / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{os.getpid()}-{secrets.token_hex(6)}{ending}"


def write_durably(directory: Path, path: Path, data: bytes) -> None:
    """Replaces `path`: afterwards it holds `data` on the medium; interrupted, what it held before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = aside(directory, path.suffix)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            _sync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sweep(directory: Path) -> None:
    """Removes what processes that died left half written."""
    now = time.time()
    for path in (directory / "tmp").glob("*"):
        try:
            if now - path.stat().st_mtime > _LEFT_OVER:
                path.unlink()
        except FileNotFoundError:
            continue


def quarantine(directory: Path, path: Path, why: str, warn: Warn) -> None:
    """Moves a file that cannot be trusted out of the way, and says so. Where nothing may be written it stays."""
    folder = directory / "quarantine"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / path.name
        if target.exists():
            target = folder / f"{path.stem}-{secrets.token_hex(4)}{path.suffix}"
        path.replace(target)
    except FileNotFoundError:  # another process was quicker
        return
    except OSError:
        warn(f"{path} is damaged ({why}) and is not used.")
        return
    warn(f"{path} is damaged ({why}). It was moved to {target} and is not used.")


def checksum(data: bytes | memoryview) -> str:
    """XXH3, 128 bits (hex): finds damage at memory speed. It is no defence against a forger."""
    return xxhash.xxh3_128_hexdigest(data)
