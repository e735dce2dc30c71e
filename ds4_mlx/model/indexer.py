"""The indexer of ratio-4 layers: scores every compressed entry and picks the best for each query (spec 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import mlx.core as mx
from mlx import nn

from ds4_mlx.config import ModelConfig
from ds4_mlx.kernels.expert_rows import MOST_TOKENS
from ds4_mlx.kernels.index_rows import INDEX_SCORES, best_entries
from ds4_mlx.kernels.index_tiles import INDEX_TILES, query_blocks
from ds4_mlx.kernels.index_twins import head_weights
from ds4_mlx.model.batch import Batch, Span
from ds4_mlx.model.compressor import Compressor, Projections
from ds4_mlx.model.linear import Linear, Numerics, QuantizedLinear
from ds4_mlx.model.rope import Rope, apply_rope
from ds4_mlx.model.step import Windows
from ds4_mlx.quant.simulate import rotate_and_simulate_index, rotate_index


class IndexQueries(NamedTuple):
    """Queries [T, H, d], float32 head weights [T, H], and the key projections of every token of a call."""

    queries: mx.array
    weights: mx.array
    projections: Projections


class Indexer(nn.Module):
    """Small attention that only chooses: its scores are not used beyond the choice."""

    def __init__(self, config: ModelConfig, numerics: Numerics, rope: Rope) -> None:
        super().__init__()
        self._heads, self._dim, self._rope = config.index_n_heads, config.index_head_dim, rope
        self._simulate = numerics.simulate_quantization
        self.wq_b = QuantizedLinear(config.q_lora_rank, self._heads * self._dim, numerics)
        self.weights_proj = Linear(config.hidden_size, self._heads)
        self.compressor = Compressor(config, 4, self._dim, rope)

    def heads(self, queries: mx.array) -> mx.array:
        """[T, H * d] -> [T, H, d]."""
        return mx.unflatten(queries, -1, (self._heads, self._dim))

    def prepare(self, x: mx.array, qr: mx.array, batch: Batch) -> IndexQueries:
        """x [T, D] (attention input), qr [T, q_lora_rank] (after q_norm)."""
        queries = self._round(apply_rope(self.heads(self.wq_b(qr)), batch.table(self._rope)))
        weights = head_weights(self.weights_proj(x), self._dim)
        return IndexQueries(queries, weights, self.compressor.project(x, batch))

    def extend(self, projections: Projections, batch: Batch, layer: int, dtype: mx.Dtype) -> None:
        """Stores the index keys that the batch completes; the projections are the compressor's."""
        new = []
        for span in batch.spans:
            state = span.state.layers[layer]
            keys, block = self.compressor.entries(projections, span, state.index_compressor, dtype)
            span.state.layers[layer] = replace(state, index_compressor=block)
            new.append(keys)
        keys = mx.concatenate(new)
        pages = batch.pool.index_entries[layer]
        if pages is not None and keys.shape[0]:
            pages.write(batch.new_rows(4), pages.format.encode(rotate_index(keys) if self._simulate else keys))

    def choose(
        self, weights: mx.array, queries: mx.array, windows: Windows, arrays: Sequence[mx.array], topk: int
    ) -> mx.array:
        """The exact best entries of queries [T, H, d], rotated and rounded, with the products of weights_proj [T, H]
        and the index rows of the pool -> uint32 [T, topk], ascending.
        """
        tokens, table = queries.shape[0], windows.pages
        if tokens <= MOST_TOKENS:
            (scores,) = INDEX_SCORES(queries, weights, windows.queries, table, *arrays)
            return best_entries(scores, windows.queries, topk)
        best = []
        for rows in query_blocks(tokens, table.shape[1]):
            own = windows.queries[rows]
            (scores,) = INDEX_TILES(queries[rows], weights[rows], own, table, *arrays)
            best.append(best_entries(scores, own, topk))
        return best[0] if len(best) == 1 else mx.concatenate(best)

    def stored_keys(self, batch: Batch, span: Span, layer: int) -> mx.array:
        """All index keys [N, d] of the span's sequence, those of the span included."""
        pages = batch.pool.index_entries[layer]
        assert pages is not None
        return batch.rows_of(span, pages).all()

    def _round(self, x: mx.array) -> mx.array:
        return rotate_and_simulate_index(x) if self._simulate else x
