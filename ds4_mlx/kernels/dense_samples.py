"""Inputs for trying out the kernels of dense matrices: random codes, all of them legal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mlx.core as mx
import numpy as np

from ds4_mlx.kernels.dense_twins import FLOATS, Job
from ds4_mlx.quant.formats import FORMATS

DTYPES = (mx.float32, mx.bfloat16)  # what the model runs in


def random_floats(rng: np.random.Generator, *shape: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    """Normal numbers."""
    return mx.array(rng.standard_normal(shape).astype(np.float32)).astype(dtype)


def random_matrix(rng: np.random.Generator, storage: str, rows: int, width: int) -> list[mx.array]:
    """The arrays of a matrix whose products with normal numbers are of about unit size."""
    if storage in FLOATS:
        return [(random_floats(rng, rows, width) * width**-0.5).astype(FLOATS[storage])]
    arrays = []
    for part, (shape, _) in zip(
        FORMATS[storage].parts, FORMATS[storage].array_shapes((rows, width)).values(), strict=True
    ):
        if part.dtype == "F16":
            arrays.append(mx.array(rng.uniform(0.0005, 0.002, shape).astype(np.float16)))
        elif part.dtype == "U8":
            arrays.append(mx.array(rng.integers(114, 120, shape, dtype=np.uint8)))
        else:
            codes = rng.integers(0, 256, (*shape, 4), dtype=np.uint8)
            codes[codes & 127 == 127] = 3  # NaN in MXFP8
            arrays.append(mx.array(codes.view(np.uint32)[..., 0]))
    return arrays


def dense_inputs(
    jobs: Sequence[Job], groups: int, normed: bool, dtype: mx.Dtype, *, tokens: int, width: int, rows: Sequence[int]
) -> list[mx.array]:
    """Inputs of `dense_kernel(jobs, ...)` with as many rows of each job's matrices."""
    rng = np.random.default_rng([tokens, width, *rows])
    inputs = [random_floats(rng, tokens, groups * width, dtype=dtype)]
    if normed:
        inputs += [random_floats(rng, width, dtype=mx.bfloat16), mx.array(1e-6)]
    if any(job.result == "swiglu" for job in jobs):
        inputs.append(mx.array(1.5))
    for job, count in zip(jobs, rows, strict=True):
        for _ in range(job.matrices):
            inputs += random_matrix(rng, job.storage, count, width)
    return inputs


def dense_samples(jobs: Sequence[Job], groups: int, normed: bool) -> Iterator[list[mx.array]]:
    """One token and eight, of all dtypes."""
    rows = [8 * groups * (3 + number) for number in range(len(jobs))]
    for dtype in DTYPES:
        for tokens in (1, 8):
            yield dense_inputs(jobs, groups, normed, dtype, tokens=tokens, width=1088, rows=rows)
