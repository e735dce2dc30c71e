"""Reads safetensors files by their header, without loading them: names, dtypes, shapes, byte ranges.

Own code rather than the safetensors library because checkpoints must be checked before any byte is trusted (with a
sentence that names file and tensor), and because the converter copies single tensors of 150 GB with a few MB of
memory. Format: 8 bytes little-endian header length, JSON header, data.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ds4_mlx.errors import UserError

# safetensors dtype -> numpy dtype of the same width. The 8- and 16-bit floats that numpy lacks are kept as their bits.
NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in {
        "F8_E4M3": "u1",
        "F8_E8M0": "u1",
        "U8": "u1",
        "I8": "i1",
        "BF16": "<u2",
        "F16": "<f2",
        "F32": "<f4",
        "U32": "<u4",
        "I32": "<i4",
        "I64": "<i8",
    }.items()
}
_MAX_HEADER = 100 << 20  # the format's own limit


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies. `dtype` is the safetensors name; `offset` counts from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int

    def read(self, start: int = 0, count: int | None = None) -> np.ndarray:
        """`count` elements from element `start` on (default: all), flat. Raises `UserError` if the file ends early."""
        kind = NUMPY_DTYPES[self.dtype]
        count = math.prod(self.shape) - start if count is None else count
        try:
            data = np.fromfile(self.path, dtype=kind, count=count, offset=self.offset + start * kind.itemsize)
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error.strerror or error}.") from None
        if data.size != count:
            raise UserError(f"{self.path} ends inside tensor {self.name}: the file was cut off while being read.")
        return data

    def array(self) -> np.ndarray:
        """The whole tensor in its shape."""
        return self.read().reshape(self.shape)

    def pieces(self, piece_bytes: int = 16 << 20) -> Iterator[np.ndarray]:
        """The tensor in flat pieces of at most `piece_bytes`."""
        kind, total = NUMPY_DTYPES[self.dtype], math.prod(self.shape)
        step = max(1, piece_bytes // kind.itemsize)
        for start in range(0, total, step):
            yield self.read(start, min(step, total - start))


def read_header(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file by name, and its metadata.

    Raises `UserError` when the file is missing, truncated or not a safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            header = file.read(length) if 2 <= length <= min(_MAX_HEADER, size) else b""
    except FileNotFoundError:
        raise UserError(f"{path} is missing. Download the checkpoint again, or complete the download.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    if len(prefix) < 8 or (2 <= length <= _MAX_HEADER and len(header) < length):
        raise UserError(f"{path} is truncated: it ends inside its header. Download (or convert) it again.")
    if not header:
        raise UserError(f"{path} is not a safetensors file (its header would be {length} bytes long).")
    try:
        entries = json.loads(header)
        metadata = entries.pop("__metadata__", {})
        tensors = {name: _tensor(name, entry, path, 8 + length) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is not a valid safetensors file: its header is damaged.") from None
    end = 8 + length
    for tensor in sorted(tensors.values(), key=lambda t: t.offset):
        if tensor.nbytes and tensor.offset < end:
            raise UserError(f"{path}: tensor {tensor.name} lies on top of another; the header is damaged.")
        end = max(end, tensor.offset + tensor.nbytes)
    if end > size:
        raise UserError(f"{path} is truncated: {size} of {end} bytes are there. Download (or convert) it again.")
    return tensors, metadata


def _tensor(name: str, entry: dict[str, Any], path: Path, data_start: int) -> Tensor:
    begin, end = entry["data_offsets"]
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    if dtype not in NUMPY_DTYPES:
        raise UserError(f"{path}: tensor {name} has dtype {dtype}, which no DeepSeek V4 checkpoint uses.")
    if not all(isinstance(n, int) and n >= 0 for n in (begin, end, *shape)):
        raise ValueError(entry)
    expected = math.prod(shape) * NUMPY_DTYPES[dtype].itemsize
    if end - begin != expected:
        raise UserError(f"{path}: tensor {name} {dtype} {list(shape)} needs {expected} bytes but has {end - begin}.")
    return Tensor(name, dtype, shape, path, data_start + begin, expected)


def header_bytes(entries: list[tuple[str, str, tuple[int, ...]]], metadata: dict[str, str]) -> bytes:
    """The length prefix and JSON header of a file that will hold (name, dtype, shape) tensors in this order."""
    offset = 0
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    for name, dtype, shape in entries:
        end = offset + math.prod(shape) * NUMPY_DTYPES[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # data starts aligned, so that it can be mapped
    return struct.pack("<Q", len(text)) + text
