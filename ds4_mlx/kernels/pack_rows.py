"""Rows to what the cache stores: rounding, codes and exponents in one pass. `ds4_mlx.quant.rows` is the definition.

A simdgroup takes 64 neighbouring channels, two a lane: one block of a K=V row, or two of an index row. `ENCODE` is for
every kernel that rounds rows itself.
"""

from __future__ import annotations

from functools import cache, partial

import mlx.core as mx

from ds4_mlx.kernels import row_samples as samples
from ds4_mlx.kernels.kernel import Kernel, Launch
from ds4_mlx.kernels.metal_on_cuda import KernelText
from ds4_mlx.quant import rows as definition
from ds4_mlx.quant.rows import PackedIndex, PackedKV
from ds4_mlx.quant.simulate import INDEX_BLOCK, KV_BLOCK

_SIMDGROUPS = 8  # per threadgroup

# Magnitudes are compared by their bits, which have the order of the numbers, infinity and NaN above them all.
ENCODE = """
METAL_FUNC uint magnitude_bits(float x) { return as_type<uint>(x) & 0x7fffffffu; }

// The biased exponent of the smallest power of two s with amax <= largest code * s, but at least `least`: that of the
// least amax the definition counts.
METAL_FUNC uint block_exponent(uint amax_bits, float inverse_of_largest, uint least) {
  if (amax_bits >= 0x7f800000u) { return 255u; }
  uint bits = as_type<uint>(as_type<float>(amax_bits) * inverse_of_largest);
  return metal::max((bits >> 23) + ((bits & 0x7fffffu) != 0u ? 1u : 0u), least);
}

// x / 2^(exponent - 127), rounded to `mantissa` fraction bits, ties to even: the code without its sign. Numbers below
// 2^lowest have its step. Rounding up to the next power of two carries into the code's exponent, as it should.
METAL_FUNC uint magnitude_code(float x, uint exponent, int lowest, int mantissa) {
  if (exponent == 255u) { return 0u; }
  float a = metal::abs(x) * as_type<float>((254u - exponent) << 23);
  int power = metal::max(int(as_type<uint>(a) >> 23) - 127, lowest);
  float steps = a * as_type<float>(uint(127 + mantissa - power) << 23);
  return (uint(power - lowest) << mantissa) + uint(metal::rint(steps));
}

METAL_FUNC uint e4m3_code(float x, uint exponent) {
  uint negative = exponent == 255u ? 0u : as_type<uint>(x) >> 31;
  return magnitude_code(x, exponent, -6, 3) | (negative << 7);
}

METAL_FUNC uint e2m1_code(float x, uint exponent) {
  uint negative = exponent == 255u ? 0u : as_type<uint>(x) >> 31;
  return magnitude_code(x, exponent, 0, 1) | (negative << 3);
}
"""

_PACK_KV = """
    constexpr uint BLOCKS = NOPE / 64;
    uint lane = thread_index_in_simdgroup;
    uint number = threadgroup_position_in_grid.x * SIMDGROUPS + simdgroup_index_in_threadgroup;
    uint row = number / (BLOCKS + 1);
    uint block = number % (BLOCKS + 1);  // the one after the last is the tail
    if (row < uint(rows_shape[0])) {
      size_t first = size_t(row) * WIDTH + 64 * block;
      if (block < BLOCKS) {
        float a = float(rows[first + 2 * lane]);
        float b = float(rows[first + 2 * lane + 1]);
        uint amax = simd_max(metal::max(magnitude_bits(a), magnitude_bits(b)));
        uint exponent = block_exponent(amax, 1.0f / 448.0f, 105u);
        size_t to = size_t(row) * NOPE + 64 * block + 2 * lane;
        codes[to] = uchar(e4m3_code(a, exponent));
        codes[to + 1] = uchar(e4m3_code(b, exponent));
        if (lane == 0) { exponents[size_t(row) * BLOCKS + block] = uchar(exponent); }
      } else {
        constexpr uint TAIL = WIDTH - NOPE;
        for (uint i = lane; i < TAIL; i += 32) { tail[size_t(row) * TAIL + i] = rows[first + i]; }
      }
    }
"""

# Rows lie one after the other without a tail, so blocks are counted through. Lanes past the end take part in the
# exchange with zeros.
_PACK_INDEX = """
    uint lane = thread_index_in_simdgroup;
    size_t number = size_t(threadgroup_position_in_grid.x) * SIMDGROUPS + simdgroup_index_in_threadgroup;
    size_t i = 64 * number + 2 * lane;
    bool inside = i < size_t(rows_shape[0]) * WIDTH;
    float a = inside ? float(rows[i]) : 0.0f;
    float b = inside ? float(rows[i + 1]) : 0.0f;
    uint amax = metal::max(magnitude_bits(a), magnitude_bits(b));
    for (ushort distance = 1; distance < 16; distance *= 2) {
      amax = metal::max(amax, simd_shuffle_xor(amax, distance));
    }
    uint exponent = block_exponent(amax, 1.0f / 6.0f, 1u);
    if (inside) {
      codes[i / 2] = uchar(e2m1_code(a, exponent) | (e2m1_code(b, exponent) << 4));
      if (lane % 16 == 0) { exponents[i / 32] = uchar(exponent); }
    }
"""


def _grid(simdgroups: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Threads in all and in a threadgroup."""
    threads = 32 * _SIMDGROUPS
    return (threads * -(-simdgroups // _SIMDGROUPS), 1, 1), (threads, 1, 1)


def _launch_pack_kv(rows: mx.array, *, nope_dim: int) -> Launch:
    count, width = rows.shape
    blocks = nope_dim // KV_BLOCK
    return Launch(
        [("T", rows.dtype), ("WIDTH", width), ("NOPE", nope_dim), ("SIMDGROUPS", _SIMDGROUPS)],
        *_grid(count * (blocks + 1)),
        [(count, nope_dim), (count, blocks), (count, width - nope_dim)],
        [mx.uint8, mx.uint8, rows.dtype],
    )


def _launch_pack_index(rows: mx.array) -> Launch:
    count, width = rows.shape
    return Launch(
        [("T", rows.dtype), ("WIDTH", width), ("SIMDGROUPS", _SIMDGROUPS)],
        *_grid(-(-rows.size // 64)),
        [(count, width // 2), (count, width // INDEX_BLOCK)],
        [mx.uint8, mx.uint8],
    )


@cache
def pack_kv_kernel(nope_dim: int) -> Kernel:
    """rows [n, d] -> the arrays of a `PackedKV` with `nope_dim` codes a row."""
    return Kernel(
        KernelText("pack_kv", ("rows",), PackedKV._fields, _PACK_KV, ENCODE),
        lambda rows: list(definition.pack_kv(rows, nope_dim)),
        partial(_launch_pack_kv, nope_dim=nope_dim),
        samples.pack_kv_samples,
        exact=True,
    )


# rows [n, d] -> the arrays of a `PackedIndex`.
PACK_INDEX = Kernel(
    KernelText("pack_index", ("rows",), PackedIndex._fields, _PACK_INDEX, ENCODE),
    lambda rows: list(definition.pack_index(rows)),
    _launch_pack_index,
    samples.pack_index_samples,
    exact=True,
)


def pack_kv(rows: mx.array, nope_dim: int) -> PackedKV:
    """K=V rows [n, d], rounded or not, as the cache stores them."""
    if rows.shape[0] == 0:  # nothing to launch
        return definition.pack_kv(rows, nope_dim)
    return PackedKV(*pack_kv_kernel(nope_dim)(rows))


def pack_index(rows: mx.array) -> PackedIndex:
    """Rotated index rows [n, d], rounded or not, as the cache stores them."""
    if rows.shape[0] == 0:
        return definition.pack_index(rows)
    return PackedIndex(*PACK_INDEX(rows))
