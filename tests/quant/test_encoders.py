"""The encoders of the 2-bit formats: how good they are, what they are given and refuse, and what they hand back."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from ds4_mlx.errors import UserError
from ds4_mlx.quant import get_format
from ds4_mlx.quant.encoders import blocks, encode

FORMATS = ["iq2_xxs", "q2_k"]
each_format = pytest.mark.parametrize("name", FORMATS)


def normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal(shape), dtype=mx.float32)


def lognormal(*shape: int, seed: int = 1) -> mx.array:
    return mx.exp(normal(*shape, seed=seed))


def quantised(name: str, weights: mx.array, importance: mx.array | None = None) -> mx.array:
    return get_format(name).decode(*encode(name, weights, importance).values())


def error(weights: mx.array, result: mx.array, importance: mx.array | float = 1.0) -> float:
    """Squared error beside the weights' own square, both weighted."""
    difference = mx.square(result - weights.astype(mx.float32))
    return float((importance * difference).sum() / (importance * mx.square(weights.astype(mx.float32))).sum())


def same(a: dict[str, mx.array], b: dict[str, mx.array]) -> bool:
    return a.keys() == b.keys() and all(mx.array_equal(a[part], b[part]) for part in a)


# ds4's quantiser has 0.1182 and 0.0718 here, 0.0884 and 0.0559 under lognormal importances (tests/oracles/README.md).
@pytest.mark.parametrize(("name", "bound"), [("iq2_xxs", 0.1125), ("q2_k", 0.0705)])
def test_the_error_on_normal_weights_is_below_that_of_ds4(name: str, bound: float) -> None:
    weights = normal(256, 1024)
    assert error(weights, quantised(name, weights, mx.ones(1024))) < bound
    assert error(weights, quantised(name, weights)) < bound


@pytest.mark.parametrize(("name", "bound"), [("iq2_xxs", 0.083), ("q2_k", 0.055)])
def test_importance_moves_the_error_to_the_columns_that_matter_less(name: str, bound: float) -> None:
    weights, importance = normal(128, 1024), lognormal(1024)
    told, untold = (error(weights, quantised(name, weights, i), importance) for i in (importance, mx.ones(1024)))
    assert told < bound
    assert told < 0.8 * untold


@pytest.mark.parametrize(("name", "bound"), [("iq2_xxs", 0.19), ("q2_k", 0.092)])
def test_heavy_tails_are_encoded_as_well_as_by_ds4(name: str, bound: float) -> None:
    weights = mx.array(np.random.default_rng(2).standard_t(4, (128, 1024)), dtype=mx.float32)
    assert error(weights, quantised(name, weights, mx.ones(1024))) < bound


@each_format
def test_blocks_keep_their_length(name: str) -> None:
    weights = normal(64, 256)
    lengths = [mx.sqrt(mx.square(a).sum(axis=-1)) for a in (weights, quantised(name, weights, mx.ones(256)))]
    assert float(mx.abs(lengths[1] / lengths[0] - 1).mean()) < 0.01


@each_format
def test_arrays_have_the_format_s_shapes_and_dtypes(name: str) -> None:
    fmt = get_format(name)
    dtypes = {"U8": mx.uint8, "U32": mx.uint32, "F16": mx.float16}
    for shape in [(1, 256), (3, 512), (2, 3, 256), (2, 1, 4, 512)]:
        found = {part: (a.shape, a.dtype) for part, a in encode(name, normal(*shape)).items()}
        assert found == {part: (s, dtypes[d]) for part, (s, d) in fmt.array_shapes(shape).items()}


@each_format
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_half_precision_weights_are_encoded_as_their_float32_values(name: str, dtype: mx.Dtype) -> None:
    weights = normal(8, 512).astype(dtype)
    assert same(encode(name, weights, mx.ones(512)), encode(name, weights.astype(mx.float32), mx.ones(512)))


@each_format
def test_codes_that_were_decoded_are_found_again(name: str) -> None:
    first = encode(name, normal(32, 512), mx.ones(512))
    values = get_format(name).decode(*first.values())
    second = encode(name, values, mx.ones(512))
    codes = next(iter(first))
    assert mx.array_equal(first[codes], second[codes])
    assert error(values, get_format(name).decode(*second.values())) < 1e-3


@each_format
def test_each_matrix_of_a_stack_is_encoded_with_its_own_importance(name: str) -> None:
    weights, importance = normal(3, 8, 512), lognormal(3, 512)
    together = encode(name, weights, importance)
    for e in range(3):
        assert same({part: a[e] for part, a in together.items()}, encode(name, weights[e], importance[e]))
    without = encode(name, weights)
    assert same({part: a[1] for part, a in without.items()}, encode(name, weights[1]))


@each_format
def test_an_importance_is_shared_by_the_axes_it_lacks(name: str) -> None:
    weights, importance = normal(2, 3, 4, 256), lognormal(256)
    assert same(encode(name, weights, importance), encode(name, weights, mx.broadcast_to(importance, (2, 3, 256))))
    importance = lognormal(2, 1, 256)
    assert same(encode(name, weights, importance), encode(name, weights, mx.repeat(importance, 3, axis=1)))


@each_format
def test_only_ratios_of_importances_count(name: str) -> None:
    weights, importance = normal(4, 512), lognormal(512)
    arrays = encode(name, weights, importance)
    for factor in (2.0**-100, 2.0**100):
        assert same(arrays, encode(name, weights, importance * factor))


@each_format
def test_a_matrix_is_encoded_alike_in_chunks_of_any_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, importance = normal(7, 768), lognormal(768)  # 21 blocks
    whole = encode(name, weights, importance)
    for chunk in (1, 5, 21):
        monkeypatch.setattr(blocks, "_CHUNK", chunk)
        assert same(whole, encode(name, weights, importance))


@each_format
def test_memory_does_not_grow_with_the_matrix(name: str) -> None:
    weights = mx.zeros((2048, 4096), dtype=mx.bfloat16)  # 32 chunks
    mx.eval(weights)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    encode(name, weights[:64], mx.ones(4096))
    few = mx.get_peak_memory() - before
    mx.reset_peak_memory()
    arrays = encode(name, weights, mx.ones(4096))
    assert mx.get_peak_memory() - before < few + 3 * sum(a.nbytes for a in arrays.values())
    assert few < 200e6


@each_format
def test_without_an_importance_a_column_counts_by_its_energy(name: str) -> None:
    weights = normal(16, 512) * lognormal(512)
    assert same(encode(name, weights), encode(name, weights, mx.square(weights).sum(axis=0)))


@each_format
def test_blocks_of_zeros_come_out_as_zeros(name: str) -> None:
    weights = mx.concatenate([normal(4, 256), mx.zeros((4, 256)), normal(4, 256)], axis=-1)
    for importance in (None, mx.ones(768), mx.zeros(768)):
        result = quantised(name, weights, importance)
        assert mx.array_equal(result[:, 256:512], mx.zeros((4, 256)))
        assert error(weights, result) < 0.13


@each_format
def test_columns_without_importance_are_still_rounded_well(name: str) -> None:
    weights = normal(64, 512)
    for importance in (mx.zeros(512), mx.arange(512) >= 300, mx.arange(512) == 511, mx.arange(512) % 3 == 0):
        result = quantised(name, weights, importance.astype(mx.float32))
        assert error(weights, result) < 0.2
        assert error(weights, result, importance) < 0.12 or not importance.any()


@each_format
@pytest.mark.parametrize("exponent", [-16, -10, 10, 16])
def test_the_scale_of_the_weights_makes_no_difference(name: str, exponent: int) -> None:
    weights, factor = normal(8, 256), 2.0**exponent
    expected, result = (error(weights * f, quantised(name, weights * f, mx.ones(256))) for f in (1, factor))
    assert result == pytest.approx(expected, rel=0.05)  # d has fewer bits at the lower end


@each_format
@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e-9])
def test_weights_too_small_for_the_format_become_zeros(name: str, size: float) -> None:
    assert mx.array_equal(quantised(name, normal(2, 256) * size), mx.zeros((2, 256)))


@each_format
def test_the_largest_weights_that_a_format_reaches_are_encoded_and_larger_ones_refused(name: str) -> None:
    weights = normal(2, 256)
    weights = weights / mx.abs(weights).max()
    largest = {"iq2_xxs": 1.09e7, "q2_k": 9.8e5}[name]
    assert error(weights, quantised(name, weights * largest) / largest) < 0.15
    with pytest.raises(UserError, match=rf"1e\+30 is too large for {name}, which reaches"):
        encode(name, weights * 1e30)


def test_iq2_xxs_turns_one_sign_of_each_group_that_has_an_odd_number_of_minuses() -> None:
    weights = normal(4, 256)
    qs, d = encode("iq2_xxs", weights, mx.ones(256)).values()
    result = np.array(get_format("iq2_xxs").decode(qs, d)).reshape(-1, 8)
    assert np.all((result < 0).sum(1) % 2 == 0)
    quotients = np.abs(result).max(1) / np.abs(result).min(1)
    assert set(np.round(quotients, 3)) <= {1, 3.125, 5.375, 1.72}  # of the magnitudes 8, 25 and 43
    kept = np.sign(result) == np.sign(np.array(weights).reshape(-1, 8))
    assert np.all(kept.sum(1) >= 7)
    assert kept.mean() == pytest.approx(15 / 16, abs=0.02)  # every other group has one turned


Bad = Callable[[mx.array], tuple[mx.array, mx.array | None]]
NAN, INF = float("nan"), float("inf")
BAD: dict[str, tuple[Bad, str]] = {
    "a width of part of a block": (lambda w: (w[:, :300], None), "multiple of 256, got 300"),
    "a vector": (lambda w: (w[0], None), r"\[..., out, in\], got float32 \[512\]"),
    "a number": (lambda w: (w[0, 0], None), r"got float32 \[\]"),
    "no rows": (lambda w: (w[:0], None), r"got float32 \[0, 512\]"),
    "whole numbers": (lambda w: (w.astype(mx.int32), None), r"got int32 \[4, 512\]"),
    "a weight that is NaN": (lambda w: (mx.where(w == w.max(), NAN, w), None), "not all finite"),
    "an infinite weight": (lambda w: (mx.where(w == w.max(), -INF, w), mx.ones(512)), "not all finite"),
    "an importance of another width": (lambda w: (w, mx.ones(256)), r"float32 \[512\], got float32 \[256\]"),
    "an importance per row": (lambda w: (w, mx.ones((4, 512))), r"float32 \[512\], got float32 \[4, 512\]"),
    "an importance of other experts": (
        lambda w: (mx.stack([w, w]), mx.ones((3, 512))),
        r"float32 \[512\] or \[2, 512\], got float32 \[3, 512\]",
    ),
    "an importance of whole numbers": (lambda w: (w, mx.ones(512, dtype=mx.int32)), "float32, got int32"),
    "a negative importance": (lambda w: (w, mx.arange(512) - 1.0), "negative or not finite"),
    "an importance that is NaN": (lambda w: (w, mx.full(512, NAN)), "negative or not finite"),
    "an infinite importance": (lambda w: (w, mx.full(512, INF)), "negative or not finite"),
}


@each_format
@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_encoded_is_refused(name: str, case: str) -> None:
    make, message = BAD[case]
    weights, importance = make(normal(4, 512))
    with pytest.raises(UserError, match=message):
        encode(name, weights, importance)


def test_a_format_without_encoder_is_refused() -> None:
    with pytest.raises(UserError, match=r"no encoder for mxfp4; formats that have one are iq2_xxs, q2_k"):
        encode("mxfp4", normal(1, 256))
    with pytest.raises(UserError, match="Unknown weight format 'q3'"):
        encode("q3", normal(1, 256))
