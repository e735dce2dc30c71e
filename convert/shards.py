"""Shards: which tensors share a file, and writing one such file piece by piece."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from contextlib import closing
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from ds4_convert.ahead import one_ahead
from ds4_convert.files import written_aside
from ds4_convert.steps import Loss, Output, Step
from ds4_mlx.checkpoint.safetensors_file import header_bytes

_BLOCK = re.compile(r"(layers|mtp)\.\d+\.")
_METADATA = {"format": "mlx"}


class Shard(NamedTuple):
    """One file to be written. Its bytes follow from its steps alone."""

    name: str
    steps: tuple[Step, ...]

    @property
    def outputs(self) -> list[Output]:
        """The arrays of the file, in order."""
        return [output for step in self.steps for output in step.outputs]

    @property
    def header(self) -> bytes:
        """What the file begins with."""
        return header_bytes([(o.name, o.dtype, o.shape) for o in self.outputs], _METADATA)

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return len(self.header) + sum(o.nbytes for o in self.outputs)


class ShardRecord(NamedTuple):
    """What is known of a written shard: its bytes, the sha256 (hex) of each tensor, what quantising cost each item."""

    nbytes: int
    checksums: dict[str, str]
    losses: dict[str, Loss]


def group_into_shards(steps: Iterable[Step]) -> list[Shard]:
    """One shard for what lies outside the blocks, then one per layer, then one per stage of the drafter."""
    groups: dict[str, list[Step]] = {}
    for step in steps:
        match = _BLOCK.match(step.item)
        groups.setdefault(match[0] if match else "", []).append(step)
    count = len(groups)
    return [
        Shard(f"model-{number:05d}-of-{count:05d}.safetensors", tuple(group))
        for number, group in enumerate(groups.values(), start=1)
    ]


def write_shard(shard: Shard, folder: Path, advance: Callable[[int], None]) -> ShardRecord:
    """Writes a shard with a few pieces in memory at a time. `advance` is told the bytes of each piece.

    Raises `UserError` when the source holds values that no sound checkpoint holds, `OSError` when the disk refuses.
    """
    outputs, losses = shard.outputs, dict[str, Loss]()
    digests = {output.name: hashlib.sha256() for output in outputs}
    *starts, end = accumulate((output.nbytes for output in outputs), initial=len(shard.header))
    places = dict(zip(digests, starts, strict=True))  # where the next piece of each goes
    pieces = (piece for step in shard.steps for piece in step.pieces(losses.__setitem__))
    with written_aside(folder / shard.name) as file, closing(one_ahead(pieces)) as ahead:
        file.write(shard.header)
        for name, piece in ahead:
            digests[name].update(piece.data)
            file.seek(places[name])
            file.write(piece.data)
            places[name] += piece.nbytes
            advance(piece.nbytes)
        assert list(places.values()) == [*starts[1:], end], shard.name
    return ShardRecord(shard.nbytes, {name: digest.hexdigest() for name, digest in digests.items()}, losses)


def is_whole(shard: Shard, record: ShardRecord, folder: Path) -> bool:
    """Whether the file of a recorded shard is there with the right size and header."""
    if record.checksums.keys() != {o.name for o in shard.outputs}:
        return False
    try:
        with (folder / shard.name).open("rb") as file:
            header = shard.header
            return file.read(len(header)) == header and file.seek(0, 2) == record.nbytes == shard.nbytes
    except OSError:
        return False
