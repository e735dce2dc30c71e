"""The importance of input columns, from the .dat file that ds4 (and llama.cpp before GGUF) writes.

Layout, little-endian: int32 number of entries; per entry int32 length of its name, the name, int32 calls, int32 number
of values, float32 values; then, in newer files, int32 chunks, int32 length, path of the calibration text. A value
divided by calls is the mean squared activation of a column. ds4 has three entries a layer, named like the tensors of
its GGUF (`blk.3.ffn_down_exps.weight`), each with the values of all experts one after the other, [experts, columns]; an
expert that calibration never reached has ones.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from ds4_convert.files import written_aside
from ds4_mlx.errors import UserError

_LONGEST_NAME = 4096
_MATRICES = {"w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps"}


class Entry(NamedTuple):
    """Where the values of one tensor lie."""

    offset: int
    values: int
    calls: int


@dataclass(frozen=True)
class Imatrix:
    """An opened file: the values are read when they are asked for, since the file of the full model has 450 MB."""

    path: Path
    sha256: str
    entries: dict[str, Entry]

    def find(self, item: str, experts: int, width: int) -> tuple[str, Entry]:
        """The entry, with its name, for an item such as layers.3.ffn.experts.w2.

        Raises `UserError` when the file has none, or values for a matrix of other sizes.
        """
        name = tensor_name(item)
        entry = self.entries.get(name)
        if entry is None:
            raise UserError(f"{self.path} has no values for {name}: it was made with another model.")
        if entry.values != experts * width:
            raise UserError(
                f"{self.path} has {entry.values:,} values for {name}, but {experts} experts of {width} columns need "
                f"{experts * width:,}: it was made with another model."
            )
        return name, entry

    def importance(self, item: str, experts: int, width: int) -> np.ndarray:
        """The values for an item, float32 [experts, width]. Raises `UserError` when they are no importance."""
        name, entry = self.find(item, experts, width)
        values = np.fromfile(self.path, "<f4", entry.values, offset=entry.offset) / np.float32(max(entry.calls, 1))
        if values.size != entry.values or not (values >= 0).all() or not np.isfinite(values).all():
            raise UserError(f"{self.path} is damaged: {name} has values that are no mean squares (negative or NaN).")
        if not values.any():
            raise UserError(f"{self.path} has only zeros for {name}; calibrate again.")
        return values.reshape(experts, width)


def open_imatrix(path: str | Path) -> Imatrix:
    """Opens an imatrix file. Raises `UserError` when it is none, or cut off."""
    path = Path(path).expanduser()
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else _digest(file)
            file.seek(0)
            return Imatrix(path, digest.hexdigest(), _entries(file, path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


def write_imatrix(path: Path, importances: Mapping[str, np.ndarray], *, pieces: int) -> None:
    """Writes importances float32 [experts, width] by item as ds4 reads them. Raises `OSError`."""
    dataset = b"ds4-mlx calibrate"
    with written_aside(path) as file:
        file.write(struct.pack("<i", len(importances)))
        for item, values in importances.items():
            name = tensor_name(item).encode()
            file.write(struct.pack("<i", len(name)) + name + struct.pack("<ii", 1, values.size))
            file.write(np.ascontiguousarray(values, "<f4").tobytes())
        file.write(struct.pack("<ii", pieces, len(dataset)) + dataset)


def tensor_name(item: str) -> str:
    """The name in a GGUF of an item such as layers.3.ffn.experts.w2."""
    _, layer, *_, matrix = item.split(".")
    return f"blk.{layer}.{_MATRICES[matrix]}.weight"


def _entries(file: BinaryIO, path: Path) -> dict[str, Entry]:
    size = path.stat().st_size
    if file.read(4) == b"GGUF":
        raise UserError(
            f"{path} is an imatrix in llama.cpp's newer GGUF form; give one in the .dat form, as ds4 writes."
        )
    file.seek(0)
    entries: dict[str, Entry] = {}
    try:
        (count,) = struct.unpack("<i", file.read(4))
        for _ in range(count):
            (length,) = struct.unpack("<i", file.read(4))
            if not 0 < length <= _LONGEST_NAME:
                raise ValueError(f"a name of {length} bytes")
            name = file.read(length).decode()
            calls, values = struct.unpack("<ii", file.read(8))
            entries[name] = Entry(file.tell(), values, calls)
            if values < 1 or file.seek(4 * values, 1) > size:
                raise ValueError(f"{values} values for {name}")
        if not entries:
            raise ValueError("no entries")
    except (struct.error, ValueError) as error:
        reason = "it ends too early" if isinstance(error, struct.error) else str(error)
        raise UserError(f"{path} is no imatrix .dat file, or was cut off: {reason}.") from None
    return entries


def _digest(file: BinaryIO) -> hashlib._Hash:
    """What `hashlib.file_digest` does from Python 3.11 on."""
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest
