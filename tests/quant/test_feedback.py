"""Encoding with feedback: it is what its twin says, it lowers the error of outputs, and refuses what it cannot do."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from quant import feedback_twin as twin

from ds4_mlx.errors import UserError
from ds4_mlx.quant import get_format
from ds4_mlx.quant.encoders import encode
from ds4_mlx.quant.encoders.feedback import encode_with_feedback
from ds4_mlx.quant.encoders.hessian import damping_for, feedback_factor, proxy_loss

each_format = pytest.mark.parametrize("name", ["iq2_xxs", "q2_k"])


def samples(width: int, tokens: int, seed: int) -> np.ndarray:
    """Inputs [tokens, width] that go along with each other, some columns larger than others."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).standard_normal((width, width)) * np.exp(-np.arange(width) / 60)[:, None]
    return (rng.standard_normal((tokens, width)) @ mixing).astype(np.float32)


def hessian(width: int, seed: int = 1) -> np.ndarray:
    x = samples(width, 1024, seed)
    return x.T @ x


def weights_of(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_t(6, shape) * 0.02).astype(np.float32)


def values(name: str, arrays: dict[str, mx.array]) -> np.ndarray:
    return np.array(get_format(name).decode(*arrays.values()))


def same_rows(mine: np.ndarray, theirs: list[np.ndarray]) -> float:
    """The share of rows that are alike."""
    return float(np.mean([np.allclose(a, b, atol=1e-6) for a, b in zip(mine, theirs, strict=True)]))


def test_iq2_xxs_is_what_its_twin_says() -> None:
    # In float32 a near tie may go the other way, and from there on the row is another: nearly all are the same.
    weights, u = weights_of(1, 12, 512), feedback_factor(hessian(512))
    arrays = encode_with_feedback("iq2_xxs", mx.array(weights), mx.array(u)[None])
    found = [twin.encode_iq2_xxs(row.astype(np.float64), u.astype(np.float64)) for row in weights[0]]
    assert same_rows(values("iq2_xxs", arrays)[0], [row for row, _ in found]) >= 0.75
    first = np.array(arrays["d"])[0, :, 0]
    assert np.mean(first == np.array([d[0] for _, d in found]).astype(np.float16)) >= 0.9


def test_q2_k_is_what_its_twin_says() -> None:
    weights, u = weights_of(1, 12, 512), feedback_factor(hessian(512))
    arrays = encode_with_feedback("q2_k", mx.array(weights), mx.array(u)[None])
    scales = np.array(arrays["dm"])[0].astype(np.float64)
    found = [
        twin.encode_q2_k(r.astype(np.float64), u.astype(np.float64), s) for r, s in zip(weights[0], scales, strict=True)
    ]
    assert same_rows(values("q2_k", arrays)[0], found) >= 0.75


@each_format
def test_it_lowers_the_error_of_outputs_that_it_has_not_seen(name: str) -> None:
    weights, known, unseen = weights_of(2, 64, 512), hessian(512), hessian(512, seed=2)
    factor = mx.array(feedback_factor(known))[None]
    importance = mx.array(np.diag(known).copy())
    with_it, without = (
        values(name, arrays) - weights
        for arrays in (
            encode_with_feedback(name, mx.array(weights), factor),
            encode(name, mx.array(weights), importance),
        )
    )
    for expert in range(2):
        assert proxy_loss(with_it[expert], unseen) < 0.5 * proxy_loss(without[expert], unseen)


@each_format
def test_each_expert_has_its_own_factor(name: str) -> None:
    weights = mx.array(weights_of(3, 8, 256))
    factors = mx.stack([mx.array(feedback_factor(hessian(256, seed))) for seed in range(3)])
    together = encode_with_feedback(name, weights, factors)
    for expert in range(3):
        alone = encode_with_feedback(name, weights[expert : expert + 1], factors[expert : expert + 1])
        for part, array in alone.items():
            assert mx.array_equal(array[0], together[part][expert])


@each_format
def test_the_number_of_rows_at_once_makes_no_difference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, factor = mx.array(weights_of(2, 24, 256)), mx.array(feedback_factor(hessian(256)))[None]
    whole = encode_with_feedback(name, weights, factor)
    for rows in (7, 24, 30):
        monkeypatch.setattr("ds4_mlx.quant.encoders.feedback._ROWS_ON_CPU", rows)
        pieces = encode_with_feedback(name, weights, factor)
        assert all(mx.array_equal(pieces[part], whole[part]) for part in whole)


@each_format
def test_blocks_of_zeros_come_out_as_zeros(name: str) -> None:
    weights = mx.zeros((1, 4, 512))
    result = values(name, encode_with_feedback(name, weights, mx.array(feedback_factor(hessian(512)))[None]))
    assert not result.any()


@each_format
@pytest.mark.parametrize("exponent", [-8, 12])
def test_the_scale_of_weights_and_inputs_makes_no_difference(name: str, exponent: int) -> None:
    weights, h, factor = weights_of(1, 16, 256), hessian(256), 2.0**exponent
    losses = []
    for w, k in ((weights, h), (weights * np.float32(factor), h * np.float32(factor))):
        found = values(name, encode_with_feedback(name, mx.array(w), mx.array(feedback_factor(k))[None]))
        losses.append(proxy_loss(found[0] - w[0], k) / proxy_loss(w[0], k))
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_a_factor_is_that_of_the_inverse() -> None:
    h = hessian(64)
    u = feedback_factor(h, 0.1).astype(np.float64)
    damped = h + 0.1 * np.trace(h) / 64 * np.eye(64)
    assert np.allclose(u, np.triu(u))
    assert np.allclose(u.T @ u @ damped, np.eye(64), atol=1e-4)


def test_a_hessian_of_zeros_counts_all_columns_alike() -> None:
    assert np.array_equal(feedback_factor(np.zeros((8, 8), np.float32)), np.eye(8, dtype=np.float32))


@pytest.mark.parametrize(
    "wrong", [-np.eye(8), np.full((8, 8), np.nan), np.ones((8, 8)) - 2 * np.eye(8) + 0.9 * np.eye(8)]
)
def test_what_is_no_hessian_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(UserError, match="Calibrate again"):
        feedback_factor(wrong)


def test_experts_that_saw_few_tokens_are_damped_more_or_not_trusted_at_all() -> None:
    assert damping_for(255) is None
    assert damping_for(256) == damping_for(1023) == 0.1
    assert damping_for(1024) == 0.03


Bad = Callable[[mx.array, mx.array], tuple[str, mx.array, mx.array]]
BAD: dict[str, tuple[Bad, str]] = {
    "a format without encoder": (lambda w, f: ("mxfp4", w, f), "no encoder with feedback for mxfp4"),
    "one matrix": (lambda w, f: ("q2_k", w[0], f), r"float32 \[experts, out, in\], got \[4, 256\]"),
    "half precision": (lambda w, f: ("q2_k", w.astype(mx.float16), f), "float32"),
    "factors of another width": (lambda w, f: ("q2_k", w, f[:, :8, :8]), "are "),
    "factors of other experts": (lambda w, f: ("q2_k", w, mx.concatenate([f] * 3)), r"\[2, 256, 256\]"),
    "part of a block": (lambda w, f: ("q2_k", w[..., :200], f), "multiple of 256, got 200"),
    "NaN": (lambda w, f: ("iq2_xxs", w * float("nan"), f), "not finite"),
    "too large": (lambda w, f: ("iq2_xxs", w * 1e30, f), "larger than iq2_xxs reaches"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_encoded_is_refused(case: str) -> None:
    change, message = BAD[case]
    name, weights, factors = change(mx.array(weights_of(2, 4, 256)), mx.eye(256)[None])
    with pytest.raises(UserError, match=message):
        encode_with_feedback(name, weights, factors)
