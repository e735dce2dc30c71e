"""Metal text for products with blocks of 256 weights, of which four lanes share a row's.

A simdgroup has 8 rows and, of a row's block, lane t of four has the runs t and t + 4: so a row's codes are read as one
piece. Where the text runs on NVIDIA (`TENSOR_CORES`) and activations have 16 bits, tensor cores multiply: a lane's
weights are its part of the left operand (16 rows of 16 columns), where they stay apart from those of other lanes
because the right operand is zero but in a column for each of them. So a lane needs no more than to bring its codes into
the form of pairs, and scales, which differ from run to run, come after the products.
"""

from __future__ import annotations

_ANYWHERE = """
template <int COUNT> struct Block { Run first[COUNT]; Run second[COUNT]; };

// totals[r] += the lane's part of the product of row r. `from` is where the activations of its first run are.
template <typename T, int COUNT>
METAL_FUNC void add_block(
    const thread Block<COUNT>& codes, const threadgroup uint* table, const device T* from, uint lane,
    thread float* totals) {
  add_run<T, COUNT>(codes.first, table, from, totals);
  add_run<T, COUNT>(codes.second, table, from + 128, totals);
}

// The sum over the four lanes of a row.
METAL_FUNC float sum_of_four(float v) {
  v += simd_shuffle_xor(v, ushort(1));
  return v + simd_shuffle_xor(v, ushort(2));
}
"""

_ON_TENSOR_CORES = """
// uint below 2^23
METAL_FUNC float small_float(uint i) { return as_type<float>(i | 0x4b000000u) - 8388608.0f; }
PAIRS
template <bool HALF, int COUNT>
METAL_FUNC void add_block_by_tensors(
    const thread Block<COUNT>& codes, const threadgroup uint* table, const device uint4* from, uint lane,
    thread float* totals) {
  // Column c of the right operand is the run of lane t = c % 4, the first or (c >= 4) the second; lane 4 c + t has it.
  uint x[16];
  #pragma unroll
  for (int i = 0; i < 16; i++) { x[i] = 0; }
  if (lane / 4 % 4 == lane % 4) {
    uint words[16];
    #pragma unroll
    for (int i = 0; i < 4; i++) {
      uint4 four = from[lane / 16 * 16 + i];
      words[4 * i] = four.x;
      words[4 * i + 1] = four.y;
      words[4 * i + 2] = four.z;
      words[4 * i + 3] = four.w;
    }
    #pragma unroll
    for (int i = 0; i < 16; i++) {  // weights w and w + PAIRED are a pair
      int w = i / PAIRED * 2 * PAIRED + i % PAIRED;
      uint low = words[w / 2];
      uint high = words[(w + PAIRED) / 2];
      x[i] = w % 2 == 0 ? (low & 0xffffu) | (high << 16) : (low >> 16) | (high & 0xffff0000u);
    }
  }
  constexpr int STEPS = 8 / PARTS;  // parts of a run have scales of their own
  bool second = lane % 4 >= 2;
  float offsets[PARTS][4];
  #pragma unroll
  for (int part = 0; part < PARTS; part++) {
    #pragma unroll
    for (int i = 0; i < 4; i++) { offsets[part][i] = 0.0f; }
    if (OFFSETS) {
      #pragma unroll
      for (int i = 0; i < STEPS; i++) {
        uint one = HALF ? 0x3c003c00u : 0x3f803f80u;
        thread uint* to = x + 2 * (part * STEPS + i);
        uint left = offset_pair<HALF>(2 * i);
        uint right = offset_pair<HALF>(2 * i + 1);
        multiply_columns<HALF>(offsets[part], left, one, right, one, to[0], to[1]);
      }
    }
  }
  #pragma unroll
  for (int r = 0; r < COUNT; r += 2) {
    float dots[2][PARTS][4];
    #pragma unroll
    for (int run = 0; run < 2; run++) {
      uint upper[16];
      uint lower[16];
      pairs_of<HALF>(run == 0 ? codes.first[r] : codes.second[r], table, upper);
      pairs_of<HALF>(run == 0 ? codes.first[r + 1] : codes.second[r + 1], table, lower);
      #pragma unroll
      for (int part = 0; part < PARTS; part++) {
        #pragma unroll
        for (int i = 0; i < 4; i++) { dots[run][part][i] = 0.0f; }
        #pragma unroll
        for (int i = 0; i < STEPS; i++) {
          int at = 2 * (part * STEPS + i);
          multiply_columns<HALF>(
              dots[run][part], upper[at], lower[at], upper[at + 1], lower[at + 1], x[at], x[at + 1]);
        }
      }
    }
    // A lane's sums are now those of two neighbours' runs: of the first ones in lanes 0 and 1, else of the second.
    ushort from_lane = ushort((lane & 28u) | ((2 * lane) & 3u));
    #pragma unroll
    for (int row = 0; row < 2; row++) {
      uint mine = scale_bits(codes.first[r + row]) | (scale_bits(codes.second[r + row]) << 16);
      uint left = simd_shuffle(mine, from_lane);
      uint right = simd_shuffle(mine, ushort(from_lane + 1));
      left = second ? left >> 16 : left & 0xffffu;
      right = second ? right >> 16 : right & 0xffffu;
      float2 sums[PARTS];
      #pragma unroll
      for (int part = 0; part < PARTS; part++) {
        sums[part].x = second ? dots[1][part][2 * row] : dots[0][part][2 * row];
        sums[part].y = second ? dots[1][part][2 * row + 1] : dots[0][part][2 * row + 1];
      }
      totals[r + row] += finish_block(codes.first[r + row], left, right, sums, offsets);
    }
  }
}

template <int COUNT>
METAL_FUNC void add_block(
    const thread Block<COUNT>& codes, const threadgroup uint* table, const device half* from, uint lane,
    thread float* totals) {
  add_block_by_tensors<true, COUNT>(codes, table, (const device uint4*)from, lane, totals);
}

template <int COUNT>
METAL_FUNC void add_block(
    const thread Block<COUNT>& codes, const threadgroup uint* table, const device bfloat* from, uint lane,
    thread float* totals) {
  add_block_by_tensors<false, COUNT>(codes, table, (const device uint4*)from, lane, totals);
}
"""


def block_text(pairs: str) -> str:
    """The text for a format whose `RunText.blocks` is `pairs`."""
    return _ANYWHERE + "#ifdef TENSOR_CORES" + _ON_TENSOR_CORES.replace("PAIRS\n", pairs, 1) + "#endif\n"
