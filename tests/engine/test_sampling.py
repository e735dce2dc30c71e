"""The distribution tokens are drawn from, and that draws repeat."""

import mlx.core as mx
import numpy as np
import pytest

from ds4_mlx.engine.request import Constraint
from ds4_mlx.engine.sampling import Sampler, SamplingOptions, allowed
from ds4_mlx.engine.stats import Token
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
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": -3.0}, "frequency_penalty"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty"),
        ({"logit_bias": {3: 101.0}}, "logit_bias"),
        ({"logit_bias": {-3: 1.0}}, "logit_bias"),
    ],
)
def test_values_out_of_range_are_refused_by_name(options: dict[str, object], name: str) -> None:
    with pytest.raises(UserError, match=name):
        SamplingOptions(**options)  # type: ignore[arg-type]


def test_a_temperature_too_small_for_float32_is_greedy() -> None:
    sampler = Sampler(SamplingOptions(temperature=1e-40, seed=0))
    assert [sampler.sample(mx.array([0.0, 3.0, 2.999])) for _ in range(5)] == [1] * 5


def test_logits_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(UserError, match="ds4-mlx verify"):
        Sampler(SamplingOptions(seed=0)).sample(mx.array([0.0, float("nan"), 1.0]))


def drawn(sampler: Sampler, logits: mx.array = LOGITS, constraint: Constraint | None = None) -> int:
    draw = sampler.draw(logits, constraint)
    mx.eval(*draw.arrays())
    return draw.result()


def penalised(logits: np.ndarray, generated: list[int], presence: float, frequency: float) -> np.ndarray:
    """OpenAI's definition: mu[j] - c[j] * alpha_frequency - float(c[j] > 0) * alpha_presence."""
    counts = np.bincount(generated, minlength=len(logits))
    return logits - counts * frequency - (counts > 0) * presence


@pytest.mark.parametrize(("presence", "frequency"), [(1.5, 0.0), (0.0, 0.7), (-0.5, 1.3)])
def test_penalties_count_what_was_generated(presence: float, frequency: float) -> None:
    options = SamplingOptions(temperature=0, presence_penalty=presence, frequency_penalty=frequency)
    sampler, generated = Sampler(options), list[int]()
    for _ in range(12):
        want = int(np.argmax(penalised(np.array(LOGITS), generated, presence, frequency)))
        generated.append(sampler.sample(LOGITS))
        assert generated[-1] == want
    assert len(set(generated)) > 1


def test_penalties_change_the_distribution_that_is_drawn_from() -> None:
    sampler = Sampler(SamplingOptions(seed=3, presence_penalty=1.5))
    for token in (0, 0, 1):
        sampler.accept(token)
    counts = np.bincount([drawn(sampler) for _ in range(2000)], minlength=5)
    p = softmax(penalised(np.array(LOGITS), [0, 0, 1], 1.5, 0.0))
    assert (((counts - 2000 * p) ** 2) / (2000 * p)).sum() < 18.5


def test_a_bias_is_added_to_the_logits() -> None:
    assert Sampler(SamplingOptions(temperature=0, logit_bias={3: 2.9})).sample(LOGITS) == 0  # -1 + 2.9 < 2
    assert Sampler(SamplingOptions(temperature=0, logit_bias={3: 3.1})).sample(LOGITS) == 3
    sampler = Sampler(SamplingOptions(seed=0, logit_bias={0: -100.0, 1: -100.0}))
    assert {sampler.sample(LOGITS) for _ in range(50)} == {2, 3, 4}


def test_a_bias_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match="token 5, outside"):
        SamplingOptions(logit_bias={5: 1.0}).check_vocabulary(5)


class Only:
    """A constraint that always allows the same tokens."""

    def __init__(self, *ids: int, structure: bool = False) -> None:
        self.ids, self.structure = ids, structure

    def mask(self) -> np.ndarray:
        return np.array([sum(1 << i for i in self.ids)], np.uint32)

    def greedy(self) -> bool:
        return self.structure

    def accept(self, token_id: int) -> None:
        """Nothing changes."""


def test_only_what_a_constraint_allows_is_drawn() -> None:
    sampler = Sampler(SamplingOptions(temperature=3.0, seed=1))
    draws = [drawn(sampler, constraint=Only(2, 4)) for _ in range(300)]
    assert set(draws) == {2, 4}
    assert draws.count(2) > draws.count(4)


def test_structure_is_the_likeliest_allowed_token_whatever_the_sampling() -> None:
    sampler = Sampler(SamplingOptions(temperature=50.0, seed=1, presence_penalty=2.0))
    for _ in range(30):
        token = drawn(sampler, constraint=Only(2, 3, 4, structure=True))
        sampler.accept(token)
        assert token == 2


def test_a_constraint_that_allows_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="allows no token"):
        Sampler(SamplingOptions()).draw(LOGITS, Only())


@pytest.mark.parametrize("vocab", [5, 32, 33, 64, 70])
def test_a_mask_is_bits_lowest_first(vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    words = rng.integers(0, 1 << 32, 2, dtype=np.uint64).astype(np.uint32)
    want = [bool(words[i // 32] >> (i % 32) & 1) if i < 64 else False for i in range(vocab)]
    assert np.array(allowed(words, vocab)).tolist() == want


def test_the_best_tokens_come_with_their_logprobs() -> None:
    logs = np.log(P)
    token = Token.of(3, b"x", logs, 2)
    assert token.logprob == pytest.approx(logs[3])
    assert token.top == ((0, pytest.approx(logs[0])), (1, pytest.approx(logs[1])))
    assert Token.of(3, b"x", logs, 0).top == ()
    assert [i for i, _ in Token.of(3, b"x", logs, 5).top] == [0, 1, 2, 3, 4]
    assert Token.of(3, b"x", None, 0).logprob is None
