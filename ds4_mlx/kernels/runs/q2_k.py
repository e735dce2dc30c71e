"""Reading Q2_K: codes become the mantissa of a number near one; see `ds4_mlx.quant.q2_k`."""

from __future__ import annotations

from ds4_mlx.kernels.runs.base import RunText

_HEADER = """
#define PART 16

struct Run { uint2 codes; uchar2 nibbles; half2 d; };

METAL_FUNC Run load_run(const device uint* q, const device uchar* sm, const device half* dm, size_t number) {
  Run run;
  run.codes = ((const device uint2*)q)[number];
  run.nibbles = ((const device uchar2*)sm)[number];
  run.d = ((const device half2*)dm)[number / 8];
  return run;
}

// Weights j and j + 8 of 16, as 1 + code / 4: two codes at bits 8 and 24 are the mantissas of two halves.
METAL_FUNC void put_pair(uint shifted, thread float* low, thread float* high) {
  half2 pair = as_type<half2>((shifted & 0x03000300u) | 0x3c003c00u);
  *low = float(pair.x);
  *high = float(pair.y);
}

METAL_FUNC void raw_part(const thread Run& run, const threadgroup uint* table, int h, thread float* v) {
  uint word = h == 0 ? run.codes.x : run.codes.y;
  put_pair(word << 8, v + 0, v + 8);
  put_pair(word << 6, v + 1, v + 9);
  put_pair(word << 4, v + 2, v + 10);
  put_pair(word << 2, v + 3, v + 11);
  put_pair(word, v + 4, v + 12);
  put_pair(word >> 2, v + 5, v + 13);
  put_pair(word >> 4, v + 6, v + 14);
  put_pair(word >> 6, v + 7, v + 15);
}
"""

_ROWS = """
METAL_FUNC float finish_run(const thread Run& run, float2 dots, float2 sums) {
  uint first = uint(run.nibbles.x);
  uint second = uint(run.nibbles.y);
  float scaled = float(first & 15u) * (dots.x - sums.x) + float(second & 15u) * (dots.y - sums.y);
  float low = float(first >> 4) * sums.x + float(second >> 4) * sums.y;
  return 4.0f * float(run.d.x) * scaled - float(run.d.y) * low;
}
"""

_BLOCKS = """
#define PAIRED 8
#define PARTS 2
#define OFFSETS true

// What is behind the codes of pair i of 16 weights, negative: see `pairs_of`.
template <bool HALF> METAL_FUNC uint offset_pair(int i) {
  return HALF ? (i % 3 == 0 ? 0xd400d400u : i % 3 == 1 ? 0xcc00cc00u : 0xc400c400u)
              : (i % 3 == 0 ? 0xc280c280u : i % 3 == 1 ? 0xc180c180u : 0xc080c080u);
}

// Weights j and j + 8 of 16 as 64, 16 or 4 and the code: three codes lie in the mantissas of such numbers at once.
template <bool HALF>
METAL_FUNC void pairs_of(const thread Run& run, const threadgroup uint* table, thread uint* words) {
  constexpr int FIRST = HALF ? 4 : 1;
  #pragma unroll
  for (int i = 0; i < 16; i++) {
    uint word = i < 8 ? run.codes.x : run.codes.y;
    int j = i % 8;
    int right = 2 * (j - j % 3) - FIRST;
    uint shifted = right < 0 ? word << (-right & 31) : word >> (right & 31);
    words[i] = (shifted & (0x00030003u << (FIRST + 2 * (j % 3)))) | (offset_pair<HALF>(j) & 0x7fff7fffu);
  }
}

METAL_FUNC uint scale_bits(const thread Run& run) { return uint(run.nibbles.x) | (uint(run.nibbles.y) << 8); }

METAL_FUNC float nibble(uint bits, int i) { return small_float((bits >> (4 * i)) & 15u); }

METAL_FUNC float finish_block(
    const thread Run& run, uint left, uint right, const thread float2* dots, const thread float (*offsets)[4]) {
  float scaled = 0.0f;
  float low = 0.0f;
  #pragma unroll
  for (int part = 0; part < 2; part++) {
    scaled += nibble(left, 2 * part) * (dots[part].x + offsets[part][0]);
    scaled += nibble(right, 2 * part) * (dots[part].y + offsets[part][1]);
    low += nibble(left, 2 * part + 1) * offsets[part][2] + nibble(right, 2 * part + 1) * offsets[part][3];
  }
  return float(run.d.x) * scaled - float(run.d.y) * low;
}
"""

_TILES = """
#define APART 8

// per 16 weights: `scale` and `low`, so that a weight is scale * code - low
METAL_FUNC float2 scale_of(const thread Run& run) {
  return float2(float(run.d.x) * float(uint(run.nibbles.x) & 15u), float(run.d.x) * float(uint(run.nibbles.y) & 15u));
}

METAL_FUNC float2 low_of(const thread Run& run) {
  return float2(float(run.d.y) * float(uint(run.nibbles.x) >> 4), float(run.d.y) * float(uint(run.nibbles.y) >> 4));
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

TEXT = RunText("q2_k", _HEADER, _ROWS, _TILES, blocks=_BLOCKS)
