"""Calls of few tokens, whose attention is done by kernels on a GPU, give what the plain operations give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from kernels.emulate import emulated

from ds4_mlx.engine.hub import DEFAULT_MODEL
from ds4_mlx.engine.language_model import LanguageModel
from ds4_mlx.engine.session import Session
from ds4_mlx.kernels.kernel import Kernel

from support import GOLDEN_CHECKPOINT, ModelIn

Stepping = Callable[[], "contextmanager[None]"]


@contextmanager
def by_kernels() -> Iterator[None]:
    """Attention takes its kernels: on the CPU their twins."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ds4_mlx.model.step.runs_kernels", lambda: True)
        yield


@contextmanager
def on_the_emulator() -> Iterator[None]:
    """The kernels of attention and experts, on the emulator."""
    with pytest.MonkeyPatch.context() as patch, by_kernels():
        patch.setattr("ds4_mlx.model.experts.runs_kernels", lambda: True)
        patch.setattr(Kernel, "__call__", lambda kernel, *inputs: emulated(kernel, list(inputs), mode="fast"))
        yield


def state_of(session: Session) -> list[np.ndarray]:
    """Windows, open blocks and the entries of all layers."""
    state = session.state
    rows = [f(i, state.position) for i in range(len(state.layers)) for f in (state.entries, state.index_entries)]
    arrays = [*state.arrays(), *(r.all() for r in rows if r is not None and r.count)]
    return [np.array(array.astype(mx.float32)) for array in arrays]


def assert_same_state(a: Session, b: Session) -> None:
    for found, expected in zip(state_of(a), state_of(b), strict=True):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("start", [0, 3, 140])
def test_steps(model_in: ModelIn, tokens: list[int], start: int) -> None:
    model = model_in("fp32_kvq")
    plain, stepped = model.session(), model.session()
    if start:
        plain.feed(tokens[:start])
        stepped.feed(tokens[:start])
    for size in (1, 1, 3, 8, 1, 1):
        ids = tokens[plain.position : plain.position + size]
        expected = np.array(plain.feed(ids))
        with by_kernels():
            found = np.array(stepped.feed(ids))
        print(start, size, np.abs(found - expected).max())
    assert_same_state(stepped, plain)
