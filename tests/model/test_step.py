"""Calls whose attention is done by kernels on a GPU give what the plain operations give: few tokens, and many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from kernels.emulate import emulated

from ds4_mlx.cache import Rows, SequenceState
from ds4_mlx.engine.hub import DEFAULT_MODEL
from ds4_mlx.engine.language_model import LanguageModel
from ds4_mlx.engine.session import Session
from ds4_mlx.kernels.kernel import Kernel
from ds4_mlx.model.batch import Batch
from ds4_mlx.model.step import joint

from support import GOLDEN_CHECKPOINT, ModelIn

Stepping = Callable[[], AbstractContextManager[None]]


@contextmanager
def by_kernels() -> Iterator[None]:
    """Everything but plain experts takes its kernels: on the CPU their twins."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ds4_mlx.model.step.runs_kernels", lambda: True)
        patch.setattr("ds4_mlx.model.linear.runs_kernels", lambda: True)
        patch.setattr("ds4_mlx.model.transformer.runs_kernels", lambda: True)
        mx.disable_compile()  # what would be compiled here are twins, for minutes
        try:
            yield
        finally:
            mx.enable_compile()


@contextmanager
def on_the_emulator() -> Iterator[None]:
    """All kernels, on the emulator."""
    with pytest.MonkeyPatch.context() as patch, by_kernels():
        patch.setattr("ds4_mlx.model.experts.runs_kernels", lambda: True)
        patch.setattr(Kernel, "__call__", lambda kernel, *inputs: emulated(kernel, list(inputs), mode="fast"))
        yield


def state_of(session: Session) -> list[np.ndarray]:
    """Windows, open blocks and the entries of all layers."""
    state = session.state
    rows = [f(i, state.position) for i in range(len(state.layers)) for f in (state.entries, state.index_entries)]
    own = [part for layer in state.layers for held in layer.rows for part in held.parts]
    arrays = [*own, *(r.all() for r in rows if r is not None and r.count)]
    return [np.array(array.astype(mx.float32)) for array in arrays]


def assert_same_state(a: Session, b: Session) -> None:
    for found, expected in zip(state_of(a), state_of(b), strict=True):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())


def fed(sessions: list[Session], tokens: list[int], sizes: tuple[int, ...]) -> list[np.ndarray]:
    """Feeds each session as many of `tokens` as its size, in one call -> the logits of each."""
    parts = [(s, tokens[s.position : s.position + n]) for s, n in zip(sessions, sizes, strict=True) if n]
    return [np.array(logits) for logits in sessions[0].model.forward(parts)]


def pairs(model: LanguageModel, tokens: list[int], starts: tuple[int, ...]) -> tuple[list[Session], list[Session]]:
    """Two equal lists of sessions that stand at `starts`."""
    sessions: tuple[list[Session], list[Session]] = ([], [])
    for made in sessions:
        for start in starts:
            made.append(model.session())
            if start:
                made[-1].feed(tokens[:start])
    return sessions


def assert_steps(
    model: LanguageModel, tokens: list[int], starts: tuple[int, ...], steps: list[tuple[int, ...]], how: Stepping
) -> None:
    """Sessions at `starts` are fed so many tokens each in every step, by plain operations and `how`."""
    plain, stepped = pairs(model, tokens, starts)
    for sizes in steps:
        expected = fed(plain, tokens, sizes)
        with how():
            found = fed(stepped, tokens, sizes)
        for a, b in zip(found, expected, strict=True):
            assert np.abs(a - b).max() <= 1e-4
    for a, b in zip(stepped, plain, strict=True):
        assert_same_state(a, b)


# The indexer of the golden model chooses 8 entries: from 36 tokens on.
@pytest.mark.parametrize("start", [0, 3, 29, 120])
def test_one_session_equals_the_plain_path(model_in: ModelIn, tokens: list[int], start: int) -> None:
    sizes = [(n,) for n in (1, 1, 3, 8, 1, 1, 4, 1)]
    assert_steps(model_in("fp32_kvq"), tokens, (start,), sizes, by_kernels)


def test_several_sessions_in_one_call_equal_the_plain_path(model_in: ModelIn, tokens: list[int]) -> None:
    steps = [(1, 1, 1, 1), (0, 3, 1, 4), (2, 0, 5, 1), (1, 1, 1, 0), (1, 2, 1, 4)]
    assert_steps(model_in("fp32_kvq"), tokens, (0, 17, 126, 140), steps, by_kernels)


def test_every_step_across_a_page(model_in: ModelIn, tokens: list[int]) -> None:
    assert_steps(model_in("fp32_kvq"), tokens, (110,), [(1,)] * 30, by_kernels)


@pytest.mark.parametrize("folder", [GOLDEN_CHECKPOINT, DEFAULT_MODEL], ids=lambda folder: folder.name)
def test_a_step_on_the_emulator(model_in: ModelIn, tokens: list[int], folder: Path) -> None:
    """The texts themselves: entries of both ratios are completed at 128."""
    assert_steps(model_in("fp32_kvq", folder), tokens, (126, 44), [(2, 1)], on_the_emulator)


def test_tokens_taken_back(model_in: ModelIn, tokens: list[int]) -> None:
    model = model_in("fp32_kvq")
    states = []
    for how in (nullcontext, by_kernels):
        state = SequenceState(model.cache.pool, draft=3)
        with how():
            for ids in (tokens[:126], tokens[126:130], tokens[200:203]):
                model.network(Batch.of([(state, np.array(ids))]))
            state.roll_back(3)
            h = model.network(Batch.of([(state, np.array(tokens[130:132]))]))
        states.append((state, np.array(h)))
    (_, expected), (_, found) = states
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_the_mtp_block_steps_too(model_in: ModelIn, tokens: list[int]) -> None:
    model = model_in("fp32_kvq")
    rng = np.random.default_rng(0)
    shape = 4, model.config.hc_mult, model.config.hidden_size
    h = mx.array(rng.standard_normal(shape).astype(np.float32))
    found = []
    for how in (nullcontext, by_kernels):
        state = model.new_mtp_state()
        with how():
            model.mtp_logits(h, tokens[:4], state=state)
            found.append(np.array(model.mtp_logits(h, tokens[4:8], state=state)))
    assert np.abs(found[0] - found[1]).max() <= 1e-4


@contextmanager
def attention_on_the_emulator() -> Iterator[None]:
    """Attention's kernels alone, on the emulator."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ds4_mlx.model.step.runs_kernels", lambda: True)
        patch.setattr(Kernel, "__call__", lambda kernel, *inputs: emulated(kernel, list(inputs), mode="fast"))
        yield


@pytest.mark.parametrize(("start", "sizes"), [(0, (35,)), (29, (12, 1)), (120, (9, 3))])
def test_many_tokens_equal_the_plain_path(
    model_in: ModelIn, tokens: list[int], start: int, sizes: tuple[int, ...]
) -> None:
    assert_steps(model_in("fp32_kvq"), tokens, (start,), [(n,) for n in sizes], by_kernels)


def test_many_tokens_of_several_sessions_equal_the_plain_path(model_in: ModelIn, tokens: list[int]) -> None:
    assert_steps(model_in("fp32_kvq"), tokens, (0, 17, 126, 118), [(3, 4, 0, 5), (1, 1, 1, 1)], by_kernels)


def test_many_tokens_on_the_emulator(model_in: ModelIn, tokens: list[int]) -> None:
    assert_steps(model_in("fp32_kvq"), tokens, (124, 44), [(6, 5)], attention_on_the_emulator)


def test_many_tokens_leave_no_more_rows_than_the_next_call_needs(model_in: ModelIn, tokens: list[int]) -> None:
    session = model_in("fp32_kvq").session()
    with by_kernels():
        session.feed(tokens[:24])
    width = session.model.config.sliding_window
    assert all(layer.window.whole[0].shape[0] == width - 1 for layer in session.state.layers if layer.window)


def test_many_tokens_take_tiles_and_plain_rows_do_not(model_in: ModelIn, tokens: list[int]) -> None:
    def fail(*_: object) -> None:
        raise AssertionError

    with pytest.MonkeyPatch.context() as patch, by_kernels():
        patch.setattr("ds4_mlx.model.attention.Attention.step", fail)
        model_in("fp32_plain").session().feed(tokens[:9])
        with pytest.raises(AssertionError):
            model_in("fp32_kvq").session().feed(tokens[:9])


def test_a_kept_state_does_not_hold_the_rows_of_other_sessions(model_in: ModelIn, tokens: list[int]) -> None:
    model = model_in("fp32_kvq")
    _, (session, other) = pairs(model, tokens, (20, 30))
    with by_kernels():
        fed([session, other], tokens, (1, 1))
    session.keep()
    (place,) = session.sequence._tails
    for layer, kept in zip(session.state.layers, place.layers, strict=True):
        for rows, own in zip(layer.rows, kept.rows, strict=True):
            assert rows.whole[0].shape[0] > own.whole[0].shape[0] == rows.count
            assert all(mx.array_equal(a, b) for a, b in zip(rows.parts, own.parts, strict=True))


TWO = ((2, mx.float32), (1, mx.float32))


def test_rows_of_sequences_that_were_together_are_not_joined_again() -> None:
    whole = mx.arange(16.0).reshape(8, 2), mx.arange(8.0).reshape(8, 1)
    arrays, places = joint([Rows(whole, 4, 6), None, Rows(whole, 0, 3)], TWO, 8)
    assert arrays is whole
    assert places == ((4, 6), (0, 0), (0, 3))


def test_rows_of_other_sequences_are_joined() -> None:
    whole = mx.arange(12.0).reshape(6, 2), mx.arange(6.0).reshape(6, 1)
    (a, b), places = joint([Rows.of([mx.zeros((2, 2)), mx.zeros((2, 1))]), None, Rows(whole, 4, 6)], TWO, 4)
    assert a.tolist() == [[0, 0], [0, 0], [8, 9], [10, 11]]
    assert b.tolist() == [[0], [0], [4], [5]]
    assert places == ((0, 2), (2, 2), (2, 4))


@pytest.mark.parametrize("rows", [3, 8, 16])
def test_joined_rows_are_as_many_as_shapes_want(rows: int) -> None:
    """Else a compiled step would be compiled again after every prompt of another length."""
    whole = mx.ones((rows, 2)), mx.ones((rows, 1))
    (a, b), places = joint([Rows(whole, 0, 3)], TWO, 8)
    assert a.shape == (8, 2)
    assert b.shape == (8, 1)
    assert places == ((0, 3),)
    assert joint([None], TWO, 8)[0][0].shape == (8, 2)
