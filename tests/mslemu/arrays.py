"""MLX arrays as the bytes a kernel sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np


class HostArray(NamedTuple):
    """`content` begins at the first element; strides count elements, as MLX's do."""

    content: bytes
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def host_array(array: mx.array, row_contiguous: bool) -> HostArray:
    """The array's memory; copied into row order first if `row_contiguous`, as MLX does before a kernel.

    Raises ValueError for negative strides when they would have to stay.
    """
    # numpy has no bfloat16: its bits travel as uint16.
    stored = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
    values = np.asarray(stored)
    if row_contiguous and not values.flags.c_contiguous:
        values = np.ascontiguousarray(values)
    strides = tuple(s // values.itemsize for s in values.strides)
    if min(strides, default=0) < 0:
        raise ValueError("the emulator cannot pass an array with negative strides; use ensure_row_contiguous=True")
    if not values.flags.c_contiguous:
        span = 1 + sum((n - 1) * s for n, s in zip(values.shape, strides, strict=True))
        values = np.lib.stride_tricks.as_strided(values, (span,), (values.itemsize,))
    return HostArray(values.tobytes(), tuple(array.shape), strides)


def array_of(content: bytes, shape: Sequence[int], dtype: mx.Dtype) -> mx.array:
    """The other way: an array of its own, in row order."""
    stored = mx.array(np.frombuffer(content, np.uint8))
    return stored.view(dtype).reshape(tuple(shape)) if content else mx.zeros(tuple(shape), dtype)
