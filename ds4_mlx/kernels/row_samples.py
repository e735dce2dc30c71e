"""Rows for trying out the kernels that pack and unpack them."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import numpy as np

from ds4_mlx.quant.rows import pack_index, pack_kv

DTYPES = (mx.float32, mx.bfloat16)  # what the model runs in
NOPE, WIDTH, INDEX_WIDTH = 448, 512, 128  # the released sizes
ROWS = 37


def random_rows(count: int, width: int, dtype: mx.Dtype) -> mx.array:
    """Rows [count, width] whose blocks of 32 differ in size, some channels zero of either sign."""
    rng = np.random.default_rng([count, width])
    x = (
        rng.standard_normal((count, width))
        * np.exp2(rng.integers(-4, 5, (count, -(-width // 32)))).repeat(32, 1)[:, :width]
    )
    x[rng.random(x.shape) < 0.05] *= 0
    return mx.array(x.astype(np.float32)).astype(dtype)


def pack_kv_samples() -> Iterator[list[mx.array]]:
    """Rows of the released size."""
    for dtype in DTYPES:
        yield [random_rows(ROWS, WIDTH, dtype)]


def unpack_kv_samples() -> Iterator[list[mx.array]]:
    """Packed rows."""
    for (rows,) in pack_kv_samples():
        yield list(pack_kv(rows, NOPE))


def pack_index_samples() -> Iterator[list[mx.array]]:
    """Rows of the released size."""
    for dtype in DTYPES:
        yield [random_rows(ROWS, INDEX_WIDTH, dtype)]


def unpack_index_samples() -> Iterator[list[mx.array]]:
    """Packed rows."""
    yield list(pack_index(random_rows(ROWS, INDEX_WIDTH, mx.float32)))
