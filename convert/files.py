"""Files that are either there in full or not at all, and errors of the disk in words."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ds4_mlx.errors import UserError

TMP = ".tmp"  # suffix of a file that is being written


def free_bytes(folder: Path) -> int:
    """Bytes that can still be written to the disk that holds `folder`."""
    return shutil.disk_usage(folder).free


@contextmanager
def written_aside(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name only when the block has ended well and its bytes are on the disk."""
    aside = path.with_name(path.name + TMP)
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync_folder(path.parent)
    except BaseException:  # Ctrl-C too: the space is wanted back
        aside.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder (what was created, renamed, removed) last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def only_one_writer(folder: Path) -> Iterator[None]:
    """Raises `UserError` if another process is inside this block for the same folder. Ends with the process, always."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"Another conversion is writing to {folder} right now. Wait until it has ended.") from None
        except OSError:
            pass  # a network disk without locks
        yield
    finally:
        os.close(handle)


@contextmanager
def disk_errors_explained(destination: Path) -> Iterator[None]:
    """Turns an `OSError` of writing `destination` into a `UserError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"The disk became full while writing {destination}. What was finished is kept: free some space and run "
                "the same command again to go on."
            ) from None
        raise UserError(
            f"{destination} cannot be written: {error.strerror or error}. Check its permissions and its disk, or "
            "choose another destination."
        ) from None
