"""What a step of a compressor computes, in plain operations (spec 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import mlx.core as mx

from ds4_mlx.kernels.attention_twins import turn_pairs
from ds4_mlx.kernels.dense_twins import rms_norm
from ds4_mlx.quant.rows import pack_index, pack_kv
from ds4_mlx.quant.simulate import rotate_index

NO_ROW = -(1 << 30)  # in place of a row of the block before the first


def keep_twin(*inputs: mx.array) -> list[mx.array]:
    """`KEEP_ROWS`: the rows that stay."""
    *projections, sources = inputs
    return _rows(projections, sources)


def pool_twin(kind: Literal["kv", "index"], dtype: mx.Dtype, *inputs: mx.array) -> list[mx.array]:
    """`pool_kernel`: the rows that stay, and the parts of the entries."""
    *projections, sources, weight, eps, blocks, cos, sin = inputs
    width, (_, slots) = weight.shape[0], blocks.shape
    missing = blocks == NO_ROW
    values, gates = _rows(projections, mx.where(missing, 0, blocks))  # [E, slots, c * d]
    gates = mx.where(missing[..., None], -mx.inf, gates)
    if values.shape[-1] > width:  # two series: the first for the block before
        half = slots // 2
        values, gates = (mx.concatenate([x[:, :half, :width], x[:, half:, width:]], axis=1) for x in (values, gates))
    pooled = (mx.softmax(gates, axis=1) * values).sum(axis=1).astype(dtype)
    entries = turn_pairs(rms_norm(pooled, weight, eps), cos, sin)
    kept = _rows(projections, sources)
    if kind == "index":
        return [*kept, *pack_index(rotate_index(entries))]
    return [*kept, *pack_kv(entries, width - 2 * cos.shape[-1])]


def _rows(projections: Sequence[mx.array], rows: mx.array) -> list[mx.array]:
    """Rows of values and gates: row s of the old ones, or, in turned order behind them, of the new ones."""
    values, gates, ape, phases, old_values, old_gates = projections
    rows = mx.where(rows < 0, old_values.shape[0] - 1 - rows, rows)
    return [mx.concatenate([old_values, values])[rows], mx.concatenate([old_gates, gates + ape[phases]])[rows]]
