"""What counts as the error of a kernel."""

import mlx.core as mx
import numpy as np
import pytest

from ds4_mlx.kernels.kernel import relative_error

_RNG = np.random.default_rng(0)
EXPECTED = _RNG.standard_normal((64, 256)).astype(np.float32)
LARGEST = np.unravel_index(np.abs(EXPECTED).argmax(), EXPECTED.shape)


def error_of(change: float, dtype: mx.Dtype) -> float:
    """The error where only the largest number is off, by `change` of itself."""
    found = EXPECTED.copy()
    found[LARGEST] *= 1 + change
    return relative_error([mx.array(found, dtype=dtype)], [mx.array(EXPECTED, dtype=dtype)])


def test_a_single_float32_number_counts_fully():
    assert error_of(1e-3, mx.float32) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_one_flipped_rounding_of_a_16_bit_number_counts_little(dtype):
    expected = mx.array(EXPECTED, dtype=dtype)
    steps = np.zeros(EXPECTED.shape, dtype=np.uint16)
    steps[LARGEST] = 1  # the next number of the format
    found = (expected.view(mx.uint16) + mx.array(steps)).view(dtype)
    assert 0 < relative_error([found], [expected]) < mx.finfo(dtype).eps / 20


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_a_16_bit_number_off_by_more_than_a_step_counts_fully(dtype):
    change = 8 * mx.finfo(dtype).eps
    assert error_of(change, dtype) == pytest.approx(change, rel=0.2)


def test_steps_everywhere_count():
    found = EXPECTED * np.float32(1 + 2**-7)
    assert relative_error([mx.array(found, dtype=mx.bfloat16)], [mx.array(EXPECTED, dtype=mx.bfloat16)]) > 2e-3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_a_number_is_infinitely_wrong(bad):
    assert error_of(bad, mx.bfloat16) == float("inf")


def test_another_shape_is_infinitely_wrong():
    assert relative_error([mx.zeros((2, 3))], [mx.zeros((3, 2))]) == float("inf")
