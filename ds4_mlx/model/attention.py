"""Attention: a window of raw rows plus compressed entries, one K=V row per token for all heads (spec 3)."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
from mlx import nn

from ds4_mlx.cache import Rows, RowsOf, written
from ds4_mlx.config import ModelConfig
from ds4_mlx.kernels.attend_rows import attend_kernel, combine_kernel
from ds4_mlx.kernels.attend_tiles import attend_tiles_kernel
from ds4_mlx.kernels.attention_rows import attention_rows_kernel
from ds4_mlx.kernels.expert_rows import MOST_TOKENS
from ds4_mlx.kernels.index_twins import choose_entries, index_scores
from ds4_mlx.kernels.kernel import scalar
from ds4_mlx.model.batch import Batch, Span
from ds4_mlx.model.compressor import Compressor, Projections
from ds4_mlx.model.indexer import Indexer, IndexQueries
from ds4_mlx.model.linear import GroupedLinear, Numerics, Projection, QuantizedLinear, RMSNorm, products, unit_rms
from ds4_mlx.model.rope import Rope, apply_rope
from ds4_mlx.model.step import LayerArrays, StepArrays

# Queries attended at once: this many, or fewer where one float32 score per head and entry would pass the bound.
# Evaluation holds a few arrays of that size.
_QUERY_BLOCK = 128
_SCORE_BYTES = 1 << 27


class Attention(nn.Module):
    """The attention sublayer of one layer; `ratio` 0 sees the window only, 4 and 128 compressed entries as well."""

    def __init__(self, config: ModelConfig, numerics: Numerics, ratio: int, rope: Rope) -> None:
        super().__init__()
        heads, dim = config.num_attention_heads, config.head_dim
        self._config, self._ratio, self._rope = config, ratio, rope
        self._eps = scalar(config.rms_norm_eps)
        self.attn_sink = mx.zeros((heads,))
        self.wq_a = QuantizedLinear(config.hidden_size, config.q_lora_rank, numerics)
        self.q_norm = RMSNorm(config.q_lora_rank, config.rms_norm_eps)
        self.wq_b = QuantizedLinear(config.q_lora_rank, heads * dim, numerics)
        self.wkv = QuantizedLinear(config.hidden_size, dim, numerics)
        self.kv_norm = RMSNorm(dim, config.rms_norm_eps)
        self.wo_a = GroupedLinear(config.o_groups, heads * dim // config.o_groups, config.o_lora_rank)
        self.wo_b = QuantizedLinear(config.o_groups * config.o_lora_rank, config.hidden_size, numerics)
        if ratio:
            self.compressor = Compressor(config, ratio, dim, rope)
        if ratio == 4:
            self.indexer = Indexer(config, numerics, rope)

    def __call__(self, x: mx.array, batch: Batch, layer: int) -> mx.array:
        """x [T, D] after attn_norm -> [T, D]. Reads and extends `state.layers[layer]` of every span's sequence."""
        return self.wo_b(self._grouped(self._plain(x, batch, layer)))

    def _grouped(self, o: mx.array) -> mx.array:
        """o [T, H, d] -> [T, groups * o_lora_rank]."""
        return self.wo_a(mx.unflatten(o.flatten(1), -1, (self._config.o_groups, -1)))

    def step(self, x: mx.array, shared: StepArrays, held: LayerArrays) -> tuple[mx.array, LayerArrays]:
        """All but the last matrix by kernels, all sequences' tokens in one launch each: a function of arrays alone.

        x [T, D], what the layers share, and what this one holds -> [T, groups * o_lora_rank], and what it holds then.
        """
        windows, table = shared.windows, shared.table(self._ratio)
        choosing = shared.choosing and self._ratio == 4
        q_a, kv, *projected = products(x, self._inputs(choosing=choosing))
        q, *queries = products(q_a, [self.wq_b, *([self.indexer.wq_b] if choosing else [])], self.q_norm)
        q, queries = self._heads(q), [self.indexer.heads(rows) for rows in queries]
        q, *rows = attention_rows_kernel(indexed=choosing)(
            q, kv, self.kv_norm.weight, *table, self._eps, windows.sources, *held.window, *queries
        )
        window, queries = rows[:3], rows[3:]
        held = held._replace(window=tuple(window))
        if self._ratio:
            pooling = shared.pooling[self._ratio]
            block, parts = self.compressor.step(projected[:2], pooling, held.block, "kv", x.dtype)
            held = held._replace(block=block, entries=written(held.entries, pooling.rows, parts))
        if self._ratio == 4:
            compressor = self.indexer.compressor
            block, parts = compressor.step(projected[2:4], pooling, held.index_block, "index", x.dtype)
            held = held._replace(index_block=block, index_entries=written(held.index_entries, pooling.rows, parts))
        chosen = windows.pages  # not looked at
        if choosing:
            topk = self._config.index_topk
            chosen = self.indexer.choose(projected[4], queries[0], windows, held.index_entries, topk)
        entries = held.entries or window  # the latter not looked at
        seen = windows.queries, windows.pages, chosen
        if q.shape[0] <= MOST_TOKENS:
            sums = attend_kernel(self._ratio, choosing=choosing)(q, *seen, *window, *entries)
            (o,) = combine_kernel(q.dtype)(*sums, self.attn_sink, *table)
        else:
            tiles = attend_tiles_kernel(self._ratio, choosing=choosing)
            (o,) = tiles(q, *seen, self.attn_sink, *table, *window, *entries)
        return self._grouped(o), held

    def _inputs(self, *, choosing: bool) -> list[Projection]:
        """What a step needs of x: queries and K=V rows, of compressed layers values and gates of each compressor, and
        the weights of index heads if the indexer is to choose.
        """
        layers: list[Projection] = [self.wq_a, self.wkv]
        if self._ratio:
            layers += [self.compressor.wkv, self.compressor.wgate]
        if self._ratio == 4:
            layers += [self.indexer.compressor.wkv, self.indexer.compressor.wgate]
        return [*layers, self.indexer.weights_proj] if choosing else layers

    def _heads(self, q: mx.array) -> mx.array:
        """[T, H * d] -> [T, H, d]."""
        return mx.unflatten(q, -1, (self._config.num_attention_heads, self._config.head_dim))

    def _plain(self, x: mx.array, batch: Batch, layer: int) -> mx.array:
        """Any number of tokens by plain operations, one sequence after the other."""
        config, table = self._config, batch.table(self._rope)
        qr = self.q_norm(self.wq_a(x))
        q = apply_rope(unit_rms(self._heads(self.wq_b(qr)), config.rms_norm_eps), table)
        kv = apply_rope(self.kv_norm(self.wkv(x)), table)  # [T, d], not rounded yet
        windows = self._extend_windows(kv, batch, layer)
        # All sequences write before one reads: a read that waits for its turn would make the next write copy the pool.
        if self._ratio:
            self._store_entries(self.compressor.project(x, batch), batch, layer, kv.dtype)
        index = self.indexer.prepare(x, qr, batch) if self._ratio == 4 else None
        if index is not None:
            self.indexer.extend(index.projections, batch, layer, x.dtype)
        outputs = [
            self._attend(q, window, index, batch, span, layer)
            for window, span in zip(windows, batch.spans, strict=True)
        ]
        return apply_rope(mx.concatenate(outputs), table, inverse=True)

    def _extend_windows(self, kv: mx.array, batch: Batch, layer: int) -> list[mx.array]:
        """The rows [w + n, d] that the n new tokens of each span can see in the window; keeps the last ones, encoded,
        for the next call.
        """
        form, windows = batch.pool.kv, []
        new = form.encode(kv)
        for span in batch.spans:
            state = span.state.layers[layer]
            parts = tuple(part[span.rows] for part in new)
            if state.window is not None:
                parts = tuple(mx.concatenate(list(pair)) for pair in zip(state.window.parts, parts, strict=True))
            start = max(0, parts[0].shape[0] - (self._config.sliding_window - 1 + span.state.draft))
            span.state.layers[layer] = replace(state, window=Rows.copied(parts, start))
            windows.append(form.decode(parts))
        return windows

    def _store_entries(self, projections: Projections, batch: Batch, layer: int, dtype: mx.Dtype) -> None:
        """Stores the compressed entries that the batch completes."""
        new = []
        for span in batch.spans:
            state = span.state.layers[layer]
            entries, block = self.compressor.entries(projections, span, state.compressor, dtype)
            span.state.layers[layer] = replace(state, compressor=block)
            new.append(entries)
        entries, pages = mx.concatenate(new), batch.pool.entries[layer]
        if pages is not None and entries.shape[0]:
            pages.write(batch.new_rows(self._ratio), pages.format.encode(entries))

    def _attend(
        self, q: mx.array, window: mx.array, index: IndexQueries | None, batch: Batch, span: Span, layer: int
    ) -> mx.array:
        """The span's queries, a block at a time, against what each of them may see -> [n, H, d] in the dtype of q."""
        width = self._config.sliding_window
        base = span.end - window.shape[0]  # position of the window's first row
        seen = self._seen_entries(index, batch, span, layer)
        block = self._query_block(seen.count if seen else 0)
        outputs = []
        for start in range(0, span.length, block):
            stop = min(start + block, span.length)
            rows = slice(span.start + start, span.start + stop)
            positions = np.arange(span.position + start, span.position + stop)
            low = max(base, int(positions[0]) - width + 1)
            row_positions = np.arange(low, span.position + stop)
            in_window = (row_positions <= positions[:, None]) & (row_positions > positions[:, None] - width)
            entries, entry_mask = seen.by(rows, positions) if seen else (None, None)
            kept = window[low - base : span.position + stop - base]
            o = attend(q[rows], kept, mx.array(in_window), entries, entry_mask, self.attn_sink)
            outputs.append(o.astype(q.dtype))
        return mx.concatenate(outputs)

    def _seen_entries(self, index: IndexQueries | None, batch: Batch, span: Span, layer: int) -> SeenEntries | None:
        """What there is beside the window; None if nothing."""
        pages, topk = batch.pool.entries[layer], self._config.index_topk
        if pages is None or span.end < self._ratio:
            return None
        held = batch.rows_of(span, pages)
        choosing = index if held.count > topk else None
        keys = self.indexer.stored_keys(batch, span, layer) if choosing else None
        return SeenEntries(held, topk, span.length, choosing, keys)

    def _query_block(self, entries: int) -> int:
        """How many queries to attend at once, so that memory stays bounded however long the sequence."""
        heads = max(self._config.num_attention_heads, self._config.index_n_heads)
        per_query = 4 * heads * max(1, entries)
        return max(1, min(_QUERY_BLOCK, _SCORE_BYTES // per_query))


class SeenEntries:
    """The compressed entries of one sequence in one layer, as the queries of a call see them.

    index: the indexer's part of the call where it must choose, with its keys [N, d]; None where all entries are read.
    """

    def __init__(
        self, held: RowsOf, topk: int, queries: int, index: IndexQueries | None, keys: mx.array | None
    ) -> None:
        self.count = held.count
        self._held, self._topk, self._index, self._keys = held, topk, index, keys
        # Decoded once for all queries, unless what these choose is fewer rows.
        self._all = held.all() if keys is None or queries * topk >= self.count else None

    def by(self, rows: slice, positions: np.ndarray) -> tuple[mx.array, mx.array]:
        """The entries that the queries at `rows` of the batch may use, and the mask over them.

        All entries [N, d] with a causal mask [B, N]; or, where the indexer must choose, [B, k, d] and a mask [B, k].
        Entry b covers tokens up to ratio * b + ratio - 1 and is visible from there on.
        """
        n, ratio = self.count, self._held.layer.ratio
        # Compared on the device: a mask made here would be held for every block of every layer until evaluation.
        visible = mx.arange(n) < mx.array((positions + 1) // ratio)[:, None]
        if self._index is None or self._keys is None:
            assert self._all is not None
            return self._all, visible
        scores = index_scores(self._index.queries[rows], self._index.weights[rows], self._keys)
        chosen = choose_entries(scores, visible, self._topk)
        numbers = mx.minimum(chosen, n - 1)
        return self._held.chosen(numbers) if self._all is None else self._all[numbers], chosen < n


def attend(
    q: mx.array,
    window: mx.array,
    window_mask: mx.array,
    entries: mx.array | None,
    entry_mask: mx.array | None,
    sink: mx.array,
) -> mx.array:
    """Softmax attention with a sink, float32 throughout; keys are the values.

    q [B, H, d]; window [L, d] with mask [B, L]; entries [N, d] shared or [B, N, d] per query with mask [B, N].
    sink [H] is a logit with value zero: it only enlarges the denominator and has no say in the maximum.
    -> float32 [B, H, d].
    """
    scale = q.shape[-1] ** -0.5
    q, window = q.astype(mx.float32), window.astype(mx.float32)
    scores = mx.where(window_mask[:, None], q @ window.T * scale, -mx.inf)  # [B, H, L]
    if entries is not None and entry_mask is not None:
        entries = entries.astype(mx.float32)
        entry_scores = mx.where(entry_mask[:, None], q @ entries.swapaxes(-1, -2) * scale, -mx.inf)
        scores = mx.concatenate([scores, entry_scores], axis=-1)
    top = scores.max(axis=-1, keepdims=True)  # a query always sees itself, so this is finite
    weights = mx.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True) + mx.exp(sink[:, None] - top)
    o = weights[..., : window.shape[0]] @ window
    if entries is not None:
        o = o + weights[..., window.shape[0] :] @ entries
    return o / total
