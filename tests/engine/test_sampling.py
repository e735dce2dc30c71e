"""The distribution tokens are drawn from, and that draws repeat."""

import mlx.core as mx
import numpy as np
import pytest

from ds4_mlx.engine.sampling import Sampler, SamplingOptions
from ds4_mlx.errors import UserError

LOGITS = mx.array([2.0, 1.0, 0.0, -1.0, -2.0])


def probabilities(**options: float) -> np.ndarray:
    return np.exp(np.array(Sampler(SamplingOptions(seed=0, **options)).log_probabilities(LOGITS)))  # type: ignore[arg-type]


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


P = softmax(np.array(LOGITS))


def test_defaults_are_the_model_distribution() -> None:
    assert np.allclose(probabilities(), P, atol=1e-6)


def test_temperature_divides_the_logits() -> None:
    assert np.allclose(probabilities(temperature=0.5), softmax(np.array(LOGITS) / 0.5), atol=1e-6)


def test_top_k_keeps_k_and_renormalises() -> None:
    assert np.allclose(probabilities(top_k=2), [P[0] / P[:2].sum(), P[1] / P[:2].sum(), 0, 0, 0], atol=1e-6)


def test_top_k_beyond_the_vocabulary_is_off() -> None:
    assert np.allclose(probabilities(top_k=9), P, atol=1e-6)


def test_top_p_keeps_the_smallest_set_that_reaches_the_mass() -> None:
    assert np.allclose(probabilities(top_p=0.8), [P[0] / P[:2].sum(), P[1] / P[:2].sum(), 0, 0, 0], atol=1e-6)


def test_min_p_drops_what_is_far_below_the_best() -> None:
    assert np.count_nonzero(probabilities(min_p=0.3)) == 2  # e^-1 = 0.37 stays, e^-2 = 0.14 goes


def test_top_p_applies_after_temperature() -> None:
    assert np.count_nonzero(probabilities(top_p=0.8, temperature=3.0)) == 4
    assert np.count_nonzero(probabilities(top_p=0.8)) == 2


def test_temperature_zero_takes_the_most_likely() -> None:
    assert Sampler(SamplingOptions(temperature=0)).sample(LOGITS) == 0


def test_the_same_seed_draws_the_same_tokens() -> None:
    a, b = (Sampler(SamplingOptions(seed=7)) for _ in range(2))
    draws = [a.sample(LOGITS) for _ in range(30)]
    assert draws == [b.sample(LOGITS) for _ in range(30)]
    assert draws != [Sampler(SamplingOptions(seed=8)).sample(LOGITS)] * 30


def test_draws_of_two_sessions_do_not_disturb_each_other() -> None:
    alone = Sampler(SamplingOptions(seed=1))
    expected = [alone.sample(LOGITS) for _ in range(10)]
    a, b = Sampler(SamplingOptions(seed=1)), Sampler(SamplingOptions(seed=2))
    got = []
    for _ in range(10):
        b.sample(LOGITS)
        got.append(a.sample(LOGITS))
    assert got == expected


def test_draws_follow_the_distribution() -> None:
    """Chi-square over 2,000 draws at a fixed seed; 18.5 is the 0.1 % bound for 4 degrees of freedom."""
    sampler = Sampler(SamplingOptions(seed=3))
    counts = np.bincount([sampler.sample(LOGITS) for _ in range(2000)], minlength=5)
    assert (((counts - 2000 * P) ** 2) / (2000 * P)).sum() < 18.5


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 2.0}, "min_p"),
        ({"seed": -5}, "seed"),
    ],
)
def test_values_out_of_range_are_refused_by_name(options: dict[str, float], name: str) -> None:
    with pytest.raises(UserError, match=name):
        SamplingOptions(**options)  # type: ignore[arg-type]


def test_a_temperature_too_small_for_float32_is_greedy() -> None:
    sampler = Sampler(SamplingOptions(temperature=1e-40, seed=0))
    assert [sampler.sample(mx.array([0.0, 3.0, 2.999])) for _ in range(5)] == [1] * 5


def test_logits_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(UserError, match="ds4-mlx verify"):
        Sampler(SamplingOptions(seed=0)).sample(mx.array([0.0, float("nan"), 1.0]))
