"""From the tensors of the released format to ours, without changing a weight (spec 13).

FP8 blocks become MXFP8, FP4 experts become MXFP4 and are stacked per layer; everything else keeps its bytes (the hash
tables shrink from int64 to int32). Most targets are the bytes of their sources, one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ds4_mlx.checkpoint.items import Item
from ds4_mlx.checkpoint.layout import BF16, F32, FP8, I32, I64, SCALE
from ds4_mlx.checkpoint.safetensors_file import NUMPY_DTYPES, Tensor
from ds4_mlx.errors import UserError
from ds4_mlx.quant.formats import fp8_block_scales


class How(Enum):
    """How a target's bytes come from its sources."""

    BYTES = "the sources' bytes, one after the other"
    SPREAD_SCALES = "one exponent per 128x128 square, spread to one per row and 32 columns"
    NARROW_INTS = "int64 to int32"


class Target(NamedTuple):
    """One tensor of our format and the tensors of the released format it comes from."""

    name: str
    dtype: str  # safetensors name
    shape: tuple[int, ...]
    how: How
    sources: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Bytes on disk and in memory."""
        return math.prod(self.shape) * NUMPY_DTYPES[self.dtype].itemsize

    def pieces(self, tensors: Mapping[str, Tensor], check: Checker) -> Iterator[np.ndarray]:
        """The target's bytes (flat uint8 arrays), in order, a few MB at a time. `check` sees every source piece."""
        for name in self.sources:
            source = tensors[name]
            if self.how is How.SPREAD_SCALES:
                scale = source.array()
                check(source, scale)
                yield fp8_block_scales(scale, self.shape[0], self.shape[1] * 32).reshape(-1)
                continue
            for piece in source.pieces():
                check(source, piece)
                yield (piece.astype(np.int32) if self.how is How.NARROW_INTS else piece).view(np.uint8)

    def load(self, tensors: Mapping[str, Tensor], check: Checker) -> mx.array:
        """The target as an array."""
        buffer = np.empty(self.nbytes, dtype=np.uint8)
        start = 0
        for piece in self.pieces(tensors, check):
            buffer[start : start + piece.size] = piece
            start += piece.size
        array = mx.array(buffer.view(NUMPY_DTYPES[self.dtype]).reshape(self.shape))
        return array.view(mx.bfloat16) if self.dtype == BF16 else array


Checker = Callable[[Tensor, np.ndarray], None]


_SUFFIXES = {"weight": "weight", "scales": "scale"}  # part of a microscaling format -> suffix of the released tensor


def repack_plan(items: Iterable[Item]) -> list[Target]:
    """The targets for the tensors of a released checkpoint, every item stored as it was released."""
    return [target for item in items for target in _targets(item)]


def _targets(item: Item) -> Iterator[Target]:
    for name, shape, dtype in item.arrays(item.released):
        if item.released not in ("mxfp4", "mxfp8"):
            how = How.NARROW_INTS if item.released == I32 else How.BYTES
            yield Target(name, dtype, shape, how, item.sources)
            continue
        suffix = _SUFFIXES[name.rpartition(".")[2]]
        spread = item.released == "mxfp8" and suffix == "scale"
        sources = tuple(f"{source}.{suffix}" for source in item.sources)
        yield Target(name, dtype, shape, How.SPREAD_SCALES if spread else How.BYTES, sources)


def check_values(tensor: Tensor, piece: np.ndarray, *, experts: int) -> None:
    """Raises `UserError` if a piece of a released tensor holds what no sound checkpoint holds: NaN, infinity, no
    expert.
    """
    if tensor.dtype == SCALE:
        bad, what = piece == 0xFF, "a NaN scale (exponent byte 255)"
    elif tensor.dtype == FP8:
        bad, what = (piece & 0x7F) == 0x7F, "a NaN weight"
    elif tensor.dtype == BF16:
        bad, what = (piece & 0x7F80) == 0x7F80, "a NaN or infinite value"
    elif tensor.dtype == F32:
        bad, what = ~np.isfinite(piece), "a NaN or infinite value"
    elif tensor.dtype == I64:
        bad, what = (piece < 0) | (piece >= experts), f"an expert number outside 0..{experts - 1}"
    else:
        return  # FP4: every nibble is a number
    if bad.any():
        raise UserError(f"{tensor.path}: tensor {tensor.name} holds {what}. The file is damaged; download it again.")
