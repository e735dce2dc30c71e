"""Saves to a small tmpfs until it is full, and to one that is read-only. Needs the right to mount.

PYTHONPATH=tests python -m faults.full_disk prints what happened.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from faults.samples import MARK, Sample, is_right

from ds4_mlx.cache.audit import audit
from ds4_mlx.cache.store import SessionStore
from ds4_mlx.errors import UserError


class MountError(Exception):
    """Nothing can be mounted here."""


class Outcome(NamedTuple):
    """What happened until the disk was full, and afterwards."""

    saves: int
    error: str
    sound: bool  # everything acknowledged restores
    left_aside: int  # files half written
    after_room: bool  # saving works again once there is room


@contextlib.contextmanager
def tmpfs(size: str) -> Iterator[Path]:
    """A file system of its own. Raises `MountError`."""
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False
        )
        if mounted.returncode:
            raise MountError(mounted.stderr.decode().strip())
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def fill() -> Outcome:
    """Saves a growing session until the disk is full."""
    with tmpfs("1m") as folder:
        store, sample, head, rng = SessionStore(folder / "kv"), Sample(), None, np.random.default_rng(0)
        ballast = folder / "ballast"
        ballast.write_bytes(bytes(300_000))
        saves, error = 0, ""
        while not error:
            sample.grow(rng, 300)
            try:
                head = store.save(sample.ids, sample.export, MARK, earlier=head)
                saves += 1
            except UserError as failure:
                error = str(failure)
        assert head is not None
        segments = list(store.read(store.find(head.id)))
        sound = segments[-1].stop == head.tokens and is_right(segments) and audit(store).sound
        left = len(list((folder / "kv" / "tmp").glob("*")))
        ballast.unlink()
        head = store.save(sample.ids, sample.export, MARK, earlier=head)
        return Outcome(saves, error, sound, left, is_right(list(store.read(head))))


def read_only() -> tuple[str, bool]:
    """What saving to a read-only file system says, and whether reading works there."""
    with tmpfs("4m") as folder:
        store, sample = SessionStore(folder / "kv"), Sample()
        sample.grow(np.random.default_rng(0), 300)
        head = store.save(sample.ids, sample.export, MARK)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        fresh = SessionStore(folder / "kv")
        reads = is_right(list(fresh.read(fresh.use(fresh.find(head.id)))))
        sample.grow(np.random.default_rng(0), 300)
        try:
            fresh.save(sample.ids, sample.export, MARK, earlier=head)
        except UserError as error:
            return str(error), reads
    return "", reads


if __name__ == "__main__":
    print(fill())
    print(read_only())
