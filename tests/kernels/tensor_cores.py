"""What NVIDIA's tensor cores do for `block_text`, in Metal's words: so the emulator can run that text too."""

from __future__ import annotations

from dataclasses import replace

from ds4_mlx.kernels.kernel import Kernel

_TENSOR_CORES = """
#define TENSOR_CORES 1

METAL_FUNC uint permute_bytes(uint low, uint high, uint chosen) {
  uint bytes = 0;
  for (uint i = 0; i < 4; i++) {
    uint n = (chosen >> (4 * i)) & 7u;
    bytes |= (((n < 4 ? low : high) >> (8 * (n & 3u))) & 255u) << (8 * i);
  }
  return bytes;
}

template <bool HALF> METAL_FUNC float2 pair_of(uint word) {
  if (HALF) { return float2(as_type<half2>(word)); }
  return float2(as_type<float>(word << 16), as_type<float>(word & 0xffff0000u));
}

// Lane 4 g + t has columns 2 t, 2 t + 1, 2 t + 8 and 2 t + 9 of rows g and g + 8 and, of the right operand, the same
// rows of column g; of the sums, columns 2 t and 2 t + 1. NVIDIA's documentation of `mma.m16n8k16`.
template <bool HALF>
METAL_FUNC void multiply_columns(thread float* sums, uint a0, uint a1, uint a2, uint a3, uint b0, uint b1) {
  uint lane = metal::msl_lane();
  for (uint t = 0; t < 4; t++) {
    ushort from = ushort((lane & 28u) + t);
    float2 upper[2] = {pair_of<HALF>(simd_shuffle(a0, from)), pair_of<HALF>(simd_shuffle(a2, from))};
    float2 lower[2] = {pair_of<HALF>(simd_shuffle(a1, from)), pair_of<HALF>(simd_shuffle(a3, from))};
    for (uint c = 0; c < 2; c++) {
      ushort column = ushort(4 * ((2 * lane + c) & 7u) + t);
      float2 right[2] = {pair_of<HALF>(simd_shuffle(b0, column)), pair_of<HALF>(simd_shuffle(b1, column))};
      for (uint i = 0; i < 2; i++) {
        sums[c] += upper[i].x * right[i].x + upper[i].y * right[i].y;
        sums[2 + c] += lower[i].x * right[i].x + lower[i].y * right[i].y;
      }
    }
  }
}
"""


def with_tensor_cores(kernel: Kernel) -> Kernel:
    """The kernel as NVIDIA's GPUs run it, in Metal's words."""
    return replace(kernel, text=replace(kernel.text, header=_TENSOR_CORES + kernel.text.header))
