"""Weight formats decode as DeepSeek's tables say."""

import mlx.core as mx
import numpy as np
import pytest

from ds4_mlx.errors import UserError
from ds4_mlx.quant import get_format
from ds4_mlx.quant.formats import fp8_block_scales

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def e4m3(code: int) -> float:
    """One e4m3 code by the definition of the format."""
    sign, exponent, mantissa = -1.0 if code & 0x80 else 1.0, (code >> 3) & 15, code & 7
    return sign * (mantissa * 2.0**-9 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_mxfp4_decodes_every_code_exactly(dtype: mx.Dtype) -> None:
    codes = np.arange(256, dtype=np.uint8).reshape(4, 64)  # every pair of codes; low nibble first
    scales = np.array([[127, 130, 100, 127]] * 4, np.uint8)
    out = get_format("mxfp4").decode(mx.array(codes.view(np.uint32)), mx.array(scales), dtype=dtype)
    nibbles = np.stack([codes & 15, codes >> 4], -1).reshape(4, 128)
    expected = E2M1[nibbles] * np.repeat(2.0 ** (scales.astype(np.float32) - 127), 32, axis=1)
    assert np.array_equal(np.array(out.astype(mx.float32)), expected)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_mxfp8_decodes_every_finite_code_exactly(dtype: mx.Dtype) -> None:
    codes = np.array([c for c in range(256) if c & 0x7F != 0x7F] + [0, 0], np.uint8).reshape(2, 128)
    scales = np.array([[120, 127, 128, 135]] * 2, np.uint8)
    out = get_format("mxfp8").decode(mx.array(codes.view(np.uint32)), mx.array(scales), dtype=dtype)
    values = np.vectorize(e4m3)(codes).astype(np.float32)
    expected = values * np.repeat(2.0 ** (scales.astype(np.float32) - 127), 32, axis=1)
    assert np.array_equal(np.array(out.astype(mx.float32)), expected)


def test_square_block_scales_spread_to_rows_and_are_cropped_at_ragged_edges() -> None:
    spread = fp8_block_scales(np.array([[1, 2], [3, 4]], np.uint8), rows=130, width=160)
    assert spread.shape == (130, 5)
    assert spread[0].tolist() == [1, 1, 1, 1, 2]
    assert spread[127].tolist() == [1, 1, 1, 1, 2]
    assert spread[128].tolist() == [3, 3, 3, 3, 4]


def test_bits_per_weight_count_the_scales() -> None:
    assert get_format("mxfp4").bits_per_weight == 4.25
    assert get_format("mxfp8").bits_per_weight == 8.25


def test_an_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="mxfp4, mxfp8"):
        get_format("q9_z")


def test_a_width_that_no_block_fits_is_refused() -> None:
    with pytest.raises(UserError, match="multiple of 32"):
        get_format("mxfp4").array_shapes((4, 40))
