"""Forks, rewinds, resumed prompts and restored segments go on bit for bit as if nothing had happened."""

from __future__ import annotations

from functools import cache

import mlx.core as mx
import numpy as np
import pytest

from ds4_mlx.cache import PagedCache, PagePool, Segment, SequenceState
from ds4_mlx.engine.hub import DEFAULT_MODEL
from ds4_mlx.engine.language_model import LanguageModel
from ds4_mlx.engine.session import Session
from ds4_mlx.errors import UserError
from ds4_mlx.model import Batch

from support import GOLDEN_CHECKPOINT, ModelIn

LENGTH = 3 * 128 + 40
CASES = [(folder, mode) for folder in (GOLDEN_CHECKPOINT, DEFAULT_MODEL) for mode in ("fp32_kvq", "bf16")]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0].name}-{case[1]}")
def uninterrupted(request: pytest.FixtureRequest, model_in: ModelIn) -> tuple[LanguageModel, list[int], mx.array]:
    """A model, token ids, and their logits of one call."""
    folder, mode = request.param
    return _uninterrupted(model_in(mode, folder))


@cache
def _uninterrupted(model: LanguageModel) -> tuple[LanguageModel, list[int], mx.array]:
    ids = np.random.default_rng(3).integers(2, model.config.vocab_size, LENGTH).tolist()
    model.cache.clear()
    (logits,) = model.forward([(model.session(), ids)])
    return model, ids, logits


@pytest.fixture
def golden_model(model_in: ModelIn) -> LanguageModel:
    model = model_in("bf16")
    model.cache.clear()
    return model


def prompt(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(2, 400, count).tolist()


def every_boundary_kept(model: LanguageModel, ids: list[int]) -> Session:
    model.cache.clear()
    session = model.session()
    for start in range(0, len(ids), 128):
        session.feed(ids[start : start + 128], last_only=True)
    return session


Uninterrupted = tuple[LanguageModel, list[int], mx.array]


def test_a_rewind_to_any_boundary_is_bitwise(uninterrupted: Uninterrupted) -> None:
    model, ids, whole = uninterrupted
    session = every_boundary_kept(model, ids)
    for boundary in (384, 256, 128, 0):
        assert session.rewind(boundary) == 0
        assert session.position == session.state.position == boundary
        assert mx.array_equal(session.feed(ids[boundary:][:135], chunk=50), whole[boundary:][:135])


def test_a_fork_at_any_boundary_is_bitwise_and_so_is_its_origin(uninterrupted: Uninterrupted) -> None:
    model, ids, whole = uninterrupted
    session = model.session()
    for start in range(0, 384, 128):
        session.feed(ids[start : start + 128])
        twin = session.fork()
        twin.feed(ids[7:47])  # something else
        again = session.fork()
        stop = start + 128 + 40
        assert mx.array_equal(again.feed(ids[start + 128 : stop]), whole[start + 128 : stop])
    assert mx.array_equal(session.feed(ids[384:]), whole[384:])


def test_a_fork_within_a_page_shares_it_until_one_goes_on(uninterrupted: Uninterrupted) -> None:
    model, ids, whole = uninterrupted
    session = model.session()
    session.feed(ids[:201], last_only=True)
    twin = session.fork()
    assert twin.state.table.pages == session.state.table.pages
    twin.feed(ids[:60])
    assert mx.array_equal(session.feed(ids[201:300]), whole[201:300])
    twin.rewind(201)
    assert mx.array_equal(twin.feed(ids[201:300]), whole[201:300])


def test_a_rewind_ends_exactly_where_it_was_told_to(uninterrupted: Uninterrupted) -> None:
    model, ids, whole = uninterrupted
    session = every_boundary_kept(model, ids)
    assert session.rewind(300) == 300 - 256
    assert session.position == len(session.token_ids) == 300
    assert mx.array_equal(session.feed(ids[300:310]), whole[300:310])


def test_segments_restore_into_an_empty_cache(uninterrupted: Uninterrupted) -> None:
    model, ids, whole = uninterrupted
    session = model.session()
    for stop in (131, 256, 259, 384):
        session.feed(ids[session.position : stop], last_only=True)
        segments = session.export_segments()
        fresh = LanguageModel(model.checkpoint, model.tokenizer, model.numerics)
        fresh._network = model.network
        restored = fresh.restore_segments(segments)
        assert restored.token_ids == ids[:stop]
        assert restored.logits is not None
        assert mx.array_equal(restored.logits, whole[stop - 1])
        assert mx.array_equal(restored.feed(ids[stop : stop + 40], chunk=7), whole[stop : stop + 40])


def test_a_session_that_grew_exports_only_what_is_new(golden_model: LanguageModel) -> None:
    ids, session = prompt(600), golden_model.session()
    session.feed(ids[:300], last_only=True)
    first = session.export_segments()
    session.feed(ids[300:], last_only=True)
    more = session.export_segments(after=256)
    assert [(s.kind, s.start, s.stop) for s in first] == [("pages", 0, 256), ("tail", 256, 300)]
    assert [(s.kind, s.start, s.stop) for s in more] == [("pages", 256, 512), ("tail", 512, 600)]
    restored = golden_model.restore_segments([first[0], *more])
    assert mx.array_equal(restored.feed([5]), session.feed([5]))


def test_pages_whose_end_has_no_state_are_fed_again_from_where_one_was(golden_model: LanguageModel) -> None:
    ids, session = prompt(700), golden_model.session()
    session.feed(ids[:256], last_only=True)
    golden_model.forward([(session, ids[256:])], last_only=True)  # one call: stops at no boundary
    segments = session.export_segments()
    assert [(s.kind, s.stop) for s in segments] == [("pages", 256), ("pages", 640), ("tail", 700)]
    restored = golden_model.restore_segments(segments[:2])
    assert (restored.position, len(restored.sequence.owed)) == (640, 640 - 256)
    restored.feed(ids[640:], last_only=True)
    assert mx.array_equal(restored.feed([5]), session.feed([5]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": 128}, "does not follow"),
        ({"token_ids": np.zeros(100, dtype=np.int32)}, "100 tokens"),
        ({"info": {"kv": "plain"}}, "stores kv as plain; this model has fp8"),
        ({"arrays": {}}, "lacks pages.4.entries.codes"),
    ],
)
def test_segments_that_do_not_fit_are_refused(
    golden_model: LanguageModel, change: dict[str, object], message: str
) -> None:
    session = golden_model.session()
    session.feed(prompt(200), last_only=True)
    segment = session.export_segments()[0]
    used = golden_model.cache.pool.used
    with pytest.raises(UserError, match=message):
        golden_model.restore_segments([Segment(**{**vars(segment), **change})])
    assert golden_model.cache.pool.used == used


def test_a_prompt_that_another_session_has_fed_is_not_fed_again(golden_model: LanguageModel) -> None:
    ids = prompt(500)
    golden_model.session().feed(ids, last_only=True)
    session, other = golden_model.session(), [*ids[:300], *prompt(50, 1)]
    assert session.resume(ids) == 384
    assert session.resume(other) == 0  # differs before the only boundary that was kept
    session.feed(other, last_only=True)
    assert golden_model.session().resume([*ids, 5]) == 384


def test_the_last_37_tokens_of_a_long_session_change(golden_model: LanguageModel) -> None:
    """The case of ds4's users, in short; tests/cache/figures.py has the long one."""
    ids = prompt(600)
    session = golden_model.session()
    session.feed(ids[:500], last_only=True)
    for token in ids[500:]:
        session.feed([token], last_only=True)
    session.keep()
    changed = [*ids[:-37], *prompt(37, 1)]
    held = session.resume(changed)
    assert held == 512  # the answer passed this boundary token by token
    got = session.feed(changed[held:], last_only=True)
    golden_model.cache.clear()
    assert mx.array_equal(got, golden_model.session().feed(changed, last_only=True))


def test_a_prefix_of_two_sessions_is_held_once(golden_model: LanguageModel) -> None:
    common = prompt(512)
    a, b = golden_model.session(), golden_model.session()
    for session, seed in ((a, 1), (b, 2)):
        ids = [*common, *prompt(30, seed)]
        session.feed(ids[session.resume(ids) :], last_only=True)
    figures = golden_model.cache.figures()
    assert figures.pages == 4 + 2
    assert figures.shared_bytes == 4 * figures.page_bytes


def test_states_are_kept_every_2048_tokens_and_where_a_message_ended(golden_model: LanguageModel) -> None:
    ids = prompt(2200)
    golden_model.session().feed(ids, last_only=True)
    for seen, found in ((2200, 2176), (2175, 2048), (2047, 0)):
        assert golden_model.cache.match(ids[:seen]).length == found


def test_lost_sessions_feed_their_tokens_again(golden_model: LanguageModel) -> None:
    ids = prompt(150)
    session = golden_model.session()
    session.feed(ids, last_only=True)
    twin = session.fork()
    golden_model.cache.lose()
    assert mx.array_equal(session.feed([5]), twin.feed([5]))
    assert session.state.position == 151


@pytest.mark.parametrize("position", [-1, 4])
def test_a_rewind_beyond_the_session_is_refused(golden_model: LanguageModel, position: int) -> None:
    session = golden_model.session()
    session.feed([1, 2, 3])
    with pytest.raises(UserError, match="holds 3 tokens"):
        session.rewind(position)


@pytest.mark.parametrize("length", [3, 16, 20, 127, 128, 130, 257])
def test_a_draft_is_taken_back_by_setting_the_length(model_in: ModelIn, length: int) -> None:
    """Whatever was drafted, the state afterwards gives the logits of one that never drafted."""
    model = model_in("fp32_kvq")
    ids, state = prompt(300), SequenceState(model.cache.pool, draft=6)

    def logits(of: SequenceState, token_ids: list[int]) -> mx.array:
        return model.network.logits(model.network(Batch.of([(of, np.array(token_ids))])))

    mx.eval(logits(state, ids[:length]))
    for draft in (6, 1, 4):
        mx.eval(logits(state, prompt(draft, 9)))
        state.roll_back(draft)
    plain = model.new_state()
    mx.eval(logits(plain, ids[:length]))
    assert mx.array_equal(logits(state, ids[length : length + 9]), logits(plain, ids[length : length + 9]))
    with pytest.raises(ValueError, match="cannot be taken back"):
        state.roll_back(7)


def test_a_sequence_takes_a_draft_back_over_a_page_that_the_tree_has_seen(golden_model: LanguageModel) -> None:
    ids = prompt(200)
    session = Session(golden_model, golden_model.cache.sequence(draft=4))
    session.feed(ids[:126], last_only=True)
    for _ in range(2):
        session.feed(prompt(4, 9), last_only=True)
        assert session.rewind(126) == 0
        assert session.state.position == 126
    got = session.feed(ids[126:])
    assert mx.array_equal(got, golden_model.session().feed(ids)[126:])
    assert golden_model.cache.match(ids).length == 128


def test_a_cache_in_its_budget_drops_what_is_worth_least(model_in: ModelIn) -> None:
    model = model_in("bf16")
    cache = PagedCache(PagePool.for_model(model.config), budget=300_000)
    small = LanguageModel(model.checkpoint, model.tokenizer, model.numerics)
    small._network, small.cache = model.network, cache
    for seed in range(3):
        small.session().feed(prompt(300, seed), last_only=True)
        assert cache.nbytes <= 300_000
    assert cache.figures().evicted_states > 0
    assert small.session().resume(prompt(300, 2)) == 256


def test_a_prompt_that_goes_on_from_a_rewind_is_fed_once(golden_model: LanguageModel) -> None:
    ids, model = prompt(150), golden_model
    session = model.session()
    session.feed(ids, last_only=True)
    assert session.rewind(100) == 100  # nothing is kept there
    longer = [*ids[:100], 7, 8, 9]
    held = session.resume(longer)
    logits = session.feed(longer[held:], last_only=True)
    assert session.token_ids == longer
    assert mx.array_equal(logits, model.session().feed(longer, last_only=True))
