"""One layer of a model, alone in memory, and the inputs of its experts as they pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx
import numpy as np

from ds4_mlx.cache import PagePool, SequenceState
from ds4_mlx.calibration.store import LayerInputs
from ds4_mlx.checkpoint import Checkpoint
from ds4_mlx.checkpoint.items import in_layers
from ds4_mlx.config import ModelConfig
from ds4_mlx.model import Batch, Numerics
from ds4_mlx.model.experts import Experts, InnerRows
from ds4_mlx.model.linear import store_as
from ds4_mlx.model.rope import Rope
from ds4_mlx.model.transformer import Block


class Layer:
    """Layer `number` of a checkpoint. Sequences pass through it from their beginning, all of their tokens at once."""

    def __init__(self, checkpoint: Checkpoint, number: int, numerics: Numerics) -> None:
        config = checkpoint.config
        ratio = config.compress_ratios[number]
        self._config = replace(config, num_hidden_layers=1, compress_ratios=(ratio,))
        self._numerics = numerics
        self._block = Block(config, numerics, ratio, Rope.for_layer(config, ratio), hashed=config.is_hash_layer(number))
        self.experts = WatchedExperts(config, numerics)
        self._block.ffn.experts = self.experts
        prefix = f"layers.{number}."
        store_as(self._block, lambda name: checkpoint.formats.of(prefix + name))
        alone = replace(checkpoint, items=in_layers(checkpoint.items, (number, number)))
        self._block.load_weights([(name.removeprefix(prefix), array) for name, array in alone.load()], strict=True)
        mx.eval(self._block.parameters())

    def __call__(self, h: mx.array, pieces: Sequence[np.ndarray]) -> mx.array:
        """Streams h [T, N, D] of the tokens of all pieces, each a sequence of ids, one behind the other -> the same."""
        pool = PagePool.for_model(self._config, self._numerics.dtype, packed=self._numerics.simulate_quantization)
        batch = Batch.of([(SequenceState(pool), ids) for ids in pieces])
        h = self._block(h, batch, 0)
        mx.eval(h)
        return h


class WatchedExperts(Experts):
    """Experts that show what passes through them while `collector` is set."""

    collector: Collector | None = None

    def __call__(self, x: mx.array, experts: mx.array, weights: mx.array) -> mx.array:
        """As in `Experts`."""
        if self.collector is None:
            return super().__call__(x, experts, weights)
        inner = self.inner_rows(x, experts, weights)
        self.collector.add(x, inner)
        return self.outer_rows(inner, experts)


class Collector:
    """Sums over the tokens of a layer. See `LayerInputs` for what they are."""

    def __init__(self, config: ModelConfig) -> None:
        count, width, inner = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        self._tokens = np.zeros(count, np.int64)
        self._squares = [mx.zeros((width,)) for _ in range(count)]
        self._hessian = mx.zeros((width, width))
        self._inner_hessians = [mx.zeros((inner, inner)) for _ in range(count)]

    def add(self, x: mx.array, inner: InnerRows) -> None:
        """Takes in x [T, D] and the rows of all (token, expert) pairs."""
        x = x.astype(mx.float32)
        self._hessian = self._hessian + x.T @ x
        chosen = np.array(inner.experts)
        for expert in np.unique(chosen):
            at = mx.array(np.flatnonzero(chosen == expert))
            rows = inner.rows[at].astype(mx.float32)
            self._tokens[expert] += at.size
            self._squares[expert] = self._squares[expert] + mx.square(x[inner.tokens[at]]).sum(axis=0)
            self._inner_hessians[expert] = self._inner_hessians[expert] + rows.T @ rows
        mx.eval(self._hessian, self._squares, self._inner_hessians)

    def result(self) -> LayerInputs:
        """The means and sums so far."""
        counts = mx.array(np.maximum(self._tokens, 1).astype(np.float32))[:, None]
        diagonals = mx.stack([mx.diagonal(h) for h in self._inner_hessians])
        return LayerInputs(
            self._tokens, mx.stack(self._squares) / counts, diagonals / counts, self._hessian, self._inner_hessians
        )
