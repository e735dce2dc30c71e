"""Reading IQ2_XXS: a table of 256 groups of 8 magnitudes, signs put on by XOR; see `ds4_mlx.quant.iq2_xxs`."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ds4_mlx.kernels.runs.base import RunText
from ds4_mlx.quant.iq2_xxs import GRID

# The magnitudes as bfloat16: 8 is 0x4100, 25 is 0x41C8, 43 is 0x422C. All three are 0x4000 | byte << 2.
_BYTES = {8: 0x40, 25: 0x72, 43: 0x8B}


def _table() -> mx.array:
    """uint32 [512]: groups of 8 bytes, of the weights 0, 1, 4, 5 and 2, 3, 6, 7.

    So each word holds two pairs of weights (j, j + 4) whose bytes are one shift and one mask away from being bfloat16
    halves of a word.
    """
    codes = np.vectorize(_BYTES.get)(GRID.astype(int)).astype(np.uint8)
    return mx.array(np.ascontiguousarray(codes[:, [0, 1, 4, 5, 2, 3, 6, 7]]).view(np.uint32).reshape(-1))


_HEADER = """
struct Run { uint2 codes; float scale; };

METAL_FUNC Run load_run(const device uint* qs, const device half* d, size_t number) {
  Run run;
  run.codes = ((const device uint2*)qs)[number];
  run.scale = float(d[number / 8]) * (0.5f + float(run.codes.y >> 28)) * 0.25f;
  return run;
}

// Two bfloat16 halves of a word as floats.
METAL_FUNC void put_pair(uint pair, thread float* low, thread float* high) {
  *low = as_type<float>(pair << 16);
  *high = as_type<float>(pair & 0xffff0000u);
}

METAL_FUNC void raw_run(const thread Run& run, const threadgroup uint* table, thread float* v) {
  #pragma unroll
  for (int g = 0; g < 4; g++) {
    uint2 group = ((const threadgroup uint2*)table)[(run.codes.x >> (8 * g)) & 255u];
    uint signs = (run.codes.y >> (7 * g)) & 127u;
    signs |= (popcount(signs) & 1u) << 7;
    // Signs of the pairs (3, 7), (2, 6), (1, 5), (0, 4) come by at bits 15 and 31 with every shift.
    uint at = ((signs & 15u) << 12) | ((signs >> 4) << 28);
    thread float* p = v + 8 * g;
    put_pair((((group.x << 2) & 0x03fc03fcu) | 0x40004000u) ^ ((at << 3) & 0x80008000u), p + 0, p + 4);
    put_pair((((group.x >> 6) & 0x03fc03fcu) | 0x40004000u) ^ ((at << 2) & 0x80008000u), p + 1, p + 5);
    put_pair((((group.y << 2) & 0x03fc03fcu) | 0x40004000u) ^ ((at << 1) & 0x80008000u), p + 2, p + 6);
    put_pair((((group.y >> 6) & 0x03fc03fcu) | 0x40004000u) ^ (at & 0x80008000u), p + 3, p + 7);
  }
}

METAL_FUNC float finish_run(const thread Run& run, float2 dots, float2 sums) {
  return run.scale * (dots.x + dots.y);
}

METAL_FUNC void weights_run(const thread Run& run, const threadgroup uint* table, thread float* w) {
  raw_run(run, table, w);
  #pragma unroll
  for (int i = 0; i < 32; i++) { w[i] *= run.scale; }
}
"""

TEXT = RunText("iq2_xxs", _HEADER, _table)
