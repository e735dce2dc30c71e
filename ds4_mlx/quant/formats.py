"""The microscaling formats, and the list of all formats a weight matrix can be stored in.

MXFP4 and MXFP8 are the OCP microscaling formats as MLX lays them out: blocks of 32 weights along the input share one
power-of-two scale (a biased exponent byte, e8m0), codes lie packed in little-endian words. DeepSeek's FP4 experts and
FP8 128x128 blocks are these formats bit for bit (spec 13).
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ds4_mlx.errors import UserError
from ds4_mlx.quant.base import Format, Part
from ds4_mlx.quant.iq2_xxs import IQ2XXS
from ds4_mlx.quant.q2_k import Q2K
from ds4_mlx.quant.q4_k import Q4K
from ds4_mlx.quant.q8_0 import Q8_0


class _Microscaling(Format):
    """Codes times a power of two; exact in bfloat16 too.

    weight: uint32 [..., out, in * bits / 32], code j of a word `bits` * j bits up.
    scales: uint8 [..., out, in / 32].
    """

    block = 32

    def _decode(self, arrays: Sequence[mx.array], dtype: mx.Dtype) -> mx.array:
        weight, scales = arrays
        return mx.dequantize(weight, scales, group_size=self.block, bits=self.bits, mode=self.name, dtype=dtype)


class MXFP4(_Microscaling):
    """e2m1 codes; reference for GGUF: ggml block_mxfp4.

    ggml counts in halves (scale / 2 times twice the value), which changes no value, has no negative zero, and takes the
    scale byte 255 for 2^128 where the standard and MLX have NaN.
    """

    name = "mxfp4"
    bits = 4
    parts = (Part("weight", "U32", 4), Part("scales", "U8", 1))
    gguf_block = np.dtype([("scale", "u1"), ("codes", "u1", 16)])

    def _from_blocks(self, blocks: np.ndarray) -> Sequence[np.ndarray]:
        # GGUF pairs weight j with weight j + 16 in a byte, MLX with its neighbour; low nibble first in both. So two
        # bytes of GGUF hold two neighbours of the first half and two of the second: one byte of MLX in each half.
        twos = np.ascontiguousarray(blocks["codes"]).view("<u2")
        halves = twos & 0xF | twos >> 4 & 0xF0, twos >> 4 & 0xF | twos >> 8 & 0xF0
        return np.concatenate(halves, axis=-1).astype(np.uint8).view("<u4"), blocks["scale"]

    def _to_blocks(self, arrays: Sequence[np.ndarray], blocks: np.ndarray) -> None:
        weight, blocks["scale"] = arrays
        pairs = np.ascontiguousarray(weight).view(np.uint8).astype("<u2")
        first, second = pairs[..., :8], pairs[..., 8:]
        twos = first & 0xF | (first & 0xF0) << 4 | (second & 0xF) << 4 | (second & 0xF0) << 8
        blocks["codes"] = twos.view(np.uint8)


class MXFP8(_Microscaling):
    """e4m3 codes; ggml has no such type."""

    name = "mxfp8"
    bits = 8
    parts = (Part("weight", "U32", 8), Part("scales", "U8", 1))


FORMATS: dict[str, Format] = {f.name: f for f in (MXFP4(), MXFP8(), IQ2XXS(), Q2K(), Q4K(), Q8_0())}


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
