"""The formats a weight matrix can be stored in: which arrays, how large, and how they decode.

MXFP4 and MXFP8 are the OCP microscaling formats as MLX lays them out: blocks of 32 weights along the input share one
power-of-two scale (a biased exponent byte, e8m0), codes lie packed in little-endian words. DeepSeek's FP4 experts and
FP8 128x128 blocks are these formats bit for bit (spec 13).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ds4_mlx.errors import UserError


@dataclass(frozen=True)
class Format:
    """One microscaling format.

    `bits` counts the code alone, `block` is the number of weights that share a scale. The arrays of a matrix [..., out,
    in] are `weight` uint32 [..., out, in * bits / 32] and `scales` uint8 [..., out, in / block].
    """

    name: str
    bits: int
    block: int = 32

    @property
    def bits_per_weight(self) -> float:
        """Storage per weight, scales included."""
        return self.bits + 8 / self.block

    def array_shapes(self, shape: Sequence[int]) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shapes and safetensors dtypes of the arrays that hold a matrix of `shape` [..., out, in]."""
        *lead, width = shape
        if width % self.block:
            raise UserError(f"A {self.name} matrix needs a width that is a multiple of {self.block}, got {width}.")
        return {
            "weight": ((*lead, width * self.bits // 32), "U32"),
            "scales": ((*lead, width // self.block), "U8"),
        }

    def decode(self, weight: mx.array, scales: mx.array, *, dtype: mx.Dtype = mx.float32) -> mx.array:
        """The matrix [..., out, in] that the arrays stand for; exact in float32 and bfloat16."""
        return mx.dequantize(weight, scales, group_size=self.block, bits=self.bits, mode=self.name, dtype=dtype)


FORMATS = {f.name: f for f in (Format("mxfp4", 4), Format("mxfp8", 8))}


def get_format(name: str) -> Format:
    """The format of that name. Raises `UserError` naming the known ones."""
    try:
        return FORMATS[name]
    except KeyError:
        raise UserError(f"Unknown weight format {name!r}; known are {', '.join(sorted(FORMATS))}.") from None


def fp8_block_scales(scale: np.ndarray, rows: int, width: int, block: int = 128) -> np.ndarray:
    """Spreads DeepSeek's one exponent per `block` x `block` square over MXFP8's one per row and 32 columns (spec 13).

    scale: uint8 [ceil(rows / block), ceil(width / block)] -> uint8 [rows, width / 32].
    """
    spread = np.repeat(np.repeat(scale, block, axis=0), block // 32, axis=1)
    return np.ascontiguousarray(spread[:rows, : width // 32])
