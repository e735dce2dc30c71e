"""Q4_K: four-bit codes with a 6-bit scale and minimum per 32 weights; 4.5 bits per weight.

reference: ggml block_q4_K (ggml-common.h), get_scale_min_k4 and dequantize_row_q4_K (ggml-quants.c).
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ds4_mlx.quant.base import Format, Part


class Q4K(Format):
    """value = (d * scale) * code - (dmin * min), blocks of 256 weights in 8 groups of 32.

    q: uint32 [..., out, in / 8], code j of a word 4j bits up (GGUF pairs weight j with weight j + 32 in a byte).
    sm: uint8 [..., out, in / 256, 12], GGUF's own packing of 8 scales and 8 minima, see `_scales_and_minima`.
    dm: float16 [..., out, in / 256, 2], d and dmin.
    """

    name = "q4_k"
    bits = 4
    block = 256
    parts = (Part("q", "U32", 32), Part("sm", "U8", 1, (12,)), Part("dm", "F16", 1, (2,)))
    gguf_block = np.dtype([("dm", "<f2", 2), ("sm", "u1", 12), ("q", "u1", (4, 32))])

    def _decode(self, arrays: Sequence[mx.array], dtype: mx.Dtype) -> mx.array:
        q, sm, dm = arrays
        codes = (q[..., None] >> mx.arange(0, 32, 4, dtype=mx.uint32)) & 15
        codes = mx.unflatten(codes.flatten(-2).astype(mx.float32), -1, (-1, 8, 32))
        scale, minimum = (part.astype(mx.float32) for part in _scales_and_minima(sm))
        d, dmin = (dm[..., i, None].astype(mx.float32) for i in range(2))
        # Both products are exact (11 + 6 + 4 bits): the subtraction alone rounds.
        return ((d * scale)[..., None] * codes - (dmin * minimum)[..., None]).flatten(-3).astype(dtype)

    def _from_blocks(self, blocks: np.ndarray) -> Sequence[np.ndarray]:
        low, high = blocks["q"] & 15, blocks["q"] >> 4
        nibbles = np.concatenate([low, high], axis=-1)  # [..., 4, 64], natural order
        words = nibbles[..., 0::2] | nibbles[..., 1::2] << 4
        return words.view("<u4"), blocks["sm"], blocks["dm"]

    def _to_blocks(self, arrays: Sequence[np.ndarray], blocks: np.ndarray) -> None:
        q, blocks["sm"], blocks["dm"] = arrays
        pairs = np.ascontiguousarray(q).view(np.uint8).reshape(*blocks.shape, 4, 32)
        nibbles = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(*blocks.shape, 4, 2, 32)
        blocks["q"] = nibbles[..., 0, :] | nibbles[..., 1, :] << 4


def _scales_and_minima(sm: mx.array) -> tuple[mx.array, mx.array]:
    """The 6-bit scales and minima of 8 groups, uint8 [..., 8] each, from their 12 bytes [..., 12].

    Bytes 0-3 hold four scales and 4-7 four minima, in their low 6 bits. The other four of each have their low 4 bits in
    the nibbles of bytes 8-11 (scales low) and their high 2 bits on top of bytes 0-7.
    """
    a, b, c = (sm[..., i : i + 4] for i in (0, 4, 8))
    scales = [a & 63, (c & 15) | (a >> 6) << 4]
    minima = [b & 63, (c >> 4) | (b >> 6) << 4]
    return mx.concatenate(scales, axis=-1), mx.concatenate(minima, axis=-1)
