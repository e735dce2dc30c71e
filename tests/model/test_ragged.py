"""One function for prefill, decode and any mix: however tokens are grouped into calls, the logits are the same."""

import random
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from ds4_mlx.engine.hub import DEFAULT_MODEL
from ds4_mlx.engine.language_model import LanguageModel
from ds4_mlx.engine.session import Session
from ds4_mlx.model.moe import MoE

from model.compare import distance
from support import GOLDEN_CHECKPOINT, Golden, ModelIn

OneShotOf = Callable[[Path], tuple[LanguageModel, list[int], np.ndarray]]
PROSE = "The old mill stood by the river. Grass grew on its roof, and birds lived there. " * 12


def fed_in_chunks(model: LanguageModel, ids: list[int], size: int) -> np.ndarray:
    session = model.session()
    return np.array(mx.concatenate([session.feed(ids[i : i + size]) for i in range(0, len(ids), size)]))


@pytest.fixture(scope="module")
def one_shot_of(model_in: ModelIn, tokens: list[int]) -> OneShotOf:
    """one_shot_of(folder) -> its model, a prompt from which the indexer must choose, the logits of one call."""

    @cache
    def run(folder: Path) -> tuple[LanguageModel, list[int], np.ndarray]:
        model = model_in("fp32_plain", folder)
        ids = tokens if folder == GOLDEN_CHECKPOINT else model.tokenizer.encode(PROSE)
        assert len(ids) // 4 > model.config.index_topk
        return model, ids, np.array(model.session().feed(ids, chunk=len(ids)))

    return run


@pytest.fixture(scope="module")
def one_shot(one_shot_of: OneShotOf) -> np.ndarray:
    return one_shot_of(GOLDEN_CHECKPOINT)[2]


@pytest.mark.parametrize(
    ("folder", "size"),
    [*product([GOLDEN_CHECKPOINT], [1, 4, 5, 7, 127, 128, 129]), *product([DEFAULT_MODEL], [7, 129])],
    ids=lambda value: value.name if isinstance(value, Path) else str(value),
)
def test_chunks_equal_one_shot(one_shot_of: OneShotOf, folder: Path, size: int) -> None:
    model, ids, whole = one_shot_of(folder)
    assert np.abs(fed_in_chunks(model, ids, size) - whole).max() <= 1e-4


@pytest.mark.parametrize("size", [1, 5, 129])
def test_chunks_with_simulation_stay_within_its_bound(
    model_in: ModelIn, golden: Golden, tokens: list[int], size: int
) -> None:
    """One flipped FP8 code moves a logit by 0.7, so on a backend that sums in another order only statistics agree."""
    model = model_in("fp32_kvq")
    whole = np.array(model.session().feed(tokens, chunk=len(tokens)))
    d = distance(fed_in_chunks(model, tokens, size), whole)
    assert d.rms <= 0.10
    assert d.argmax >= 0.90
    assert d.kl <= 0.03


@pytest.mark.parametrize("seed", [0, 1])
def test_sessions_interleaved_at_random_equal_one_shot(
    model_in: ModelIn, tokens: list[int], one_shot: np.ndarray, seed: int
) -> None:
    """Three sequences, each at its own place, prefill chunks and single tokens in the same calls."""
    model, rng = model_in("fp32_plain"), random.Random(seed)
    lengths = [len(tokens), 140, 67]
    sessions = [model.session() for _ in lengths]
    rows: list[list[mx.array]] = [[] for _ in lengths]
    while open_ := [i for i, s in enumerate(sessions) if s.position < lengths[i]]:
        chosen = rng.sample(open_, rng.randint(1, len(open_)))
        parts: list[tuple[Session, list[int]]] = []
        for i in chosen:
            start = sessions[i].position
            size = min(rng.choice([1, 1, 3, 16, 40, 130]), lengths[i] - start)
            parts.append((sessions[i], tokens[start : start + size]))
        for i, logits in zip(chosen, model.forward(parts), strict=True):
            rows[i].append(logits)
    for i, n in enumerate(lengths):
        assert np.abs(np.array(mx.concatenate(rows[i])) - one_shot[:n]).max() <= 1e-4


def test_a_fork_and_its_origin_go_separate_ways(model_in: ModelIn, tokens: list[int], one_shot: np.ndarray) -> None:
    model = model_in("fp32_plain")
    session = model.session()
    session.feed(tokens[:131])
    fork = session.fork()
    other = np.array(fork.feed(tokens[:100]))  # something else
    rest = np.array(session.feed(tokens[131:]))
    assert np.abs(rest - one_shot[131:]).max() <= 1e-4
    alone = np.array(model.session().feed(tokens[:131] + tokens[:100]))
    assert np.abs(other - alone[131:]).max() <= 1e-4


def test_last_only_is_the_last_row(model_in: ModelIn, tokens: list[int], one_shot: np.ndarray) -> None:
    model = model_in("fp32_plain")
    a, b = model.session(), model.session()
    rows = model.forward([(a, tokens[:20]), (b, tokens[:9])], last_only=True)
    assert [row.shape for row in rows] == [(1, 400), (1, 400)]
    assert np.abs(np.array(rows[0])[0] - one_shot[19]).max() <= 1e-4
    assert np.abs(np.array(rows[1])[0] - one_shot[8]).max() <= 1e-4


def test_an_interrupted_call_leaves_every_session_as_it_was(
    model_in: ModelIn, tokens: list[int], one_shot: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_in("fp32_plain")
    a, b = model.session(), model.session()
    model.forward([(a, tokens[:130]), (b, tokens[:6])])

    held = [id(array) for session in (a, b) for array in session.state.arrays()]
    whole, calls = MoE.__call__, []

    def interrupted_in_the_sixth_layer(self: MoE, x: mx.array, ids: mx.array) -> mx.array:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return whole(self, x, ids)

    with monkeypatch.context() as patch:
        patch.setattr(MoE, "__call__", interrupted_in_the_sixth_layer)
        with pytest.raises(KeyboardInterrupt):
            model.forward([(a, tokens[130:140]), (b, tokens[6:20])])
    assert (a.position, b.position) == (130, 6)
    # Not only the same values: the very arrays, so that nothing of the interrupted work is left to be done.
    assert [id(array) for session in (a, b) for array in session.state.arrays()] == held
    assert a.token_ids == tokens[:130]
    rows = model.forward([(a, tokens[130:140]), (b, tokens[6:20])])
    assert np.abs(np.array(rows[0]) - one_shot[130:140]).max() <= 1e-4
    assert np.abs(np.array(rows[1]) - one_shot[6:20]).max() <= 1e-4


def test_the_block_of_queries_attended_at_once_does_not_matter(
    model_in: ModelIn, tokens: list[int], one_shot: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ds4_mlx.model.attention._SCORE_BYTES", 4 * 16 * 20 * 9)
    got = np.array(model_in("fp32_plain").session().feed(tokens, chunk=len(tokens)))
    assert np.abs(got - one_shot).max() <= 1e-4


def test_memory_of_scores_is_bounded_at_a_million_tokens(model_in: ModelIn) -> None:
    attention = model_in("fp32_plain").network.layers[2].attn
    assert attention._query_block(0) == 128
    assert attention._query_block(1 << 18) * (1 << 18) * 16 * 4 <= 1 << 27
    assert attention._query_block(1 << 40) == 1


def test_a_short_session_does_not_keep_a_long_one_alive(model_in: ModelIn, tokens: list[int]) -> None:
    """Both went through one call; what the short one holds are arrays of its own."""
    model = model_in("fp32_plain")
    short = model.session()
    model.forward([(model.session(), tokens * 4), (short, tokens[:3])], last_only=True)
    mx.synchronize()
    mx.clear_cache()
    before = mx.get_active_memory()
    nbytes = short.nbytes
    del short
    assert before - mx.get_active_memory() < 4 * nbytes
