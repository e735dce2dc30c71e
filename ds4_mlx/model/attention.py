"""Attention: a window of raw rows plus compressed entries, one K=V row per token for all heads (spec 3)."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from mlx import nn

from ds4_mlx.cache import LayerState, last_rows
from ds4_mlx.config import ModelConfig
from ds4_mlx.model.batch import Batch, Span
from ds4_mlx.model.compressor import Compressor
from ds4_mlx.model.indexer import Indexer, IndexQueries, choose_entries, index_scores
from ds4_mlx.model.linear import GroupedLinear, Numerics, QuantizedLinear, RMSNorm, unit_rms
from ds4_mlx.model.rope import Rope, apply_rope
from ds4_mlx.quant.simulate import simulate_kv

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
        self._simulate = numerics.simulate_quantization
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
        config, table = self._config, batch.table(self._rope)
        qr = self.q_norm(self.wq_a(x))
        q = mx.unflatten(self.wq_b(qr), -1, (config.num_attention_heads, config.head_dim))  # [T, H, d]
        q = apply_rope(unit_rms(q, config.rms_norm_eps), table)
        kv = self._store(apply_rope(self.kv_norm(self.wkv(x)), table))  # [T, d]
        projections = self.compressor.project(x, batch) if self._ratio else None
        index = self.indexer.prepare(x, qr, batch) if self._ratio == 4 else None

        outputs = []
        for span in batch.spans:
            state = span.state.layers[layer]
            window = self._extend_window(kv[span.rows], state)
            entries = None
            if projections is not None:
                assert state.compressor is not None
                assert state.entries is not None
                new = self.compressor.entries(projections, span, state.compressor, kv.dtype)
                entries = state.entries.append(self._store(new) if new.shape[0] else new)
            keys = self.indexer.extend(index, span, state) if index is not None else None
            outputs.append(self._attend(q, window, entries, index, keys, span))
        o = apply_rope(mx.concatenate(outputs), table, inverse=True)  # [T, H, d]
        return self.wo_b(self.wo_a(mx.unflatten(o.flatten(1), -1, (config.o_groups, -1))))

    def _store(self, rows: mx.array) -> mx.array:
        """Rounds K=V rows [n, d] to what the cache keeps."""
        return simulate_kv(rows, self._config.nope_dim) if self._simulate else rows

    def _extend_window(self, new: mx.array, state: LayerState) -> mx.array:
        """The rows [w + n, d] that the n new tokens can see in the window; keeps the last ones for the next call."""
        rows = new if state.window is None else mx.concatenate([state.window, new])
        keep = self._config.sliding_window - 1
        state.window = last_rows(rows, max(0, rows.shape[0] - keep))
        return rows

    def _attend(
        self,
        q: mx.array,
        window: mx.array,
        entries: mx.array | None,
        index: IndexQueries | None,
        keys: mx.array | None,
        span: Span,
    ) -> mx.array:
        """The span's queries, a block at a time, against what each of them may see -> [n, H, d] in the dtype of q."""
        width = self._config.sliding_window
        base = span.position + span.length - window.shape[0]  # position of the window's first row
        block = self._query_block(0 if entries is None else entries.shape[0])
        outputs = []
        for start in range(0, span.length, block):
            stop = min(start + block, span.length)
            rows = slice(span.start + start, span.start + stop)
            positions = np.arange(span.position + start, span.position + stop)
            low = max(base, int(positions[0]) - width + 1)
            row_positions = np.arange(low, span.position + stop)
            in_window = (row_positions <= positions[:, None]) & (row_positions > positions[:, None] - width)
            seen = self._seen_entries(entries, keys, index, rows, positions)
            kept = window[low - base : span.position + stop - base]
            o = attend(q[rows], kept, mx.array(in_window), *seen, self.attn_sink)
            outputs.append(o.astype(q.dtype))
        return mx.concatenate(outputs)

    def _query_block(self, entries: int) -> int:
        """How many queries to attend at once, so that memory stays bounded however long the sequence."""
        heads = max(self._config.num_attention_heads, self._config.index_n_heads)
        per_query = 4 * heads * max(1, entries)
        return max(1, min(_QUERY_BLOCK, _SCORE_BYTES // per_query))

    def _seen_entries(
        self,
        entries: mx.array | None,
        keys: mx.array | None,
        index: IndexQueries | None,
        rows: slice,
        positions: np.ndarray,
    ) -> tuple[mx.array | None, mx.array | None]:
        """The entries that the queries at `rows` of the batch may use, and the mask over them.

        All entries [N, d] with a causal mask [B, N]; or, where the indexer must choose, [B, k, d] and a mask [B, k].
        Entry b covers tokens up to ratio * b + ratio - 1 and is visible from there on.
        """
        if entries is None or entries.shape[0] == 0:
            return None, None
        n, topk = entries.shape[0], self._config.index_topk
        # Compared on the device: a mask made here would be held for every block of every layer until evaluation.
        visible = mx.arange(n) < mx.array((positions + 1) // self._ratio)[:, None]
        if index is None or keys is None or n <= topk:
            return entries, visible
        chosen = choose_entries(index_scores(index.queries[rows], index.weights[rows], keys), visible, topk)
        return entries[mx.minimum(chosen, n - 1)], chosen < n


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
