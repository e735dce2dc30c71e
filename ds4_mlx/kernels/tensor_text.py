"""Metal text for products of larger blocks than 8 x 8, which NVIDIA's tensor cores multiply in one instruction.

Where the text runs on NVIDIA, `TENSOR_CORES` is defined and `metal_on_cuda/headers/cuda/tensor.h` brings the same
functions, for halves in instructions of their own.
"""

from __future__ import annotations

TENSORS = """
#ifndef TENSOR_CORES
// Two halves in a word, and two such words multiplied.
METAL_FUNC uint half_pair(float low, float high) { return as_type<uint>(half2(half(low), half(high))); }

METAL_FUNC uint multiply_pairs(uint a, uint b) { return as_type<uint>(as_type<half2>(a) * as_type<half2>(b)); }

// 16 rows of 32 columns; 8 rows of 32 columns, turned over.
template <typename H> struct Left32 { simdgroup_matrix<H, 8, 8> parts[8]; };
template <typename H> struct Right32 { simdgroup_matrix<H, 8, 8> parts[4]; };

template <typename H>
METAL_FUNC void load_left(thread Left32<H>& m, const threadgroup H* p, uint stride) {
  #pragma unroll
  for (uint i = 0; i < 8; i++) { simdgroup_load(m.parts[i], p + i % 2 * 8 * stride + i / 2 * 8, stride); }
}

template <typename H>
METAL_FUNC void load_right(thread Right32<H>& m, const threadgroup H* p, uint stride) {
  #pragma unroll
  for (uint i = 0; i < 4; i++) { simdgroup_load(m.parts[i], p + 8 * i, stride, ulong2(0), true); }
}

// upper and lower 8 rows of the sums += left * right
template <typename H>
METAL_FUNC void multiply_32(
    thread simdgroup_matrix<float, 8, 8>& upper, thread simdgroup_matrix<float, 8, 8>& lower,
    const thread Left32<H>& left, const thread Right32<H>& right) {
  #pragma unroll
  for (uint i = 0; i < 4; i++) {
    simdgroup_multiply_accumulate(upper, left.parts[2 * i], right.parts[i], upper);
    simdgroup_multiply_accumulate(lower, left.parts[2 * i + 1], right.parts[i], lower);
  }
}
#endif
"""

# The same for sums over few rows of the right operand, which lie as they come and are not turned over.
TENSOR_SUMS = """
#ifndef TENSOR_CORES
// 16 rows of K columns; K rows of 16 columns.
template <typename H, int K> struct Shares { simdgroup_matrix<H, 8, 8> parts[K / 4]; };
template <typename H, int K> struct Values { simdgroup_matrix<H, 8, 8> parts[K / 4]; };

template <typename H, int K>
METAL_FUNC void load_shares(thread Shares<H, K>& m, const threadgroup H* p, uint stride) {
  #pragma unroll
  for (uint i = 0; i < K / 4; i++) { simdgroup_load(m.parts[i], p + i % 2 * 8 * stride + i / 2 * 8, stride); }
}

template <typename H, int K>
METAL_FUNC void load_values(thread Values<H, K>& m, const threadgroup H* p, uint stride) {
  #pragma unroll
  for (uint i = 0; i < K / 4; i++) { simdgroup_load(m.parts[i], p + i / 2 * 8 * stride + i % 2 * 8, stride); }
}

// sums[2 * (eight columns) + (eight rows)] += shares * values
template <typename H, int K>
METAL_FUNC void add_shares(
    thread simdgroup_matrix<float, 8, 8>* sums, const thread Shares<H, K>& shares, const thread Values<H, K>& values) {
  #pragma unroll
  for (uint k = 0; k < K / 8; k++) {
    #pragma unroll
    for (uint i = 0; i < 4; i++) {
      simdgroup_multiply_accumulate(sums[i], shares.parts[2 * k + i % 2], values.parts[2 * k + i / 2], sums[i]);
    }
  }
}
#endif
"""
