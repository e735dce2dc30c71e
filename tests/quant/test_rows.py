"""Packed rows hold exactly what the simulation of quantisation gives."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from ds4_mlx.quant.rows import (
    NOT_FINITE,
    PackedIndex,
    PackedKV,
    pack_index,
    pack_kv,
    unpack_index,
    unpack_kv,
)
from ds4_mlx.quant.simulate import rotate_and_simulate_index, simulate_kv

from support import Golden

DTYPES = [mx.float32, mx.bfloat16]


def wild_rows(count: int, width: int, dtype: mx.Dtype, *, smallest: int, largest: int) -> mx.array:
    """Rows of sizes 2^smallest to 2^largest, their blocks of 32 within 2^6 of that; many ties, zeros of both signs."""
    rng = np.random.default_rng([count, width])
    blocks = count, width // 32, 32
    x = np.where(rng.random(blocks) < 0.5, rng.standard_normal(blocks), rng.integers(-32, 33, blocks) / 16)
    sizes = rng.integers(smallest, largest + 1, (count, 1, 1)) + rng.integers(-6, 7, (*blocks[:2], 1))
    x = np.clip(x, -2, 2) * np.exp2(sizes)
    x[rng.random(blocks) < 0.05] *= 0
    return mx.array(x.reshape(count, width).astype(np.float32)).astype(dtype)


def bits(x: mx.array) -> np.ndarray:
    return np.array(x.view(mx.uint32 if x.dtype == mx.float32 else mx.uint16))


def assert_same_bits(found: mx.array, expected: mx.array) -> None:
    assert found.dtype == expected.dtype
    assert np.array_equal(bits(found), bits(expected))


def assert_equal(found: tuple[mx.array, ...], expected: tuple[mx.array, ...]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert mx.array_equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
class TestKV:
    @pytest.mark.parametrize(("width", "nope"), [(512, 448), (128, 64)], ids=["released", "tiny"])
    def test_unpacked_is_simulated(self, dtype: mx.Dtype, width: int, nope: int) -> None:
        rows = wild_rows(2000, width, dtype, smallest=-134, largest=119)
        packed = pack_kv(rows, nope)
        assert [a.shape[1] for a in packed] == [nope, nope // 64, width - nope]
        assert_same_bits(unpack_kv(packed), simulate_kv(rows, nope))

    def test_packing_what_was_rounded_changes_no_value(self, dtype: mx.Dtype) -> None:
        rounded = simulate_kv(wild_rows(2000, 128, dtype, smallest=-134, largest=119), 64)
        again = pack_kv(rounded, 64)
        assert_same_bits(unpack_kv(again), rounded)
        assert_equal(pack_kv(unpack_kv(again), 64), again)

    def test_every_code_survives(self, dtype: mx.Dtype) -> None:
        legal = [code for code in range(256) if code & 0x7F != 0x7F]
        codes = mx.array([[code, *([0x7E] * 63)] for code in legal], dtype=mx.uint8)  # 448 fixes the scale
        exponents = mx.array([105 + i % 140 for i in range(len(legal))], dtype=mx.uint8)[:, None]
        packed = PackedKV(codes, exponents, mx.zeros((len(legal), 64), dtype=dtype))
        assert_equal(pack_kv(unpack_kv(packed), 64), packed)

    def test_scales_at_the_edges(self, dtype: mx.Dtype) -> None:
        # Largest values at, just below and just above 448 * 2^k, and around the floor of 1e-4.
        edges = [448 * 2.0**k * near for k in (-30, -22, -21, 0, 5, 100) for near in (1 - 2**-8, 1, 1 + 2**-7)]
        rows = mx.array([[edge, -edge / 3, *([edge * 2.0**-12] * 62), *([0.1] * 64)] for edge in [*edges, 1e-4]])
        rows = rows.astype(dtype)
        assert_same_bits(unpack_kv(pack_kv(rows, 64)), simulate_kv(rows, 64))

    def test_zeros_keep_their_sign(self, dtype: mx.Dtype) -> None:
        rows = mx.array([[0.0, -0.0, -1e-30, 1e-30] * 32], dtype=dtype)
        found = unpack_kv(pack_kv(rows, 64))
        assert_same_bits(found, simulate_kv(rows, 64))
        assert np.signbit(np.array(found[0, :4].astype(mx.float32))).tolist() == [False, True, True, False]

    def test_a_block_that_is_not_finite_unpacks_to_nan_and_the_others_stay(self, dtype: mx.Dtype) -> None:
        good = wild_rows(4, 512, dtype, smallest=-3, largest=3)
        bad = mx.array(good)
        for row, value in enumerate([mx.nan, mx.inf, -mx.inf, mx.nan]):
            bad[row, 70 + 64 * row] = value
        packed, found = pack_kv(bad, 448), unpack_kv(pack_kv(bad, 448))
        expected = unpack_kv(pack_kv(good, 448))
        for row in range(4):
            block = slice(64 * (row + 1), 64 * (row + 2))
            assert packed.exponents[row, row + 1] == NOT_FINITE
            assert mx.isnan(found[row, block]).all()
            expected[row, block] = 0
            found[row, block] = 0
        assert_same_bits(found, expected)
        again = pack_kv(unpack_kv(packed), 448)
        assert mx.array_equal(again.exponents == NOT_FINITE, packed.exponents == NOT_FINITE)

    def test_codes_that_are_never_made(self, dtype: mx.Dtype) -> None:
        rows = wild_rows(2000, 64 + 64, dtype, smallest=-134, largest=119)
        assert not ((pack_kv(rows, 64).codes & 0x7F) == 0x7F).any()
        codes = mx.array([[0x7F, 0xFF] * 32], dtype=mx.uint8)
        unpacked = unpack_kv(PackedKV(codes, mx.full((1, 1), 127, dtype=mx.uint8), mx.zeros((1, 64), dtype=dtype)))
        assert mx.isnan(unpacked[:, :64]).all()

    def test_bytes_of_zero_are_rows_of_zero(self, dtype: mx.Dtype) -> None:
        packed = PackedKV(mx.zeros((2, 64), mx.uint8), mx.zeros((2, 1), mx.uint8), mx.zeros((2, 64), dtype))
        assert_same_bits(unpack_kv(packed), mx.zeros((2, 128), dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
class TestIndex:
    @pytest.mark.parametrize("width", [32, 128])
    def test_unpacked_is_simulated(self, dtype: mx.Dtype, width: int) -> None:
        rows = wild_rows(4000, width, dtype, smallest=-104, largest=100)
        rotated = mx.hadamard_transform(rows.astype(mx.float32), scale=width**-0.5).astype(dtype)
        # The simulation drops the sign of a zero that was there before rounding.
        rotated = mx.where(rotated == 0, mx.zeros_like(rotated), rotated)
        packed = pack_index(rotated)
        assert [a.shape[1] for a in packed] == [width // 2, width // 32]
        assert_same_bits(unpack_index(packed, dtype), rotate_and_simulate_index(rows))

    def test_packing_what_was_rounded_changes_no_value(self, dtype: mx.Dtype) -> None:
        rounded = rotate_and_simulate_index(wild_rows(4000, 64, dtype, smallest=-104, largest=100))
        assert np.signbit(np.array(rounded.astype(mx.float32)))[np.array(rounded == 0)].any()
        again = pack_index(rounded)
        assert_same_bits(unpack_index(again, dtype), rounded)
        assert_equal(pack_index(unpack_index(again, dtype)), again)

    def test_every_pair_of_codes_survives(self, dtype: mx.Dtype) -> None:
        codes = mx.array([[pair, *([0x77] * 15)] for pair in range(256)], dtype=mx.uint8)  # 6 fixes the scale
        exponents = mx.array([[1 + i % 252] for i in range(256)], dtype=mx.uint8)
        packed = PackedIndex(codes, exponents)
        assert_equal(pack_index(unpack_index(packed, dtype)), packed)

    def test_rows_are_mlx_s_mxfp4(self, dtype: mx.Dtype) -> None:
        packed = pack_index(wild_rows(500, 128, dtype, smallest=-20, largest=20))
        codes = packed.codes.view(mx.uint32)
        found = mx.dequantize(codes, packed.exponents, group_size=32, bits=4, mode="mxfp4", dtype=dtype)
        assert_same_bits(found, unpack_index(packed, dtype))

    def test_a_block_that_is_not_finite_unpacks_to_nan(self, dtype: mx.Dtype) -> None:
        for value in (mx.nan, mx.inf, -mx.inf):
            packed = pack_index(mx.array([[1.0, value] + [2.0] * 62], dtype=dtype))
            found = unpack_index(packed, dtype)
            assert mx.isnan(found[:, :32]).all()
            assert (found[:, 32:] == 2).all()
            assert_equal(pack_index(found), packed)


def test_the_reference_s_rounding_is_what_rows_hold(golden: Golden) -> None:
    z = golden("kernels")
    fp8 = mx.array(z["fp8_in"])
    rows = mx.concatenate([fp8, mx.zeros((*fp8.shape[:-1], 64))], axis=-1)
    assert np.array_equal(np.array(unpack_kv(pack_kv(rows, fp8.shape[-1])))[..., :-64], z["fp8_block64_out"])
    assert np.array_equal(np.array(unpack_index(pack_index(mx.array(z["fp4_in"])), mx.float32)), z["fp4_block32_out"])
