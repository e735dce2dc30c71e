"""half and bfloat round after every operation, bit for bit as numpy's float16 and a model of bfloat16 do."""

import mlx.core as mx
import numpy as np
import pytest

from mslemu import MODES, metal_kernel

N = 1 << 13
SOURCE = """
    uint i = thread_position_in_grid.x;
    T x = a[i], y = b[i], z = c[i];
    T sum = x * y + z;
    T difference = (x - y) * (y + z) - x;
    T quotient = x / y + z * x;
    o[3 * i] = sum;
    o[3 * i + 1] = difference;
    o[3 * i + 2] = quotient;
"""


def operands() -> list[np.ndarray]:
    """Three arrays of halfs over seven orders of magnitude, the second without zeros."""
    rng = np.random.default_rng(0)
    a, b, c = ((rng.standard_normal(N) * 10.0 ** rng.integers(-3, 3, N)).astype(np.float16) for _ in range(3))
    b[b == 0] = 1
    return [a, b, c]


def bfloat_bits(x: np.ndarray) -> np.ndarray:
    """float32 to bfloat16, to the nearest, ties to even; finite values."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def bfloat(x: np.ndarray) -> np.ndarray:
    """Rounded to bfloat16, as float32."""
    return (bfloat_bits(x).astype(np.uint32) << 16).view(np.float32)


def run(inputs: list[mx.array], dtype: mx.Dtype, mode: str) -> np.ndarray:
    (output,) = metal_kernel("rounding", ["a", "b", "c"], ["o"], SOURCE)(
        inputs=inputs,
        template=[("T", dtype)],
        grid=(N, 1, 1),
        threadgroup=(256, 1, 1),
        output_shapes=[(N, 3)],
        output_dtypes=[dtype],
        mode=mode,
    )
    return np.array(output.view(mx.uint16))


@pytest.mark.parametrize("mode", MODES)
def test_half(mode):
    a, b, c = operands()
    with np.errstate(all="ignore"):
        expected = np.stack([a * b + c, (a - b) * (b + c) - a, a / b + c * a], 1)
    finite = np.isfinite(expected)
    assert finite.mean() > 0.9
    got = run([mx.array(x) for x in (a, b, c)], mx.float16, mode)
    assert np.array_equal(got[finite], expected.view(np.uint16)[finite])


@pytest.mark.parametrize("mode", MODES)
def test_bfloat(mode):
    a, b, c = (bfloat(x.astype(np.float32)) for x in operands())
    expected = np.stack(
        [
            bfloat(a * b) + c,
            bfloat(bfloat(a - b) * bfloat(b + c)) - a,
            bfloat(a / b) + bfloat(c * a),
        ],
        1,
    )
    got = run([mx.array(x).astype(mx.bfloat16) for x in (a, b, c)], mx.bfloat16, mode)
    assert np.array_equal(got, bfloat_bits(expected))


def test_bfloat_from_float_rounds_ties_to_even_and_keeps_nan():
    values = np.array([1.00390625, 1.01171875, 3.4e38, np.inf, -np.inf, np.nan, -0.0, 1e-40], np.float32)
    (output,) = metal_kernel(
        "narrow", ["a"], ["o"], "o[thread_position_in_grid.x] = bfloat(a[thread_position_in_grid.x]);"
    )(
        inputs=[values],
        grid=(8, 1, 1),
        threadgroup=(8, 1, 1),
        output_shapes=[(8,)],
        output_dtypes=[mx.bfloat16],
    )
    assert np.array_equal(
        np.array(output.astype(mx.float32)),
        np.array(mx.array(values).astype(mx.bfloat16).astype(mx.float32)),
        equal_nan=True,
    )
