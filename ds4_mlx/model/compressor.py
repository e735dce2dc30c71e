"""Compressors: pool 4 or 128 tokens into one cached entry (spec 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np
from mlx import nn

from ds4_mlx.cache import Rows
from ds4_mlx.config import ModelConfig
from ds4_mlx.kernels.kernel import scalar
from ds4_mlx.kernels.pool_rows import KEEP_ROWS, Kind, pool_kernel
from ds4_mlx.model.batch import Batch, Span
from ds4_mlx.model.linear import LinearFloat32, RMSNorm
from ds4_mlx.model.rope import Rope, apply_rope
from ds4_mlx.model.step import Arrays, Pooling, needed_from


class Projections(NamedTuple):
    """K_t and G_t + ape of every token of a call, float32 [T, c * d]."""

    values: mx.array
    gates: mx.array


class Compressor(nn.Module):
    """Emits one entry [d] per complete block of `ratio` tokens, each channel its own softmax over the pooled tokens.

    With ratio 4 there are two series of channels, and an entry pools the first series of the block before with the
    second series of its own block: entries overlap. What comes out is normed and rotated, not yet rounded as the cache
    stores it.
    """

    def __init__(self, config: ModelConfig, ratio: int, dim: int, rope: Rope) -> None:
        super().__init__()
        self._ratio, self._dim, self._rope = ratio, dim, rope
        self._overlap = ratio == 4
        channels = dim * (2 if self._overlap else 1)
        self.wkv = LinearFloat32(config.hidden_size, channels)
        self.wgate = LinearFloat32(config.hidden_size, channels)
        self.ape = mx.zeros((ratio, channels))
        self.norm = RMSNorm(dim, config.rms_norm_eps)
        self._eps = scalar(config.rms_norm_eps)

    def project(self, x: mx.array, batch: Batch) -> Projections:
        """x [T, D] -> the projections of every token."""
        ape = self.ape[mx.array(batch.positions % self._ratio)]
        return Projections(self.wkv(x), self.wgate(x) + ape)

    def entries(
        self, new: Projections, span: Span, before: Rows | None, dtype: mx.Dtype
    ) -> tuple[mx.array, Rows | None]:
        """Pools the blocks that the span completes -> entries [n, d], and what later ones need of the tokens so far."""
        values, gates = new.values[span.rows], new.gates[span.rows]
        if before is not None:
            old_values, old_gates = before.parts
            values = mx.concatenate([old_values, values])
            gates = mx.concatenate([old_gates, gates])
        end = span.position + span.length
        first = end - values.shape[0]  # position of the first row
        # What may be rolled back must not take more with it, so its blocks stay as well.
        keep = max(0, needed_from(max(0, end - span.state.draft), self._ratio) - first)
        after = Rows.copied((values, gates), keep) if keep < values.shape[0] else None
        first_block, stop_block = span.position // self._ratio, end // self._ratio
        if first_block == stop_block:
            return mx.zeros((0, self._dim), dtype=dtype), after
        rows = slice(needed_from(span.position, self._ratio) - first, stop_block * self._ratio - first)
        pooled = self._pool(values[rows], gates[rows], has_previous=self._overlap and first_block > 0)
        positions = np.arange(first_block, stop_block) * self._ratio
        return apply_rope(self.norm(pooled.astype(dtype)), self._rope.table(positions)), after

    def step(
        self, products: Sequence[mx.array], pooling: Pooling, before: Arrays, kind: Kind, dtype: mx.Dtype
    ) -> tuple[Arrays, Arrays]:
        """`project` and `entries` of all sequences for a call of few tokens, by one kernel.

        The products of x with wkv and wgate [T, c * d], the sequences' open blocks, the dtype of x -> the open blocks
        after the call, and the entries as the cache stores them, an array per part (none if nothing is completed).
        """
        rows = *products, self.ape, pooling.phases, *before, pooling.sources
        if pooling.blocks is None or pooling.table is None:
            return tuple(KEEP_ROWS(*rows)), ()
        both = pool_kernel(kind, dtype)(*rows, self.norm.weight, self._eps, pooling.blocks, *pooling.table)
        return tuple(both[:2]), tuple(both[2:])

    def _pool(self, values: mx.array, gates: mx.array, *, has_previous: bool) -> mx.array:
        """Whole blocks of rows [blocks * ratio, c * d] -> one float32 entry [d] per new block."""
        values = mx.unflatten(values, 0, (-1, self._ratio))  # [blocks, ratio, c * d]
        gates = mx.unflatten(gates, 0, (-1, self._ratio))
        if self._overlap:
            d = self._dim
            if not has_previous:  # block 0 has no predecessor: slots of weight zero
                values = mx.concatenate([mx.zeros_like(values[:1]), values])
                gates = mx.concatenate([mx.full(gates[:1].shape, -mx.inf), gates])
            values = mx.concatenate([values[:-1, :, :d], values[1:, :, d:]], axis=1)  # [n, 8, d]
            gates = mx.concatenate([gates[:-1, :, :d], gates[1:, :, d:]], axis=1)
        return (mx.softmax(gates, axis=1) * values).sum(axis=1)
