"""Metal's functions of one thread, against numpy."""

import mlx.core as mx
import numpy as np
import pytest

from mslemu import metal_kernel

FLOATS = np.array([-2.5, -1.0, -0.3, 0.0, 0.25, 0.5, 1.0, 1.5, 2.5, 7.0], np.float32)
WORDS = np.array([0, 1, 2, 0x80000000, 0xFFFFFFFF, 0x12345678, 255, 256], np.uint32)


def evaluate(expressions: list[str], inputs: dict[str, np.ndarray | mx.array], dtype: mx.Dtype) -> np.ndarray:
    """One row per expression, of the values for x[i], y[i], ..."""
    n = len(next(iter(inputs.values())))
    arguments = " ".join(f"auto {name} = {name}s[i];" for name in inputs)
    body = "\n".join(f"o[{n * row} + i] = {expression};" for row, expression in enumerate(expressions))
    (output,) = metal_kernel(
        "library", [f"{name}s" for name in inputs], ["o"], f"uint i = thread_position_in_grid.x; {arguments}\n{body}"
    )(
        inputs=list(inputs.values()),
        output_shapes=[(len(expressions), n)],
        output_dtypes=[dtype],
        grid=(n, 1, 1),
        threadgroup=(32, 1, 1),
    )
    return np.array(output)


FLOAT_FUNCTIONS = {
    "exp(x)": np.exp(FLOATS),
    "metal::fast::exp2(x)": np.exp2(FLOATS),
    "exp10(x)": 10**FLOATS,
    "log(fabs(x) + 1.0f)": np.log1p(np.abs(FLOATS)),
    "precise::log2(abs(x) + 1.0f)": np.log2(np.abs(FLOATS) + 1),
    "log10(abs(x) + 1.0f)": np.log10(np.abs(FLOATS) + 1),
    "sqrt(abs(x))": np.sqrt(np.abs(FLOATS)),
    "metal::precise::rsqrt(abs(x) + 1.0f)": 1 / np.sqrt(np.abs(FLOATS) + 1),
    "sin(x)": np.sin(FLOATS),
    "cos(x)": np.cos(FLOATS),
    "tan(x)": np.tan(FLOATS),
    "sinh(x)": np.sinh(FLOATS),
    "cosh(x)": np.cosh(FLOATS),
    "tanh(x)": np.tanh(FLOATS),
    "asin(x / 8.0f)": np.arcsin(FLOATS / 8),
    "acos(x / 8.0f)": np.arccos(FLOATS / 8),
    "atan(x)": np.arctan(FLOATS),
    "atan2(x, 2.0f)": np.arctan2(FLOATS, 2),
    "pow(abs(x), 1.5f)": np.abs(FLOATS) ** 1.5,
    "powr(abs(x), 1.5f)": np.abs(FLOATS) ** 1.5,
    "fmod(x, 2.0f)": np.fmod(FLOATS, 2),
    "floor(x)": np.floor(FLOATS),
    "ceil(x)": np.ceil(FLOATS),
    "trunc(x)": np.trunc(FLOATS),
    "rint(x)": np.rint(FLOATS),
    "round(x)": np.copysign(np.floor(np.abs(FLOATS) + 0.5), FLOATS),
    "fract(x)": FLOATS - np.floor(FLOATS),
    "sign(x)": np.sign(FLOATS),
    "saturate(x)": np.clip(FLOATS, 0, 1),
    "copysign(3.0f, x)": np.copysign(3, FLOATS),
    "step(0.5f, x)": FLOATS >= 0.5,
    "fmin(x, NAN)": FLOATS,
    "fmax(x, 0.5f)": np.maximum(FLOATS, 0.5),
    "fma(x, 2.0f, 1.0f)": FLOATS * 2 + 1,
    "mix(x, 4.0f, 0.25f)": FLOATS + (4 - FLOATS) * 0.25,
    "ldexp(x, 3)": FLOATS * 8,
    "clamp(x, -1.0f, 1.0f)": np.clip(FLOATS, -1, 1),
    "min(x, 1.0f) + max(x, 1.0f)": FLOATS + 1,
    "select(x, 9.0f, x > 1.0f)": np.where(FLOATS > 1, 9, FLOATS),
    "float(isnan(x - INFINITY * 0.0f)) + float(isinf(x * INFINITY)) * 2.0f": np.where(FLOATS == 0, 1, 3),
    "float(isfinite(x))": np.ones_like(FLOATS),
    "dot(float3(x, 1.0f, 2.0f), float3(2.0f, x, 1.0f))": 3 * FLOATS + 2,
    "length(float2(x, 3.0f))": np.hypot(FLOATS, 3),
    "float(half(x)) + float(bfloat(x) - bfloat(x))": FLOATS.astype(np.float16).astype(np.float32),
}


def test_functions_of_floats():
    rows = evaluate(list(FLOAT_FUNCTIONS), {"x": FLOATS}, mx.float32)
    for row, (expression, expected) in zip(rows, FLOAT_FUNCTIONS.items(), strict=True):
        np.testing.assert_allclose(row, expected, rtol=3e-7, atol=1e-7, err_msg=expression)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=lambda d: str(d)[9:])
def test_small_floats_are_computed_in_float_and_rounded_once(dtype):
    x = mx.array(FLOATS).astype(dtype)
    rows = evaluate(["float(exp(x))", "float(max(x, x + x))", "float(fma(x, x, x))"], {"x": x}, mx.float32)
    wide = x.astype(mx.float32)
    doubled = (wide + wide).astype(dtype).astype(mx.float32)
    for row, expected in zip(rows, (mx.exp(wide), mx.maximum(wide, doubled), wide * wide + wide), strict=True):
        assert np.array_equal(row, np.array(expected.astype(dtype).astype(mx.float32)))


def bit_count(x: np.ndarray) -> list[int]:
    return [int(v).bit_count() for v in x]


WORD_FUNCTIONS = {
    "popcount(x)": bit_count(WORDS),
    "clz(x)": [32 - int(v).bit_length() for v in WORDS],
    "ctz(x)": [32 if v == 0 else (int(v) & -int(v)).bit_length() - 1 for v in WORDS],
    "uint(popcount(ulong(x) << 20))": bit_count(WORDS),
    "uint(clz(ulong(x)))": [64 - int(v).bit_length() for v in WORDS],
    "uint(ctz(ulong(x) << 30))": [64 if v == 0 else (int(v) & -int(v)).bit_length() + 29 for v in WORDS],
    "uint(popcount(char(x)))": bit_count(WORDS & 255),
    "uint(clz(ushort(x)))": [16 - int(v & 0xFFFF).bit_length() for v in WORDS],
    "extract_bits(x, 4u, 8u)": (WORDS >> 4) & 255,
    "uint(extract_bits(int(x), 4u, 8u))": ((WORDS >> 4) & 255).astype(np.int8).astype(np.int32).astype(np.uint32),
    "mulhi(x, 0x10000u)": WORDS >> 16,
    "rotate(x, 8u)": (WORDS << 8) | (WORDS >> 24),
    "as_type<uint>(as_type<float>(x))": WORDS,
    "uint(abs(int(x >> 8) - 100))": np.abs((WORDS >> 8).astype(np.int64) - 100),
    "max(x, 100u) - min(x, 100u)": np.abs(WORDS.astype(np.int64) - 100),
    "uint(numeric_limits<int>::max()) + x * 0u": np.full(8, 0x7FFFFFFF),
}


def test_functions_of_integers():
    rows = evaluate(list(WORD_FUNCTIONS), {"x": WORDS}, mx.uint32)
    for row, (expression, expected) in zip(rows, WORD_FUNCTIONS.items(), strict=True):
        assert row.tolist() == list(expected), expression


def test_vectors():
    expressions = {
        "(float4(x) + float4(1, 2, 3, 4)).w": FLOATS + 4,
        "(2.0f * float2(x, 1.0f) - 1.0f).y": np.ones_like(FLOATS),
        "float4(x, float2(5.0f, 6.0f), 7.0f).zyx.x": np.full_like(FLOATS, 6),
        "exp(half2(half(x), 0.0h)).y": np.ones_like(FLOATS),
        "float(any(float2(x, 1.0f) > 2.0f)) + float(all(float2(x) > -0.5f))": (FLOATS > 2) * 1.0 + (FLOATS > -0.5),
        "min(float3(x), 1.0f)[2]": np.minimum(FLOATS, 1),
        "float4(clamp(float4(x), 0.0f, 1.0f)).x": np.clip(FLOATS, 0, 1),
        "vec<float, 4>(packed_float4(float4(x))).z": FLOATS,
        "float(sizeof(float3) + sizeof(packed_float3))": np.full_like(FLOATS, 28),
        "float(as_type<uint>(half2(1.0h, 2.0h)) >> 16)": np.full_like(FLOATS, 0x4000),
        "select(float2(x), float2(9.0f), float2(x) > 1.0f).x": np.where(FLOATS > 1, 9, FLOATS),
    }
    rows = evaluate(list(expressions), {"x": FLOATS}, mx.float32)
    for row, (expression, expected) in zip(rows, expressions.items(), strict=True):
        np.testing.assert_array_equal(row, expected, err_msg=expression)


def test_atomics():
    source = """
        uint i = thread_position_in_grid.x;
        int n = x[i];
        atomic_fetch_add_explicit(&o[0], n, memory_order_relaxed);
        atomic_fetch_sub_explicit(&o[1], n, memory_order_relaxed);
        atomic_fetch_max_explicit(&o[2], n, memory_order_relaxed);
        atomic_fetch_min_explicit(&o[3], n, memory_order_relaxed);
        atomic_fetch_or_explicit(&o[4], 1 << i, memory_order_relaxed);
        atomic_fetch_and_explicit(&o[5], ~(1 << i), memory_order_relaxed);
        atomic_fetch_xor_explicit(&o[6], 1 << i, memory_order_relaxed);
        if (i == 3) { atomic_exchange_explicit(&o[7], n, memory_order_relaxed); }
        int expected = 5;
        atomic_compare_exchange_weak_explicit(&o[8], &expected, n, memory_order_relaxed, memory_order_relaxed);
    """
    x = np.array([4, -7, 9, 2, 0, 3, 1, 5], np.int32)
    (output,) = metal_kernel("atomics", ["x"], ["o"], source, atomic_outputs=True)(
        inputs=[x], output_shapes=[(9,)], output_dtypes=[mx.int32], grid=(8, 1, 1), threadgroup=(8, 1, 1), init_value=5
    )
    assert output.tolist() == [5 + 17, 5 - 17, 9, -7, 255, 0, 5 ^ 255, 2, 4]
