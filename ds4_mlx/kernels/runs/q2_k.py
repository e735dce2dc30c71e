"""Reading Q2_K: codes become the mantissa of a number near one; see `ds4_mlx.quant.q2_k`."""

from __future__ import annotations

from ds4_mlx.kernels.runs.base import RunText

_HEADER = """
// per 16 weights: `scale` and `low`, so that a weight is scale * code - low
struct Run { uint2 codes; float2 scale; float2 low; };

METAL_FUNC Run load_run(const device uint* q, const device uchar* sm, const device half* dm, size_t number) {
  Run run;
  run.codes = ((const device uint2*)q)[number];
  uchar2 nibbles = ((const device uchar2*)sm)[number];
  half2 d = ((const device half2*)dm)[number / 8];
  run.scale = float2(float(d.x) * float(nibbles.x & 15), float(d.x) * float(nibbles.y & 15));
  run.low = float2(float(d.y) * float(nibbles.x >> 4), float(d.y) * float(nibbles.y >> 4));
  return run;
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
  float2 whole = run.scale * (4.0f * (dots - sums)) - run.low * sums;
  return whole.x + whole.y;
}

METAL_FUNC void weights_run(const thread Run& run, const threadgroup uint* table, thread float* w) {
  raw_run(run, table, w);
  #pragma unroll
  for (int i = 0; i < 16; i++) { w[i] = run.scale.x * (4.0f * w[i] - 4.0f) - run.low.x; }
  #pragma unroll
  for (int i = 16; i < 32; i++) { w[i] = run.scale.y * (4.0f * w[i] - 4.0f) - run.low.y; }
}
"""

TEXT = RunText("q2_k", _HEADER)
