"""Q2_K: two-bit codes with a 4-bit scale and minimum per 16 weights; 2.625 bits per weight.

reference: ggml block_q2_K (ggml-common.h) and dequantize_row_q2_K (ggml-quants.c).
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ds4_mlx.quant.base import Format, Part


class Q2K(Format):
    """value = (d * scale) * code - (dmin * min), blocks of 256 weights in 16 groups of 16.

    q: uint32 [..., out, in / 16], code j of a group in bits 2j and 2j + 1 (GGUF interleaves the codes, see
       `_transpose_codes`).
    sm: uint8 [..., out, in / 16], the group's scale in the low nibble, its minimum in the high one.
    dm: float16 [..., out, in / 256, 2], d and dmin.
    """

    name = "q2_k"
    bits = 2
    block = 256
    parts = (Part("q", "U32", 16), Part("sm", "U8", 16), Part("dm", "F16", 1, (2,)))
    gguf_block = np.dtype([("sm", "u1", 16), ("q", "<u4", (2, 8)), ("dm", "<f2", 2)])

    def _decode(self, arrays: Sequence[mx.array], dtype: mx.Dtype) -> mx.array:
        q, sm, dm = arrays
        codes = (q[..., None] >> mx.arange(0, 32, 2, dtype=mx.uint32)) & 3
        codes = mx.unflatten(codes.astype(mx.float32), -2, (-1, 16))  # [..., in / 256, 16 groups, 16]
        sm = mx.unflatten(sm, -1, (-1, 16))
        d, dmin = (dm[..., i, None].astype(mx.float32) for i in range(2))
        scale = d * (sm & 15).astype(mx.float32)
        minimum = dmin * (sm >> 4).astype(mx.float32)
        # Both products are exact (11 + 4 + 2 bits), so a kernel may fuse them: the subtraction alone rounds.
        return (scale[..., None] * codes - minimum[..., None]).flatten(-3).astype(dtype)

    def _from_blocks(self, blocks: np.ndarray) -> Sequence[np.ndarray]:
        words = _transpose_codes(blocks["q"])
        by_shift = words.view(np.uint8).reshape(*words.shape, 4).swapaxes(-1, -2)
        return np.ascontiguousarray(by_shift).view("<u4"), blocks["sm"], blocks["dm"]

    def _to_blocks(self, arrays: Sequence[np.ndarray], blocks: np.ndarray) -> None:
        q, blocks["sm"], blocks["dm"] = arrays
        by_shift = np.ascontiguousarray(q).view(np.uint8).reshape(*blocks.shape, 2, 4, 8)
        words = np.ascontiguousarray(by_shift.swapaxes(-1, -2)).view("<u4")
        blocks["q"] = _transpose_codes(words[..., 0])


def _transpose_codes(words: np.ndarray) -> np.ndarray:
    """Transposes each uint32 seen as 4 x 4 two-bit codes, byte by byte; its own inverse.

    GGUF spreads each half block of 128 weights over 32 bytes: byte l holds weight 32 s + l in bits 2 s. Four such bytes
    transposed hold, in byte s, the four weights from 32 s + 4 m on, m being the word's number: natural order up to the
    order of whole bytes.
    """
    swap = (words ^ (words >> 6)) & np.uint32(0x00CC00CC)  # the corners of each 2 x 2 square
    words = words ^ swap ^ (swap << 6)
    swap = (words ^ (words >> 12)) & np.uint32(0x0000F0F0)  # then the two squares off the diagonal
    return words ^ swap ^ (swap << 12)
