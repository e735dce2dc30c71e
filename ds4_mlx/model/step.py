"""A call of few tokens as the kernels of attention see it: which rows are whose, in arrays that all layers share.

Where the plain path walks over sequences, these kernels take the tokens of all of them in one launch. Old rows of all
sequences lie one after the other; row numbers from 0 up name them, -1 - t names the row of token t of the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ds4_mlx.cache import OpenBlock
from ds4_mlx.config import ModelConfig
from ds4_mlx.kernels import runs_kernels
from ds4_mlx.kernels.pool_twins import NO_ROW
from ds4_mlx.model.batch import Batch, Span
from ds4_mlx.model.rope import Rope, RopeTable

MOST_TOKENS = 8
# Page tables are lengthened by so many pages at once (32,768 tokens), for shapes follow from theirs.
_PAGES = 256


def is_step(batch: Batch, config: ModelConfig) -> bool:
    """Whether the kernels of attention take this call: few tokens, packed rows, a GPU. Rows of odd widths, which no
    released model has, stay with the plain operations.
    """
    packed = batch.pool.kv.name == "fp8" and config.head_dim % 64 == 0 and config.head_dim <= 1024
    return runs_kernels() and packed and len(batch.positions) <= MOST_TOKENS


@dataclass(frozen=True)
class Windows:
    """sources int32 [O]: the rows of all windows of the call, old and new ones. queries uint32 [T, 4] and pages uint32
    [B, P] as `attend_kernel` takes them. kept: which of the O rows each sequence keeps.
    """

    sources: mx.array
    queries: mx.array
    pages: mx.array
    kept: list[slice]

    @classmethod
    def of(cls, batch: Batch, held: Sequence[int], width: int) -> Windows:
        """held: how many window rows each sequence has. width: how many tokens a query sees, itself included."""
        sources, queries, kept = [], [], []
        old = new = 0
        for number, (span, count) in enumerate(zip(batch.spans, held, strict=True)):
            rows = np.concatenate([old + np.arange(count), -1 - np.arange(span.start, span.stop)])
            positions = np.arange(span.position, span.end)
            first = span.end - rows.size  # position of the first row
            low = np.maximum(positions - width + 1, first)
            seen = [np.full_like(positions, number), new + low - first, positions - low + 1, positions + 1]
            sources.append(rows)
            queries.append(np.stack(seen, axis=1))
            kept.append(slice(new + max(0, rows.size - (width - 1 + span.state.draft)), new + rows.size))
            old, new = old + count, new + rows.size
        return cls(
            mx.array(np.concatenate(sources).astype(np.int32)),
            mx.array(np.concatenate(queries).astype(np.uint32)),
            _page_table(batch),
            kept,
        )


def _page_table(batch: Batch) -> mx.array:
    """uint32 [B, P]: the pages of every sequence, zeros behind them."""
    tables = [span.state.table.pages for span in batch.spans]
    pages = np.zeros((len(tables), -(-max(1, *map(len, tables)) // _PAGES) * _PAGES), dtype=np.uint32)
    for row, table in zip(pages, tables, strict=True):
        row[: len(table)] = table
    return mx.array(pages)


@dataclass(frozen=True)
class Pooling:
    """A step of all compressors of one ratio. phases, sources and blocks int32 as `pool_kernel` takes them, the last
    None if no entry is completed; the angles of the entries' positions. kept: which of the rows named by `sources` each
    sequence keeps, None for none.
    """

    phases: mx.array
    sources: mx.array
    kept: list[slice | None]
    blocks: mx.array | None
    table: RopeTable

    @classmethod
    def of(cls, batch: Batch, held: Sequence[int], ratio: int, rope: Rope) -> Pooling:
        """held: how many rows of open blocks each sequence has."""
        sources: list[np.ndarray] = []
        blocks: list[np.ndarray] = []
        kept: list[slice | None] = []
        positions = []
        old = new = 0
        for span, count in zip(batch.spans, held, strict=True):
            rows = np.concatenate([old + np.arange(count), -1 - np.arange(span.start, span.stop)])
            first = span.end - rows.size  # position of the first row
            for block in range(span.position // ratio, span.end // ratio):
                start = block * ratio
                own = rows[start - first : start - first + ratio]
                if ratio == 4:  # entries overlap
                    before = rows[start - first - ratio : start - first] if block else np.full(ratio, NO_ROW)
                    own = np.concatenate([before, own])
                blocks.append(own)
                positions.append(start)
            stay = rows[max(0, needed_from(span, ratio) - first) :]
            kept.append(slice(new, new + stay.size) if stay.size else None)
            sources.append(stay)
            old, new = old + count, new + stay.size
        if new == 0:
            sources = [np.array([-1])]  # a kernel writes something
        return cls(
            mx.array((batch.positions % ratio).astype(np.int32)),
            mx.array(np.concatenate(sources).astype(np.int32)),
            kept,
            mx.array(np.stack(blocks).astype(np.int32)) if blocks else None,
            rope.table(np.array(positions, dtype=np.int64)),
        )


def needed_from(span: Span, ratio: int) -> int:
    """The first token whose projections are needed after the span, or after taking back what may be taken back."""
    end = max(0, span.end - span.state.draft)
    return max(0, (end // ratio - (1 if ratio == 4 else 0)) * ratio)


def joined(parts: Sequence[Sequence[mx.array] | None], widths: Sequence[tuple[int, mx.Dtype]]) -> list[mx.array]:
    """The rows of all sequences one after the other: an array per part. One row of zeros if there are none."""
    present = [part for part in parts if part is not None]
    if not present:
        return [mx.zeros((1, width), dtype=dtype) for width, dtype in widths]
    return [
        arrays[0] if len(arrays) == 1 else mx.concatenate(arrays) for arrays in map(list, zip(*present, strict=True))
    ]


def open_blocks(kept: list[slice | None], values: mx.array, gates: mx.array) -> list[OpenBlock | None]:
    """What each sequence keeps of the rows that a kernel gave."""
    return [None if rows is None else OpenBlock(values[rows], gates[rows]) for rows in kept]
