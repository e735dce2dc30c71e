"""Library, collectives and sample kernels on an NVIDIA GPU; collected only where MLX has one (conftest.py)."""

import mlx.core as mx
import numpy as np
import pytest

from ds4_mlx.kernels.metal_on_cuda import CudaKernel, cuda_kernel

from mslemu.sample_kernels import FLOATS, SAMPLES
from mslemu.test_collectives import EXPECTED as COLLECTIVES
from mslemu.test_collectives import VALUES
from mslemu.test_library import FLOAT_FUNCTIONS, WORD_FUNCTIONS, WORDS
from mslemu.test_library import FLOATS as NUMBERS

CASES = [(name, dtype) for name in SAMPLES for dtype in (FLOATS if name != "histogram" else FLOATS[:1])]


def rows_of(head: str, expressions: list[str], values: np.ndarray) -> np.ndarray:
    """One row per expression, of its values in 32 threads that have one of `values` each."""
    writes = "\n".join(f"o[{n * 32} + i] = {expression};" for n, expression in enumerate(expressions))
    x = mx.array(np.resize(values, 32))
    (output,) = cuda_kernel("rows", ["xs"], ["o"], f"uint i = thread_index_in_simdgroup; {head}\n{writes}")(
        inputs=[x],
        output_shapes=[(len(expressions), 32)],
        output_dtypes=[x.dtype],
        grid=(32, 1, 1),
        threadgroup=(32, 1, 1),
    )
    return np.array(output)


def test_functions_of_floats():
    rows = rows_of("float x = xs[i];", list(FLOAT_FUNCTIONS), NUMBERS)
    for row, (expression, expected) in zip(rows, FLOAT_FUNCTIONS.items(), strict=True):
        np.testing.assert_allclose(row, np.resize(expected, 32), rtol=3e-6, atol=1e-6, err_msg=expression)


def test_functions_of_integers():
    rows = rows_of("uint x = xs[i];", list(WORD_FUNCTIONS), WORDS)
    for row, (expression, expected) in zip(rows, WORD_FUNCTIONS.items(), strict=True):
        assert np.array_equal(row, np.resize(np.array(expected, np.uint32), 32)), expression


def test_collectives():
    rows = rows_of("uint lane = i; int v = xs[i];", list(COLLECTIVES), VALUES)
    for row, (expression, expected) in zip(rows, COLLECTIVES.items(), strict=True):
        assert np.array_equal(row, np.broadcast_to(expected, 32)), expression


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=[f"{n}-{str(d)[9:]}" for n, d in CASES])
def test_samples(name, dtype):
    sample = SAMPLES[name](dtype)
    (output,) = CudaKernel(sample.text)(**sample.call)
    assert sample.error_of(output) <= sample.tolerance
