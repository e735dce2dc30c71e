"""A decoded token is a known number of launches: none comes back unnoticed."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import pytest
from kernels.count_dispatches import config, count

from ds4_mlx.cache import PagePool
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
    assert set(found) <= {"Scatter"}
