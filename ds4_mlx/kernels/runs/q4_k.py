"""Reading Q4_K: codes become the mantissa of a number near one; see `ds4_mlx.quant.q4_k`."""

from __future__ import annotations

from ds4_mlx.kernels.runs.base import RunText

_HEADER = """
#define PART 8

// a weight is scale * code - low
struct Run { uint4 codes; float scale; float low; };

METAL_FUNC Run load_run(const device uint* q, const device uchar* sm, const device half* dm, size_t number) {
  Run run;
  run.codes = ((const device uint4*)q)[number];
  half2 d = ((const device half2*)dm)[number / 8];
  // 12 bytes for 8 runs: scales and minima of runs 0 to 3 in the low 6 bits of bytes 0 to 7; of runs 4 to 7 the low 4
  // bits in bytes 8 to 11, the high 2 on top of the others.
  const device uchar* bytes = sm + number / 8 * 12;
  uint i = number % 4;
  uint scale = uint(bytes[i]);
  uint low = uint(bytes[i + 4]);
  uint both = uint(bytes[i + 8]);
  bool second = number % 8 >= 4;
  scale = second ? (both & 15u) | ((scale >> 6) << 4) : scale & 63u;
  low = second ? (both >> 4) | ((low >> 6) << 4) : low & 63u;
  run.scale = float(d.x) * float(scale);
  run.low = float(d.y) * float(low);
  return run;
}

// Weights j and j + 4 of 8, as 1 + code / 16: two codes at bits 3 and 19 are in the mantissas of two bfloat16 ones.
METAL_FUNC void put_pair(uint shifted, thread float* low, thread float* high) {
  uint pair = (shifted & 0x00780078u) | 0x3f803f80u;
  *low = as_type<float>(pair << 16);
  *high = as_type<float>(pair & 0xffff0000u);
}

METAL_FUNC void raw_part(const thread Run& run, const threadgroup uint* table, int g, thread float* v) {
  uint word = g == 0 ? run.codes.x : g == 1 ? run.codes.y : g == 2 ? run.codes.z : run.codes.w;
  put_pair(word << 3, v + 0, v + 4);
  put_pair(word >> 1, v + 1, v + 5);
  put_pair(word >> 5, v + 2, v + 6);
  put_pair(word >> 9, v + 3, v + 7);
}
"""

_ROWS = """
METAL_FUNC float finish_run(const thread Run& run, float2 dots, float2 sums) {
  float sum = sums.x + sums.y;
  return run.scale * (16.0f * (dots.x + dots.y - sum)) - run.low * sum;
}
"""

_TILES = """
#define APART 4

METAL_FUNC void weights_run(const thread Run& run, const threadgroup uint* table, thread float* w) {
  raw_run(run, table, w);
  #pragma unroll
  for (int i = 0; i < 32; i++) { w[i] = run.scale * (16.0f * w[i] - 16.0f) - run.low; }
}

METAL_FUNC void pairs_run(const thread Run& run, const threadgroup uint* table, thread uint* words) {
  float raw[32];
  raw_run(run, table, raw);
  float scale = 16384.0f * run.scale;
  float low = 1024.0f * run.low + scale;
  #pragma unroll
  for (int i = 0; i < 16; i++) {
    int j = i / 4 * 8 + i % 4;
    words[i] = half_pair(metal::fma(scale, raw[j], -low), metal::fma(scale, raw[j + 4], -low));
  }
}
"""

TEXT = RunText("q4_k", _HEADER, _ROWS, _TILES)
