"""From the tensors of the released format to ours, without changing a weight (spec 13).

FP8 blocks become MXFP8, FP4 experts become MXFP4 and are stacked per layer; everything else keeps its bytes (the hash
tables shrink from int64 to int32). Most targets are the bytes of their sources, one after the other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ds4_mlx.checkpoint.layout import BF16, F32, FP8, I64, SCALE, Expected
from ds4_mlx.checkpoint.safetensors_file import NUMPY_DTYPES, Tensor
from ds4_mlx.errors import UserError
from ds4_mlx.quant.formats import fp8_block_scales, get_format

_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(w[123])\.(weight|scale)$")
_MX_DTYPES = {"U8": mx.uint8, "U32": mx.uint32, "I32": mx.int32, "F32": mx.float32, "BF16": mx.bfloat16}


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


def repack_plan(expected: Iterable[Expected]) -> list[Target]:
    """The targets for the tensors of a released checkpoint, in the checkpoint's order."""
    named = {e.name: e for e in expected}
    stacks: dict[str, list[Expected]] = {}
    for e in named.values():
        if match := _EXPERT.match(e.name):
            stacks.setdefault(f"{match[1]}.{match[3]}.{match[4]}", []).append(e)
    plan: list[Target] = []
    for e in named.values():
        if match := _EXPERT.match(e.name):
            if match[2] == "0":
                plan.append(_stacked(f"{match[1]}.{match[3]}", match[4], stacks[f"{match[1]}.{match[3]}.{match[4]}"]))
        elif e.dtype == FP8:
            shape, dtype = get_format("mxfp8").array_shapes(e.shape)["weight"]
            plan.append(Target(e.name, dtype, shape, How.BYTES, (e.name,)))
        elif e.dtype == SCALE:
            matrix = named[e.name.removesuffix("scale") + "weight"].shape
            shape, dtype = get_format("mxfp8").array_shapes(matrix)["scales"]
            plan.append(Target(e.name + "s", dtype, shape, How.SPREAD_SCALES, (e.name,)))
        elif e.dtype == I64:
            plan.append(Target(e.name, "I32", e.shape, How.NARROW_INTS, (e.name,)))
        else:
            plan.append(Target(e.name, e.dtype, e.shape, How.BYTES, (e.name,)))
    return plan


def _stacked(name: str, part: str, experts: list[Expected]) -> Target:
    """All experts of a layer in one array; their rows are already laid out as MXFP4 wants them."""
    out, packed = experts[0].shape
    width = packed * 2 if part == "weight" else packed * 32
    arrays = get_format("mxfp4").array_shapes((len(experts), out, width))
    shape, dtype = arrays["weight" if part == "weight" else "scales"]
    return Target(f"{name}.{'weight' if part == 'weight' else 'scales'}", dtype, shape, How.BYTES, _names(experts))


def _names(tensors: list[Expected]) -> tuple[str, ...]:
    return tuple(t.name for t in tensors)


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
