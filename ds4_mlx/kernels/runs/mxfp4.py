"""Reading MXFP4: e2m1 codes become halves 2^14 too small; see `ds4_mlx.quant.formats`."""

from __future__ import annotations

from ds4_mlx.kernels.runs.base import RunText

_HEADER = """
#define PART 8

struct Run { uint4 codes; float scale; };

METAL_FUNC Run load_run(const device uint* weight, const device uchar* scales, size_t number) {
  Run run;
  run.codes = ((const device uint4*)weight)[number];
  uint exponent = uint(scales[number]);
  run.scale = as_type<float>(exponent == 0 ? 0x00400000u : exponent << 23);
  return run;
}

// Codes j and j + 4 of a word, moved to bits 9 and 25 with their signs at 12 and 28: exponent and first mantissa bit of
// two halves, subnormal where the code is.
METAL_FUNC void put_pair(uint shifted, thread float* low, thread float* high) {
  half2 pair = as_type<half2>((shifted & 0x0e000e00u) | ((shifted & 0x10001000u) << 3));
  *low = float(pair.x);
  *high = float(pair.y);
}

METAL_FUNC void raw_part(const thread Run& run, const threadgroup uint* table, int g, thread float* v) {
  uint word = g == 0 ? run.codes.x : g == 1 ? run.codes.y : g == 2 ? run.codes.z : run.codes.w;
  put_pair(word << 9, v + 0, v + 4);
  put_pair(word << 5, v + 1, v + 5);
  put_pair(word << 1, v + 2, v + 6);
  put_pair(word >> 3, v + 3, v + 7);
}
"""

_ROWS = """
METAL_FUNC float finish_run(const thread Run& run, float2 dots, float2 sums) {
  return run.scale * (16384.0f * (dots.x + dots.y));
}
"""

_TILES = """
#define APART 4

METAL_FUNC void weights_run(const thread Run& run, const threadgroup uint* table, thread float* w) {
  raw_run(run, table, w);
  #pragma unroll
  for (int i = 0; i < 32; i++) { w[i] = run.scale * (16384.0f * w[i]); }
}

METAL_FUNC void pairs_run(const thread Run& run, const threadgroup uint* table, thread uint* words) {
  half scale = half(512.0f * run.scale);
  uint scales = as_type<uint>(half2(scale, scale));
  #pragma unroll
  for (int g = 0; g < 4; g++) {
    uint word = g == 0 ? run.codes.x : g == 1 ? run.codes.y : g == 2 ? run.codes.z : run.codes.w;
    #pragma unroll
    for (int j = 0; j < 4; j++) {
      uint shifted = j == 0 ? word << 9 : j == 1 ? word << 5 : j == 2 ? word << 1 : word >> 3;
      uint pair = (shifted & 0x0e000e00u) | ((shifted & 0x10001000u) << 3);
      words[4 * g + j] = multiply_pairs(multiply_pairs(pair, 0x78007800u), scales);  // times 2^15, then the scale
    }
  }
}
"""

TEXT = RunText("mxfp4", _HEADER, _ROWS, _TILES)
