"""A call as kernels see it: one function of arrays for all layers, which MLX compiles once for few tokens.

Where the plain path walks over sequences, kernels take the tokens of all of them in one launch. Old rows of all
sequences lie one after the other; row numbers from 0 up name them, -1 - t names the row of token t of the call. What
the host decides from positions (which row is whose, which entries are completed) goes in as arrays, and their shapes
stay as a context grows, so that what was compiled serves on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ds4_mlx.cache import LayerState, Rows
from ds4_mlx.config import ModelConfig
from ds4_mlx.kernels import runs_kernels
from ds4_mlx.kernels.expert_rows import MOST_TOKENS
from ds4_mlx.kernels.pool_twins import NO_ROW
from ds4_mlx.model.batch import Batch, Span
from ds4_mlx.model.rope import Rope, RopeTable

Arrays = tuple[mx.array, ...]

# The grid of attention's tiles has no more rows.
MOST_QUERIES = 65_535
# Page tables are lengthened by so many pages at once (32,768 tokens), for shapes follow from theirs.
_PAGES = 256
# And so are, for each sequence, windows and the rows of compressors by their ratio.
_WINDOW_ROWS = 32
_BLOCK_ROWS = {4: 8, 128: 128}


def is_step(batch: Batch, config: ModelConfig) -> bool:
    """Whether the kernels of attention take this call: packed rows, a GPU. Rows of odd widths, which no released model
    has, stay with the plain operations.
    """
    packed = batch.pool.kv.name == "fp8" and config.head_dim % 64 == 0 and config.head_dim <= 512
    return runs_kernels() and packed and len(batch.positions) <= MOST_QUERIES


class Place(NamedTuple):
    """Rows start to stop of arrays that the sequences of a call share."""

    start: int
    stop: int


class Windows(NamedTuple):
    """sources int32 [O]: the rows of all windows of the call, old and new ones. queries uint32 [T, 4] and pages uint32
    [B, P] as `attend_kernel` takes them.
    """

    sources: mx.array
    queries: mx.array
    pages: mx.array


class Pooling(NamedTuple):
    """A step of all compressors of one ratio: phases, sources and blocks int32 as `pool_kernel` takes them, the angles
    of the entries' positions, and int32 [n] where in the pool entries belong. blocks, table and rows are None if no
    entry is completed. Few tokens complete as many entries as there are tokens: the last of them is there again.
    """

    phases: mx.array
    sources: mx.array
    blocks: mx.array | None
    table: RopeTable | None
    rows: mx.array | None


class StepArrays(NamedTuple):
    """What all layers of a step share. ids int32 [T]; angles of the tokens by kind of layer; `pooling` by ratio;
    whether the indexer must choose.
    """

    ids: mx.array
    plain: RopeTable
    yarn: RopeTable
    windows: Windows
    pooling: dict[int, Pooling]
    choosing: bool

    def table(self, ratio: int) -> RopeTable:
        """The angles in layers of that ratio."""
        return self.yarn if ratio else self.plain


class LayerArrays(NamedTuple):
    """What a layer remembers of all sequences of a step: windows and open blocks, and its arrays of the pool.

    Empty where the layer has no such thing.
    """

    window: Arrays
    block: Arrays = ()
    index_block: Arrays = ()
    entries: Arrays = ()
    index_entries: Arrays = ()


@dataclass(frozen=True)
class Step:
    """The arrays that go into a call, and which rows of what comes out each sequence keeps."""

    arrays: StepArrays
    layers: list[LayerArrays]
    windows_kept: list[Place]
    blocks_kept: dict[int, list[Place | None]]

    @classmethod
    def of(cls, batch: Batch, config: ModelConfig, plain: Rope, yarn: Rope) -> Step:
        """`plain` and `yarn` are the ropes of layers with ratio 0 and of all others."""
        layers, held = _held(batch, config)
        windows, windows_kept = _windows(batch, held[0], config.sliding_window)
        poolings = {ratio: _pooling(batch, places, ratio, yarn) for ratio, places in held.items() if ratio}
        tables = *plain.on_host(batch.positions), *yarn.on_host(batch.positions)
        made = [*tables, *windows, *(array for pooling, _ in poolings.values() for array in pooling)]
        placed = iter(on_device(made))
        plain_table, yarn_table = (RopeTable(next(placed), next(placed)) for _ in range(2))
        arrays = StepArrays(
            batch.ids,
            plain_table,
            yarn_table,
            Windows(next(placed), next(placed), next(placed)),
            {ratio: _pooling_of([next(placed) for _ in pooling]) for ratio, (pooling, _) in poolings.items()},
            4 in held and max(span.end for span in batch.spans) // 4 > config.index_topk,
        )
        return cls(arrays, layers, windows_kept, {ratio: kept for ratio, (_, kept) in poolings.items()})

    def keep(self, batch: Batch, layers: Sequence[LayerArrays]) -> None:
        """Gives every sequence its rows of what the step made, and the pool its arrays."""
        pool, many = batch.pool, len(batch.positions) > MOST_TOKENS
        for layer, (ratio, made) in enumerate(zip(pool.ratios, layers, strict=True)):
            for pages, arrays in ((pool.entries[layer], made.entries), (pool.index_entries[layer], made.index_entries)):
                if pages is not None:
                    pages.arrays = list(arrays)
            blocks = self.blocks_kept.get(ratio, [None] * len(batch.spans))
            for span, window, block in zip(batch.spans, self.windows_kept, blocks, strict=True):
                rows = Rows(made.window, *window)
                span.state.layers[layer] = LayerState(
                    rows.alone() if many else rows,  # a call's windows are as long as the call
                    Rows(made.block, *block) if block else None,
                    Rows(made.index_block, *block) if block and made.index_block else None,
                )


def _held(batch: Batch, config: ModelConfig) -> tuple[list[LayerArrays], dict[int, tuple[Place, ...]]]:
    """What the layers hold, and where the rows of each sequence are: of windows (0) and of compressors by ratio."""
    pool = batch.pool
    held: dict[int, tuple[Place, ...]] = {}
    window_parts = tuple((part.width, part.dtype) for part in pool.kv.parts)

    def joined(rows: Sequence[Rows | None], parts: tuple[tuple[int, mx.Dtype], ...], ratio: int, unit: int) -> Arrays:
        arrays, places = joint(rows, parts, unit * len(rows))
        # One set of row numbers serves all layers, which have always taken the same tokens in the same calls.
        assert held.setdefault(ratio, places) == places
        return arrays

    layers = []
    for layer, ratio in enumerate(pool.ratios):
        of_layer = [span.state.layers[layer] for span in batch.spans]
        arrays = LayerArrays(joined([state.window for state in of_layer], window_parts, 0, _WINDOW_ROWS))
        if ratio:
            unit = _BLOCK_ROWS[ratio]
            series = 2 if ratio == 4 else 1
            parts = ((series * config.head_dim, mx.float32),) * 2
            block = joined([state.compressor for state in of_layer], parts, ratio, unit)
            pages = pool.entries[layer]
            assert pages is not None
            arrays = arrays._replace(block=block, entries=tuple(pages.arrays))
        if ratio == 4:
            parts = ((2 * config.index_head_dim, mx.float32),) * 2
            index_block = joined([state.index_compressor for state in of_layer], parts, ratio, unit)
            pages = pool.index_entries[layer]
            assert pages is not None
            arrays = arrays._replace(index_block=index_block, index_entries=tuple(pages.arrays))
        layers.append(arrays)
    return layers, held


def joint(
    rows: Sequence[Rows | None], parts: tuple[tuple[int, mx.Dtype], ...], multiple: int
) -> tuple[Arrays, tuple[Place, ...]]:
    """Arrays that have the old rows of all sequences and as many more as make a multiple of `multiple`, and where the
    sequences' rows are. Nothing is copied if the sequences were together in their last call too. Width and dtype of
    each array are in `parts`.
    """
    present = [row for row in rows if row is not None]
    total = sum(row.count for row in present)
    if not present:
        return _zeros(multiple, parts), (Place(0, 0),) * len(rows)
    whole = present[0].whole
    if whole[0].shape[0] == _rounded_up(total, multiple) and all(row.whole[0] is whole[0] for row in present):
        return whole, tuple(Place(0, 0) if row is None else Place(row.start, row.stop) for row in rows)
    ends = np.cumsum([0 if row is None else row.count for row in rows]).tolist()
    missing = _rounded_up(total, multiple) - total
    pieces = [row.parts for row in present] + ([_zeros(missing, parts)] if missing else [])
    arrays = tuple(mx.concatenate(list(part)) if part[1:] else part[0] for part in zip(*pieces, strict=True))
    return arrays, tuple(Place(start, stop) for start, stop in zip([0, *ends], ends, strict=False))


@cache
def _zeros(count: int, parts: tuple[tuple[int, mx.Dtype], ...]) -> Arrays:
    """Rows that nobody reads."""
    return tuple(mx.zeros((count, width), dtype=dtype) for width, dtype in parts)


def _rounded_up(count: int, multiple: int) -> int:
    """To the next multiple, at least one."""
    return max(1, -(-count // multiple)) * multiple


def _row_numbers(span: Span, place: Place) -> np.ndarray:
    """The rows of a sequence: old ones, then those of the call."""
    return np.concatenate([np.arange(place.start, place.stop), -1 - np.arange(span.start, span.stop)])


def _padded(numbers: Sequence[np.ndarray], multiple: int) -> np.ndarray:
    """All of them, and some more rows that nobody reads, so that shapes do not change with every token."""
    joined = np.concatenate(numbers)
    missing = _rounded_up(joined.size, multiple) - joined.size
    return np.concatenate([joined, np.full(missing, -1)]).astype(np.int32)


def _windows(batch: Batch, held: Sequence[Place], width: int) -> tuple[list[np.ndarray], list[Place]]:
    """What makes `Windows`, and which of its rows each sequence keeps.

    held: where the old rows of each sequence are. width: how many tokens a query sees, itself included.
    """
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
    rows_of_all = _padded(sources, _WINDOW_ROWS * len(batch.spans))
    return [rows_of_all, np.concatenate(queries).astype(np.uint32), _page_table(batch)], kept


def _page_table(batch: Batch) -> np.ndarray:
    """uint32 [B, P]: the pages of every sequence, zeros behind them."""
    tables = [span.state.table.pages for span in batch.spans]
    pages = np.zeros((len(tables), _rounded_up(max(map(len, tables)), _PAGES)), dtype=np.uint32)
    for row, table in zip(pages, tables, strict=True):
        row[: len(table)] = table
    return pages


def _pooling(
    batch: Batch, held: Sequence[Place], ratio: int, rope: Rope
) -> tuple[list[np.ndarray], list[Place | None]]:
    """What makes a `Pooling`, and which of the rows named by its `sources` each sequence keeps, None for none.

    held: where the old rows of each sequence are.
    """
    sources: list[np.ndarray] = []
    found: list[np.ndarray] = []
    kept: list[Place | None] = []
    positions: list[np.ndarray] = []
    new = 0
    for span, place in zip(batch.spans, held, strict=True):
        rows = _row_numbers(span, place)
        first = span.end - rows.size  # position of the first row
        starts = np.arange(span.position // ratio, span.end // ratio) * ratio
        tokens = starts[:, None] + np.arange(-ratio if ratio == 4 else 0, ratio)  # entries of ratio 4 overlap
        found.append(np.where(tokens < 0, NO_ROW, rows[np.maximum(tokens - first, 0)]))
        positions.append(starts)
        stay = rows[max(0, needed_from(max(0, span.end - span.state.draft), ratio) - first) :]
        kept.append(Place(new, new + stay.size) if stay.size else None)
        sources.append(stay)
        new += stay.size
    phases = (batch.positions % ratio).astype(np.int32)
    kept_sources = _padded(sources, _BLOCK_ROWS[ratio] * len(batch.spans))
    blocks = np.concatenate(found).astype(np.int32)
    if not blocks.size:
        return [phases, kept_sources], kept
    missing = len(batch.positions) - len(blocks) if len(batch.positions) <= MOST_TOKENS else 0
    again = [*range(len(blocks)), *[-1] * missing]
    table = rope.on_host(np.concatenate(positions)[again])
    return [phases, kept_sources, blocks[again], *table, batch.row_numbers(ratio)[again]], kept


def _pooling_of(arrays: Sequence[mx.array]) -> Pooling:
    """From what `_pooling` made."""
    phases, sources, *entries = arrays
    if not entries:
        return Pooling(phases, sources, None, None, None)
    blocks, cos, sin, rows = entries
    return Pooling(phases, sources, blocks, RopeTable(cos, sin), rows)


_ALIGNED = 64  # words: what kernels may read at once begins at a multiple of 256 bytes


def on_device(arrays: Sequence[np.ndarray]) -> list[mx.array]:
    """The same, numbers of 32 bits, in one piece of the device's own memory.

    On NVIDIA what MLX takes from the host stays in memory of both until an operation makes something of it, and every
    kernel that reads it first has to wait for the bus.
    """
    starts = np.cumsum([0, *(_rounded_up(array.size, _ALIGNED) for array in arrays)]).tolist()
    words = np.zeros(starts[-1], dtype=np.uint32)
    for array, start in zip(arrays, starts, strict=False):
        words[start : start + array.size] = np.ascontiguousarray(array).reshape(-1).view(np.uint32)
    there = mx.bitwise_invert(mx.array(~words))  # an operation, that it is there
    return [
        there[start : start + array.size].view(_DTYPES[array.dtype.name]).reshape(array.shape)
        for array, start in zip(arrays, starts, strict=False)
    ]


_DTYPES = {"uint32": mx.uint32, "int32": mx.int32, "float32": mx.float32}


def needed_from(position: int, ratio: int) -> int:
    """The first token whose projections a sequence that goes on at `position` still needs: of the open block, or of the
    one before it where entries overlap.
    """
    block = position // ratio - (1 if ratio == 4 else 0)
    return max(0, block * ratio)
