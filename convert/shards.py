"""Shards: which tensors share a file, and writing one such file piece by piece."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from ds4_convert.ahead import one_ahead
from ds4_convert.files import written_aside
from ds4_convert.profiles import Output
from ds4_mlx.checkpoint.safetensors_file import header_bytes

_BLOCK = re.compile(r"(layers|mtp)\.\d+\.")
_METADATA = {"format": "mlx"}


class Shard(NamedTuple):
    """One file to be written. Its bytes follow from its outputs alone."""

    name: str
    outputs: tuple[Output, ...]

    @property
    def header(self) -> bytes:
        """What the file begins with."""
        return header_bytes([(o.name, o.dtype, o.shape) for o in self.outputs], _METADATA)

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return len(self.header) + sum(o.nbytes for o in self.outputs)


class ShardRecord(NamedTuple):
    """What is known of a written shard: its bytes and the sha256 (hex) of each tensor."""

    nbytes: int
    checksums: dict[str, str]


def group_into_shards(outputs: Iterable[Output]) -> list[Shard]:
    """One shard for what lies outside the blocks, then one per layer, then one per stage of the drafter."""
    groups: dict[str, list[Output]] = {"": []}
    for output in outputs:
        match = _BLOCK.match(output.name)
        groups.setdefault(match[0] if match else "", []).append(output)
    count = len(groups)
    return [
        Shard(f"model-{number:05d}-of-{count:05d}.safetensors", tuple(group))
        for number, group in enumerate(groups.values(), start=1)
    ]


def write_shard(shard: Shard, folder: Path, advance: Callable[[int], None]) -> ShardRecord:
    """Writes a shard with a few pieces in memory at a time. `advance` is told the bytes of each piece.

    Raises `UserError` when the source holds values that no sound checkpoint holds, `OSError` when the disk refuses.
    """
    digests = {output.name: hashlib.sha256() for output in shard.outputs}
    pieces = ((output.name, piece) for output in shard.outputs for piece in output.pieces())
    with written_aside(folder / shard.name) as file, closing(one_ahead(pieces)) as ahead:
        file.write(shard.header)
        for name, piece in ahead:
            digests[name].update(piece.data)
            file.write(piece.data)
            advance(piece.nbytes)
        assert file.tell() == shard.nbytes, (shard.name, file.tell(), shard.nbytes)
    return ShardRecord(shard.nbytes, {name: digest.hexdigest() for name, digest in digests.items()})


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
