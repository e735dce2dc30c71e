"""Reading IQ2_XXS: a table of 256 groups of 8 magnitudes, one of signs put on by XOR; see `ds4_mlx.quant.iq2_xxs`."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ds4_mlx.kernels.runs.base import RunText
from ds4_mlx.quant.iq2_xxs import GRID

# The magnitudes as halves: 8 is 0x4800, 25 is 0x4e40, 43 is 0x5160. All three are 0x4000 | byte << 5.
_BYTES = {8: 0x40, 25: 0x72, 43: 0x8B}


def _signs() -> np.ndarray:
    """uint32 [128]: the signs of 8 weights by their 7 bits, so that those of (3, 7), (2, 6), (1, 5), (0, 4) come by at
    bits 15 and 31 with every shift by two, and a one behind each: the exponent's first bit of all magnitudes.
    """
    bits = np.arange(128)[:, None] >> np.arange(7) & 1
    bits = np.concatenate([bits, bits.sum(axis=1, keepdims=True) % 2], axis=1)  # minus signs are even in number
    return ((bits << np.array([9, 11, 13, 15, 25, 27, 29, 31])).sum(axis=1) | 0x55005500).astype(np.uint32)


def _table() -> mx.array:
    """uint32 [512 + 128 + 256]: groups of 8 bytes, of the weights 0, 1, 4, 5 and 2, 3, 6, 7; signs; nibbles.

    So each word holds two pairs of weights (j, j + 4) whose bytes are one shift and one mask away from being halves.
    """
    codes = np.vectorize(_BYTES.get)(GRID.astype(int)).astype(np.uint8)
    words = np.ascontiguousarray(codes[:, [0, 1, 4, 5, 2, 3, 6, 7]]).view(np.uint32).reshape(-1)
    return mx.array(np.concatenate([words, _signs(), _nibbles()]))


def _nibbles() -> np.ndarray:
    """uint32 [256]: the groups with 4 bits per weight, 0 for 8, 1 for 25, 2 for 43; weights 0, 4, 1, 5, 2, 6, 3, 7."""
    codes = np.vectorize({8: 0, 25: 1, 43: 2}.get)(GRID.astype(int))
    return (codes[:, [0, 4, 1, 5, 2, 6, 3, 7]] << np.arange(0, 32, 4)).sum(axis=1).astype(np.uint32)


_HEADER = """
#define PART 8

struct Run { uint2 codes; half d; };

METAL_FUNC Run load_run(const device uint* qs, const device half* d, size_t number) {
  Run run;
  run.codes = ((const device uint2*)qs)[number];
  run.d = d[number / 8];
  return run;
}

// Two halves of a word as floats.
METAL_FUNC void put_pair(uint word, thread float* low, thread float* high) {
  half2 pair = as_type<half2>(word);
  *low = float(pair.x);
  *high = float(pair.y);
}

METAL_FUNC void raw_part(const thread Run& run, const threadgroup uint* table, int g, thread float* v) {
  uint2 group = ((const threadgroup uint2*)table)[(run.codes.x >> (8 * g)) & 255u];
  uint at = table[512 + ((run.codes.y >> (7 * g)) & 127u)];
  put_pair(((group.x << 5) & 0x1fe01fe0u) | ((at << 6) & 0xc000c000u), v + 0, v + 4);
  put_pair(((group.x >> 3) & 0x1fe01fe0u) | ((at << 4) & 0xc000c000u), v + 1, v + 5);
  put_pair(((group.y << 5) & 0x1fe01fe0u) | ((at << 2) & 0xc000c000u), v + 2, v + 6);
  put_pair(((group.y >> 3) & 0x1fe01fe0u) | (at & 0xc000c000u), v + 3, v + 7);
}

METAL_FUNC float scale_of(const thread Run& run) { return float(run.d) * (0.5f + float(run.codes.y >> 28)) * 0.25f; }
"""

_ROWS = """
METAL_FUNC float finish_run(const thread Run& run, float2 dots, float2 sums) {
  return scale_of(run) * (dots.x + dots.y);
}
"""

_BLOCKS = """
#define PAIRED 4
#define PARTS 1
#define OFFSETS true

// A pair without its weights, negative: 128 (1024 as halves) and 64, so that -43 to 43 are 7 bits of a mantissa.
template <bool HALF> METAL_FUNC uint offset_pair(int i) { return HALF ? 0xe440e440u : 0xc340c340u; }

// Weights j and j + 4 of 8. Signs become the third bits of nibbles, which choose among six bytes.
template <bool HALF>
METAL_FUNC void pairs_of(const thread Run& run, const threadgroup uint* table, thread uint* words) {
  uint y = run.codes.y;
  uint odd = y ^ (y >> 1);
  odd = (odd ^ (odd >> 2) ^ (odd >> 4) ^ (y >> 6)) & 0x00204081u;  // the eighth signs
  #pragma unroll
  for (int g = 0; g < 4; g++) {
    // Four copies, 7 bits apart: signs (0, 4), (1, 5), (2, 6), (3, -) in two nibbles each.
    uint signs = ((y >> (7 * g)) & 127u) * 0x00810204u;
    signs ^= odd << (30 - 7 * g);
    uint chosen = table[640 + permute_bytes(run.codes.x, 0u, 0x4440u + uint(g))] ^ (signs & 0x44444444u);
    uint first = permute_bytes(0x006b5948u, 0x00152738u, chosen);  // 64 + 8, 25, 43; 64 - 8, 25, 43
    uint second = permute_bytes(0x006b5948u, 0x00152738u, chosen >> 16);
    uint above = HALF ? 0x64u : 0x43u;
    words[4 * g] = permute_bytes(first, above, 0x4140u);
    words[4 * g + 1] = permute_bytes(first, above, 0x4342u);
    words[4 * g + 2] = permute_bytes(second, above, 0x4140u);
    words[4 * g + 3] = permute_bytes(second, above, 0x4342u);
  }
}

METAL_FUNC uint scale_bits(const thread Run& run) { return run.codes.y >> 28; }

METAL_FUNC float finish_block(
    const thread Run& run, uint left, uint right, const thread float2* dots, const thread float (*offsets)[4]) {
  float first = (0.5f + small_float(left)) * (dots[0].x + offsets[0][0]);
  float second = (0.5f + small_float(right)) * (dots[0].y + offsets[0][1]);
  return float(run.d) * 0.25f * (first + second);
}
"""

_TILES = """
#define APART 4

METAL_FUNC void weights_run(const thread Run& run, const threadgroup uint* table, thread float* w) {
  raw_run(run, table, w);
  #pragma unroll
  for (int i = 0; i < 32; i++) { w[i] *= scale_of(run); }
}

// Magnitudes times the odd number in the scale are exact, so the last product alone rounds.
METAL_FUNC void pairs_run(const thread Run& run, const threadgroup uint* table, thread uint* words) {
  half odd = half(float(2u * (run.codes.y >> 28) + 1u));
  half d = half(128.0f * float(run.d));
  uint odds = as_type<uint>(half2(odd, odd));
  uint ds = as_type<uint>(half2(d, d));
  #pragma unroll
  for (int g = 0; g < 4; g++) {
    uint2 group = ((const threadgroup uint2*)table)[(run.codes.x >> (8 * g)) & 255u];
    uint at = table[512 + ((run.codes.y >> (7 * g)) & 127u)];
    thread uint* p = words + 4 * g;
    p[0] = ((group.x << 5) & 0x1fe01fe0u) | ((at << 6) & 0xc000c000u);
    p[1] = ((group.x >> 3) & 0x1fe01fe0u) | ((at << 4) & 0xc000c000u);
    p[2] = ((group.y << 5) & 0x1fe01fe0u) | ((at << 2) & 0xc000c000u);
    p[3] = ((group.y >> 3) & 0x1fe01fe0u) | (at & 0xc000c000u);
    #pragma unroll
    for (int j = 0; j < 4; j++) { p[j] = multiply_pairs(multiply_pairs(p[j], odds), ds); }
  }
}
"""

TEXT = RunText("iq2_xxs", _HEADER, _ROWS, _TILES, _table, _BLOCKS)
