"""Q8_0: signed 8-bit codes with one scale per 32 weights; 8.5 bits per weight. What GGUF files keep dense matrices in.

reference: ggml block_q8_0 (ggml-common.h) and dequantize_row_q8_0 (ggml-quants.c).
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ds4_mlx.quant.base import Format, Part


class Q8_0(Format):  # noqa: N801  # ggml's name
    """value = scale * (code - 128), blocks of 32 weights.

    weight: uint32 [..., out, in / 4], code j of a word 8j bits up. GGUF's signed codes plus 128, so that they are the
            unsigned ones of MLX's affine mode: `mx.quantized_matmul(x, weight, scales, -128 * scales, group_size=32,
            bits=8)` takes them as they are, and for x in bfloat16 or float32 computes in float32 with exact weights.
    scales: float16 [..., out, in / 32].
    """

    name = "q8_0"
    bits = 8
    block = 32
    parts = (Part("weight", "U32", 8), Part("scales", "F16", 1))
    gguf_block = np.dtype([("d", "<f2"), ("codes", "u1", 32)])

    def _decode(self, arrays: Sequence[mx.array], dtype: mx.Dtype) -> mx.array:
        weight, scales = arrays
        codes = mx.unflatten(weight.view(mx.uint8).astype(mx.float32) - 128, -1, (-1, self.block))
        # Exact (11 + 8 bits), and a zero has the sign of the scale as in ggml.
        return (codes * scales[..., None].astype(mx.float32)).flatten(-2).astype(dtype)

    def _from_blocks(self, blocks: np.ndarray) -> Sequence[np.ndarray]:
        return (blocks["codes"] ^ np.uint8(128)).view("<u4"), blocks["d"]

    def _to_blocks(self, arrays: Sequence[np.ndarray], blocks: np.ndarray) -> None:
        weight, blocks["d"] = arrays
        blocks["codes"] = np.ascontiguousarray(weight).view(np.uint8) ^ np.uint8(128)
