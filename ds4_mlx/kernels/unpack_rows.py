"""What the cache stores back to rows, a channel per thread. `ds4_mlx.quant.rows` is the definition.

`DECODE` is for every kernel that reads packed rows.
"""

from __future__ import annotations

from functools import cache, partial

import mlx.core as mx

from ds4_mlx.kernels import row_samples as samples
from ds4_mlx.kernels.kernel import Kernel, Launch
from ds4_mlx.kernels.metal_on_cuda import KernelText
from ds4_mlx.quant import rows as definition
from ds4_mlx.quant.rows import PackedIndex, PackedKV

_THREADS = 256

# Codes become halves with the same fields: 2^8 (e4m3) and 2^14 (e2m1) too small, subnormal where the code is.
DECODE = """
METAL_FUNC float e4m3_value(uint code) {
  if ((code & 0x7fu) == 0x7fu) { return as_type<float>(0x7fc00000u); }
  return 256.0f * float(as_type<half>(ushort(((code & 0x7fu) << 7) | ((code & 0x80u) << 8))));
}

METAL_FUNC float e2m1_value(uint code) {
  return 16384.0f * float(as_type<half>(ushort(((code & 7u) << 9) | ((code & 8u) << 12))));
}

METAL_FUNC float block_scale(uint exponent) { return as_type<float>(exponent << 23); }
"""

_UNPACK_KV = """
    constexpr uint TAIL = WIDTH - NOPE;
    uint i = thread_position_in_grid.x;
    uint row = i / WIDTH;
    uint channel = i % WIDTH;
    if (row < uint(codes_shape[0])) {
      if (channel < NOPE) {
        float scale = block_scale(exponents[size_t(row) * (NOPE / 64) + channel / 64]);
        rows[i] = static_cast<T>(e4m3_value(codes[size_t(row) * NOPE + channel]) * scale);
      } else {
        rows[i] = tail[size_t(row) * TAIL + channel - NOPE];
      }
    }
"""

_UNPACK_INDEX = """
    uint i = thread_position_in_grid.x;
    if (i / WIDTH < uint(codes_shape[0])) {
      uint pair = codes[i / 2];
      rows[i] = static_cast<T>(e2m1_value(i % 2 == 0 ? pair & 15u : pair >> 4) * block_scale(exponents[i / 32]));
    }
"""


def _grid(channels: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Threads in all and in a threadgroup."""
    return (_THREADS * -(-channels // _THREADS), 1, 1), (_THREADS, 1, 1)


def _launch_unpack_kv(codes: mx.array, exponents: mx.array, tail: mx.array) -> Launch:
    count, nope_dim = codes.shape
    width = nope_dim + tail.shape[1]
    return Launch(
        [("T", tail.dtype), ("WIDTH", width), ("NOPE", nope_dim)],
        *_grid(count * width),
        [(count, width)],
        [tail.dtype],
    )


def _launch_unpack_index(codes: mx.array, exponents: mx.array, *, dtype: mx.Dtype) -> Launch:
    count, width = codes.shape[0], 2 * codes.shape[1]
    return Launch([("T", dtype), ("WIDTH", width)], *_grid(count * width), [(count, width)], [dtype])


# The arrays of a `PackedKV` -> rows [n, d] in the dtype of its tail.
UNPACK_KV = Kernel(
    KernelText("unpack_kv", PackedKV._fields, ("rows",), _UNPACK_KV, DECODE),
    lambda *arrays: [definition.unpack_kv(PackedKV(*arrays))],
    _launch_unpack_kv,
    samples.unpack_kv_samples,
    exact=True,
)


@cache
def unpack_index_kernel(dtype: mx.Dtype) -> Kernel:
    """The arrays of a `PackedIndex` -> rows [n, d] of `dtype`."""
    name = f"unpack_index_{str(dtype).rpartition('.')[-1]}"
    return Kernel(
        KernelText(name, PackedIndex._fields, ("rows",), _UNPACK_INDEX, DECODE),
        lambda *arrays: [definition.unpack_index(PackedIndex(*arrays), dtype)],
        partial(_launch_unpack_index, dtype=dtype),
        samples.unpack_index_samples,
        exact=True,
    )


def unpack_kv(packed: PackedKV) -> mx.array:
    """K=V rows [n, d] in the dtype of the tail."""
    if packed.codes.shape[0] == 0:  # nothing to launch
        return definition.unpack_kv(packed)
    return UNPACK_KV(*packed)[0]


def unpack_index(packed: PackedIndex, dtype: mx.Dtype) -> mx.array:
    """Rotated index rows [n, d]."""
    if packed.codes.shape[0] == 0:
        return definition.unpack_index(packed, dtype)
    return unpack_index_kernel(dtype)(*packed)[0]
