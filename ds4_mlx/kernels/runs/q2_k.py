"""Reading Q2_K: codes become the mantissa of a number near one; see `ds4_mlx.quant.q2_k`."""

from __future__ import annotations

from ds4_mlx.kernels.runs.base import RunText

_HEADER = """
struct Run { uint2 codes; uchar2 nibbles; half2 d; };

METAL_FUNC Run load_run(const device uint* q, const device uchar* sm, const device half* dm, size_t number) {
  Run run;
  run.codes = ((const device uint2*)q)[number];
  run.nibbles = ((const device uchar2*)sm)[number];
  run.d = ((const device half2*)dm)[number / 8];
  return run;
}

// per 16 weights: `scale` and `low`, so that a weight is scale * code - low
METAL_FUNC float2 scale_of(const thread Run& run) {
  return float2(float(run.d.x) * float(run.nibbles.x & 15), float(run.d.x) * float(run.nibbles.y & 15));
}

METAL_FUNC float2 low_of(const thread Run& run) {
  return float2(float(run.d.y) * float(run.nibbles.x >> 4), float(run.d.y) * float(run.nibbles.y >> 4));
}

// Weights j and j + 8 of 16, as 1 + code / 4: two codes at bits 5 and 21 are the mantissas of two bfloat16 ones.
METAL_FUNC void put_pair(uint shifted, thread float* low, thread float* high) {
  uint pair = (shifted & 0x00600060u) | 0x3f803f80u;
  *low = as_type<float>(pair << 16);
  *high = as_type<float>(pair & 0xffff0000u);
}

METAL_FUNC void raw_run(const thread Run& run, const threadgroup uint* table, thread float* v) {
  #pragma unroll
  for (int h = 0; h < 2; h++) {
    uint word = h == 0 ? run.codes.x : run.codes.y;
    thread float* p = v + 16 * h;
    put_pair(word << 5, p + 0, p + 8);
    put_pair(word << 3, p + 1, p + 9);
    put_pair(word << 1, p + 2, p + 10);
    put_pair(word >> 1, p + 3, p + 11);
    put_pair(word >> 3, p + 4, p + 12);
    put_pair(word >> 5, p + 5, p + 13);
    put_pair(word >> 7, p + 6, p + 14);
    put_pair(word >> 9, p + 7, p + 15);
  }
}

METAL_FUNC float finish_run(const thread Run& run, float2 dots, float2 sums) {
  float2 whole = scale_of(run) * (4.0f * (dots - sums)) - low_of(run) * sums;
  return whole.x + whole.y;
}

METAL_FUNC void weights_run(const thread Run& run, const threadgroup uint* table, thread float* w) {
  raw_run(run, table, w);
  #pragma unroll
  for (int i = 0; i < 16; i++) { w[i] = scale_of(run).x * (4.0f * w[i] - 4.0f) - low_of(run).x; }
  #pragma unroll
  for (int i = 16; i < 32; i++) { w[i] = scale_of(run).y * (4.0f * w[i] - 4.0f) - low_of(run).y; }
}

METAL_FUNC void pairs_run(const thread Run& run, const threadgroup uint* table, thread uint* words) {
  float raw[32];
  raw_run(run, table, raw);
  float2 scale = 4096.0f * scale_of(run);
  float2 low = 1024.0f * low_of(run) + scale;
  #pragma unroll
  for (int j = 0; j < 8; j++) {
    words[j] = half_pair(metal::fma(scale.x, raw[j], -low.x), metal::fma(scale.x, raw[j + 8], -low.x));
    words[8 + j] = half_pair(metal::fma(scale.y, raw[16 + j], -low.y), metal::fma(scale.y, raw[24 + j], -low.y));
  }
}
"""

TEXT = RunText("q2_k", _HEADER)
