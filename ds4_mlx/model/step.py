"""A call as the kernels of attention see it: which rows are whose, in arrays that all layers share.

Where the plain path walks over sequences, these kernels take the tokens of all of them in one launch. Old rows of all
sequences lie one after the other; row numbers from 0 up name them, -1 - t names the row of token t of the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ds4_mlx.cache import Rows
from ds4_mlx.config import ModelConfig
from ds4_mlx.kernels import runs_kernels
from ds4_mlx.kernels.expert_rows import MOST_TOKENS
from ds4_mlx.kernels.pool_twins import NO_ROW
from ds4_mlx.model.batch import Batch, Span
from ds4_mlx.model.rope import Rope, RopeTable

# Page tables are lengthened by so many pages at once (32,768 tokens), for shapes follow from theirs.
_PAGES = 256
# And so are windows, and the rows of compressors by their ratio.
_WINDOW_ROWS = 32
_BLOCK_ROWS = {4: 8, 128: 32}


def is_step(batch: Batch, config: ModelConfig) -> bool:
    """Whether the kernels of attention take this call: few tokens, packed rows, a GPU. Rows of odd widths, which no
    released model has, stay with the plain operations.
    """
    return _by_kernels(batch, config) and len(batch.positions) <= MOST_TOKENS


def takes_tiles(batch: Batch, config: ModelConfig) -> bool:
    """The same for many tokens, of which attention's tiles take any number."""
    return _by_kernels(batch, config) and len(batch.positions) > MOST_TOKENS


def _by_kernels(batch: Batch, config: ModelConfig) -> bool:
    packed = batch.pool.kv.name == "fp8" and config.head_dim % 64 == 0 and config.head_dim <= 512
    return runs_kernels() and packed


class Place(NamedTuple):
    """Rows start to stop of arrays that the sequences of a call share."""

    start: int
    stop: int


def joint(
    rows: Sequence[Rows | None], parts: Sequence[tuple[int, mx.Dtype]]
) -> tuple[Sequence[mx.array], tuple[Place, ...]]:
    """Arrays that have the old rows of all sequences, and where. Nothing is copied if the sequences were together in
    their last call too. One row of zeros per part (width and dtype) if no sequence has any.
    """
    present = [row for row in rows if row is not None]
    if not present:
        return [mx.zeros((1, width), dtype=dtype) for width, dtype in parts], (Place(0, 0),) * len(rows)
    if all(row.whole[0] is present[0].whole[0] for row in present):
        return present[0].whole, tuple(Place(0, 0) if row is None else Place(row.start, row.stop) for row in rows)
    ends = np.cumsum([0 if row is None else row.count for row in rows]).tolist()
    arrays = [mx.concatenate(list(part)) for part in zip(*(row.parts for row in present), strict=True)]
    return arrays, tuple(Place(start, stop) for start, stop in zip([0, *ends], ends, strict=False))


def _row_numbers(span: Span, place: Place) -> np.ndarray:
    """The rows of a sequence: old ones, then those of the call."""
    return np.concatenate([np.arange(place.start, place.stop), -1 - np.arange(span.start, span.stop)])


def _padded(numbers: Sequence[np.ndarray], multiple: int) -> mx.array:
    """All of them, and some more rows that nobody reads, so that shapes do not change with every token."""
    joined = np.concatenate(numbers)
    missing = max(1, -(-joined.size // multiple)) * multiple - joined.size
    return mx.array(np.concatenate([joined, np.full(missing, -1)]).astype(np.int32))


@dataclass(frozen=True)
class Windows:
    """sources int32 [O]: the rows of all windows of the call, old and new ones. queries uint32 [T, 4] and pages uint32
    [B, P] as `attend_kernel` takes them. kept: which of the O rows each sequence keeps.
    """

    sources: mx.array
    queries: mx.array
    pages: mx.array
    kept: list[Place]

    @classmethod
    def of(cls, batch: Batch, held: Sequence[Place], width: int) -> Windows:
        """held: where the old rows of each sequence are. width: how many tokens a query sees, itself included."""
        sources, queries, kept = [], [], []
        new = 0
        for number, (span, place) in enumerate(zip(batch.spans, held, strict=True)):
            rows = _row_numbers(span, place)
            positions = np.arange(span.position, span.end)
            first = span.end - rows.size  # position of the first row
            low = np.maximum(positions - width + 1, first)
            seen = [np.full_like(positions, number), new + low - first, positions - low + 1, positions + 1]
            sources.append(rows)
            queries.append(np.stack(seen, axis=1))
            kept.append(Place(new + max(0, rows.size - (width - 1 + span.state.draft)), new + rows.size))
            new += rows.size
        queries_array = mx.array(np.concatenate(queries).astype(np.uint32))
        return cls(_padded(sources, _WINDOW_ROWS), queries_array, _page_table(batch), kept)


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
    kept: list[Place | None]
    blocks: mx.array | None
    table: RopeTable

    @classmethod
    def of(cls, batch: Batch, held: Sequence[Place], ratio: int, rope: Rope) -> Pooling:
        """held: where the old rows of each sequence are."""
        sources: list[np.ndarray] = []
        blocks: list[np.ndarray] = []
        kept: list[Place | None] = []
        positions = []
        new = 0
        for span, place in zip(batch.spans, held, strict=True):
            rows = _row_numbers(span, place)
            first = span.end - rows.size  # position of the first row
            for block in range(span.position // ratio, span.end // ratio):
                start = block * ratio
                own = rows[start - first : start - first + ratio]
                if ratio == 4:  # entries overlap
                    before = rows[start - first - ratio : start - first] if block else np.full(ratio, NO_ROW)
                    own = np.concatenate([before, own])
                blocks.append(own)
                positions.append(start)
            stay = rows[max(0, needed_from(max(0, span.end - span.state.draft), ratio) - first) :]
            kept.append(Place(new, new + stay.size) if stay.size else None)
            sources.append(stay)
            new += stay.size
        return cls(
            mx.array((batch.positions % ratio).astype(np.int32)),
            _padded(sources, _BLOCK_ROWS[ratio]),
            kept,
            mx.array(np.stack(blocks).astype(np.int32)) if blocks else None,
            rope.table(np.array(positions, dtype=np.int64)),
        )


def needed_from(position: int, ratio: int) -> int:
    """The first token whose projections a sequence that goes on at `position` still needs: of the open block, or of the
    one before it where entries overlap.
    """
    block = position // ratio - (1 if ratio == 4 else 0)
    return max(0, block * ratio)
