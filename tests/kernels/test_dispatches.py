"""A decoded token is a known number of launches: none comes back unnoticed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from kernels.count_dispatches import config, count, like_a_gpu

from ds4_mlx.cache import PagePool, SequenceState
from ds4_mlx.model import Batch, transformer
from ds4_mlx.model.linear import Numerics
from ds4_mlx.model.transformer import Transformer

# Kernels of a layer by its ratio, and what comes beside the layers: sums before the first and the last collapse, the
# last collapse, the output matrix.
LAYER, BESIDE = {0: 13, 4: 17, 128: 14}, 4


@pytest.mark.parametrize(("sessions", "tokens"), [(1, 1), (2, 3)])
def test_launches_of_a_decoded_token(sessions: int, tokens: int) -> None:
    ratios = (0, 4, 128)
    small = replace(config(), num_hidden_layers=3, compress_ratios=ratios, num_hash_layers=1)
    network = Transformer(small, Numerics())
    mx.eval(network.parameters())
    found, _ = count(network, PagePool.for_model(small), sessions, tokens, 140, only_experts=False)
    assert found.pop("kernel") <= sum(LAYER[ratio] for ratio in ratios) + BESIDE
    # Embedding rows, rows of the logits asked for, and the choice of a token; where an entry is completed, its parts.
    assert found.pop("Gather") <= 2
    assert found.pop("ArgReduce") == 1
    assert found.pop("Concatenate", 0) <= sessions  # of ids
    assert found.pop("BitwiseInvert") == 1  # what the host says of the call goes to the device in one piece
    assert set(found) <= {"Scatter"}


def test_what_a_call_built_is_there_for_the_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On NVIDIA: a kernel made anew is a text made anew, hashed and looked up by the compiler."""
    built: list[str] = []

    def build(**arguments: Any) -> Callable[..., list[mx.array]]:
        built.append(arguments["name"])
        return lambda **call: [
            mx.zeros(s, d) for s, d in zip(call["output_shapes"], call["output_dtypes"], strict=True)
        ]

    small = replace(config(), num_hidden_layers=4, compress_ratios=(0, 4, 128, 4), num_hash_layers=1)
    network = Transformer(small, Numerics())
    mx.eval(network.parameters())
    state = SequenceState(PagePool.for_model(small))
    network(Batch.of([(state, np.zeros(44, dtype=np.int32))]))
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path))
    monkeypatch.setattr(mx.fast, "cuda_kernel", build)
    for module in ("kernels.kernel", "model.step", "model.linear", "model.experts"):
        monkeypatch.setattr(f"ds4_mlx.{module}.runs_kernels", lambda: True)
    counts = []
    for _ in range(8):  # entries are completed in some calls and not in others
        network.logits(network(Batch.of([(state, np.zeros(1, dtype=np.int32))])))
        counts.append(len(built))
    assert counts[0] > 10
    assert counts[4:] == [counts[-1]] * 4


def test_a_growing_context_is_not_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for tokens that complete nothing, an entry of ratio 4, and entries of both ratios: then all is there."""
    small = replace(config(), num_hidden_layers=4, compress_ratios=(0, 4, 128, 4), num_hash_layers=1)
    network = Transformer(small, Numerics())
    mx.eval(network.parameters())
    state = SequenceState(PagePool.for_model(small))
    traced: list[int] = []
    steps = transformer._steps

    def counted(*arguments: Any) -> Any:
        traced.append(state.position)
        return steps(*arguments)

    monkeypatch.setattr(transformer, "_steps", counted)

    def feed(tokens: int) -> None:
        h = network(Batch.of([(state, np.zeros(tokens, dtype=np.int32))]))
        mx.eval(h, *state.pool.arrays(), *state.arrays())

    feed(250)  # by plain operations, which leave rows of any number
    with like_a_gpu(only_experts=False, launched=Counter()):
        for _ in range(150):
            feed(1)
    assert traced == [250, 251, 255]
