"""Inputs for trying out the kernels of hyper-connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mlx.core as mx
import numpy as np

from ds4_mlx.kernels.dense_samples import DTYPES, random_floats, random_matrix
from ds4_mlx.kernels.stream_twins import enter_twin, site_sums_twin

STREAMS = 4
_SIZES = (1, 320), (8, 328)  # tokens and channels


def site_sums_inputs(dtype: mx.Dtype, tokens: int, width: int, *, rows: int | None = None) -> list[mx.array]:
    """Inputs of `SITE_SUMS`; a site in a block has 24 rows."""
    rng = np.random.default_rng([tokens, width])
    n = STREAMS
    h = random_floats(rng, tokens, n, width, dtype=dtype)
    return [h, random_floats(rng, rows or (2 + n) * n, n * width) * (n * width) ** -0.5]


def enter_inputs(dtype: mx.Dtype, tokens: int, width: int) -> list[mx.array]:
    """Inputs of `enter_kernel`."""
    h, fn = site_sums_inputs(dtype, tokens, width)
    return [h, *site_sums_twin(h, fn), *_site(3, fn.shape[0], width)]


def leave_inputs(dtype: mx.Dtype, tokens: int, width: int) -> list[mx.array]:
    """Inputs of `LEAVE`."""
    h, fn = site_sums_inputs(dtype, tokens, width, rows=STREAMS)
    return [h, *site_sums_twin(h, fn), *_site(1, STREAMS, width)]


def dense_return_inputs(storage: str, dtype: mx.Dtype, tokens: int, width: int, inner: int) -> list[mx.array]:
    """Inputs of `dense_return_kernel(storage)` for a matrix [width, inner]."""
    rng = np.random.default_rng([tokens, width, inner])
    h, *rest = enter_inputs(dtype, tokens, width)
    _, fn = site_sums_inputs(dtype, tokens, width)
    _, mix = enter_twin(20, h, *rest)
    u = random_floats(rng, tokens, inner, dtype=dtype)
    return [u, h, mix, fn, *random_matrix(rng, storage, width, inner)]


def _site(scales: int, rows: int, width: int) -> list[mx.array]:
    rng = np.random.default_rng([scales, rows, width])
    norm = random_floats(rng, width, dtype=mx.bfloat16)
    return [random_floats(rng, rows), random_floats(rng, scales), norm, mx.array(1e-6), mx.array(1e-5)]


def site_sums_samples() -> Iterator[list[mx.array]]:
    """One token and several, of all dtypes."""
    for dtype in DTYPES:
        for tokens, width in _SIZES:
            yield site_sums_inputs(dtype, tokens, width)


def enter_samples() -> Iterator[list[mx.array]]:
    """One token and several, of all dtypes."""
    for dtype in DTYPES:
        for tokens, width in (*_SIZES, (1, 4608)):
            yield enter_inputs(dtype, tokens, width)


def many_return_inputs(dtype: mx.Dtype, tokens: int, width: int) -> list[mx.array]:
    """Inputs of `MANY_RETURN`."""
    rng = np.random.default_rng([tokens, width, 1])
    h, *rest = enter_inputs(dtype, tokens, width)
    return [random_floats(rng, tokens, width, dtype=dtype), h, enter_twin(20, h, *rest)[1]]


def many_expert_return_inputs(dtype: mx.Dtype, tokens: int, width: int, *, slots: int = 3) -> list[mx.array]:
    """Inputs of `MANY_EXPERT_RETURN`."""
    rng = np.random.default_rng([tokens, width, slots])
    return [
        random_floats(rng, tokens * slots, width, dtype=dtype),
        *many_return_inputs(dtype, tokens, width),
    ]


def _of_many(make: Callable[[mx.Dtype, int, int], list[mx.array]]) -> Iterator[list[mx.array]]:
    for dtype in DTYPES:
        for tokens, width in ((9, 4096), (37, 328)):
            yield make(dtype, tokens, width)


def many_sums_samples() -> Iterator[list[mx.array]]:
    """The released width and an uneven one, of all dtypes."""
    return _of_many(site_sums_inputs)


def many_return_samples() -> Iterator[list[mx.array]]:
    """The same."""
    return _of_many(many_return_inputs)


def many_expert_return_samples() -> Iterator[list[mx.array]]:
    """The same."""
    return _of_many(many_expert_return_inputs)


def leave_samples() -> Iterator[list[mx.array]]:
    """One token and several, of all dtypes."""
    for dtype in DTYPES:
        for tokens, width in _SIZES:
            yield leave_inputs(dtype, tokens, width)


def dense_return_samples(storage: str) -> Iterator[list[mx.array]]:
    """One token and several, of all dtypes."""
    for dtype in DTYPES:
        for tokens, width in _SIZES:
            yield dense_return_inputs(storage, dtype, tokens, width, 544)
