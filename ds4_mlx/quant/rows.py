"""K=V and index rows as codes and exponents: what the rounding of spec 7.1 and 7.2 leaves of them, in plain mx ops.

Nothing is lost (spec 8): unpacking gives what `simulate_kv` makes of the row, or the FP4 round trip of a rotated index
row, bit for bit. Packing rounds, so it takes rows before and after rounding and unpacks to the same. The bytes may
differ: where rounding took a block's largest value down to half of the range, the rounded block has the next smaller
scale. Packing a third time changes nothing.

    K=V row    codes [n] e4m3    exponents [n / 64]    tail [r]: RoPE channels, not rounded, in the activations' dtype
    index row  codes [d / 2] e2m1, the even channel in the low bits    exponents [d / 32]

An exponent byte stands for 2^(byte - 127) (e8m0). At the released sizes a K=V row takes 448 + 7 + 128 = 583 bytes and
an index row 64 + 4 = 68.

Parts are arrays of their own, not one row of 583 bytes: 583 is odd, so the second row could only be read byte by byte,
and padding would cost what packing gained. Apart, every row of codes begins at a multiple of 64 bytes (448 = 7 * 64)
and every tail at one of 128, so kernels read both 16 bytes at a time, in whole cache lines. Only exponents are read as
bytes; those of a layer's 262,144 entries at 1 M tokens are 1.8 MB, little enough to stay in a GPU's cache. Index rows
are MLX's own mxfp4 layout: `codes.view(mx.uint32)` and `exponents` go into `mx.dequantize` as they are.

Special values:
- Negative zero stays, and negative values that round to zero become it. (The simulation of index rows gives the latter
  too, but loses the sign of what was zero before.)
- A block of 64 or 32 with an infinity or NaN gets the exponent 255 and codes 0, and unpacks to NaN throughout: damage
  stays visible. Tails keep theirs.
- Packing never makes the e4m3 codes 0x7F and 0xFF; they unpack to NaN. It never makes exponent 0; bytes of zero unpack
  to zeros.
- A block beyond 2^127 may round up to infinity, as in the simulation, and is NaN if packed again.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ds4_mlx.quant.simulate import E2M1_MAX, INDEX_BLOCK, KV_BLOCK, fp8_codes, power_of_two_scale, round_e2m1

NOT_FINITE = 255  # the exponent of a block that holds an infinity or NaN
SMALLEST_INDEX_SCALE = 2.0**-126  # the smallest that is a normal float (spec 7.2)

_E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


class PackedKV(NamedTuple):
    """Rows of n + r channels: codes uint8 [..., n], exponents uint8 [..., n / 64], tail [..., r]."""

    codes: mx.array
    exponents: mx.array
    tail: mx.array


class PackedIndex(NamedTuple):
    """Rows of d channels: codes uint8 [..., d / 2], exponents uint8 [..., d / 32]."""

    codes: mx.array
    exponents: mx.array


def pack_kv(rows: mx.array, nope_dim: int) -> PackedKV:
    """K=V rows [..., d], of which the first `nope_dim` channels are rounded."""
    nope = rows[..., :nope_dim]
    codes, scales = fp8_codes(nope, KV_BLOCK)
    finite = _finite_blocks(nope, KV_BLOCK)
    codes = mx.where(mx.repeat(finite, KV_BLOCK, axis=-1), codes, 0)
    return PackedKV(codes, _exponents(scales, finite), rows[..., nope_dim:])


def unpack_kv(packed: PackedKV) -> mx.array:
    """Rows [..., n + r] in the dtype of the tail."""
    values = mx.unflatten(mx.from_fp8(packed.codes, dtype=mx.float32), -1, (-1, KV_BLOCK))
    nope = (values * _scales(packed.exponents)[..., None]).flatten(-2)
    return mx.concatenate([nope.astype(packed.tail.dtype), packed.tail], axis=-1)


def pack_index(rows: mx.array) -> PackedIndex:
    """Index rows [..., d] after the Hadamard rotation."""
    blocks = mx.unflatten(rows.astype(mx.float32), -1, (-1, INDEX_BLOCK))
    amax = mx.maximum(mx.max(mx.abs(blocks), axis=-1), E2M1_MAX * SMALLEST_INDEX_SCALE)
    scales = power_of_two_scale(amax, E2M1_MAX)
    finite = _finite_blocks(rows, INDEX_BLOCK)
    m = round_e2m1(mx.abs(blocks) / scales[..., None])
    # The grid's steps are 1/2 up to 2, then 1, from 4 on 2: the code is the lowest of three lines.
    code = mx.minimum(mx.minimum(2 * m, m + 2), 0.5 * m + 4).astype(mx.uint8)
    negative = (blocks.view(mx.uint32) >> 31).astype(mx.uint8)
    code = mx.where(finite[..., None], code | negative << 3, 0).flatten(-2)  # [..., d]
    return PackedIndex(code[..., ::2] | code[..., 1::2] << 4, _exponents(scales, finite))


def unpack_index(packed: PackedIndex, dtype: mx.Dtype) -> mx.array:
    """Rows [..., d]."""
    values = mx.unflatten(_pairs()[packed.codes].view(mx.float32), -1, (-1, INDEX_BLOCK))
    return (values * _scales(packed.exponents)[..., None]).flatten(-2).astype(dtype)


@cache
def _pairs() -> mx.array:
    """For each byte the two float32 values of its codes, as one int64 [256]: half the look-ups."""
    grid = _E2M1 + [-value for value in _E2M1]
    pairs = np.array([[grid[byte & 15], grid[byte >> 4]] for byte in range(256)], dtype=np.float32)
    return mx.array(pairs.view(np.int64).flatten())


def _finite_blocks(x: mx.array, block: int) -> mx.array:
    """x [..., n] -> bool [..., n / block]."""
    return mx.isfinite(mx.unflatten(x, -1, (-1, block))).all(axis=-1)


def _exponents(scales: mx.array, finite: mx.array) -> mx.array:
    """Powers of two, float32, as exponent bytes."""
    return mx.where(finite, scales.view(mx.uint32) >> 23, NOT_FINITE).astype(mx.uint8)


def _scales(exponents: mx.array) -> mx.array:
    """Exponent bytes as float32. `NOT_FINITE` becomes infinity, which times its codes of zero is NaN."""
    return (exponents.astype(mx.uint32) << 23).view(mx.float32)
