"""Sequences to segments and back. What comes back goes on bit for bit as if it had never been away."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import mlx.core as mx
import numpy as np

from ds4_mlx.cache.paged import CachedSequence, PagedCache
from ds4_mlx.cache.pool import PAGE, LayerPages, PagePool
from ds4_mlx.cache.segment import Segment
from ds4_mlx.cache.slices import Rows
from ds4_mlx.cache.state import LayerState
from ds4_mlx.errors import UserError

_KINDS = ("values", "gates")  # the arrays of a compressor's rows


def export_segments(sequence: CachedSequence, after: int = 0) -> list[Segment]:
    """All of `iter_segments` at once: a copy of what they hold."""
    return list(iter_segments(sequence, after))


def iter_segments(sequence: CachedSequence, after: int = 0) -> Iterator[Segment]:
    """The memory of a sequence from token `after` on, a multiple of 128: where earlier segments of it ended.

    Cut at the boundary states that are kept, so that what a sequence grew by is all that has to be written. The last
    one is the tail. Tokens that the sequence owes are not part of it. The sequence must not be fed in between.
    """
    state = sequence.state
    if after % PAGE or not 0 <= after <= state.position:
        raise ValueError(f"after is {after}; expected a multiple of {PAGE} up to {state.position}.")
    if state.position == 0:
        return
    sequence.keep_boundary()
    pool, info = state.pool, format_info(state.pool)
    ids = np.array(sequence.token_ids[: state.position], dtype=np.int32)
    boundaries = {node.depth * PAGE: node.places.get(b"") for node in sequence.path() if node.depth * PAGE > after}
    start, full = after, state.full_pages * PAGE
    for stop in [position for position, place in boundaries.items() if place is not None or position == full]:
        arrays = _page_arrays(pool, state.table.pages[start // PAGE : stop // PAGE], stop - start)
        place = boundaries[stop]
        if place is not None:
            arrays.update(_state_arrays(pool, place.layers, stop))
        yield _evaluated(Segment(start, ids[start:stop], arrays, "pages", info))
        start = stop
    arrays = _page_arrays(pool, state.table.pages[full // PAGE :], state.position - full)
    arrays.update(_state_arrays(pool, state.layers, state.position))
    if sequence.logits is not None and not sequence.owed:
        arrays["logits"] = sequence.logits
    yield _evaluated(Segment(full, ids[full:], arrays, "tail", info))


def import_segments(cache: PagedCache, segments: Iterable[Segment], *, draft: int = 0) -> CachedSequence:
    """A sequence from its segments in order, the first from token 0 on. Its boundary states are kept in the cache.

    If the last segment has no state, the tokens behind the last one that has are owed. Raises `UserError` where a
    segment does not follow from the one before or does not fit the model.
    """
    coming = Import(cache, draft=draft)
    for segment in segments:
        coming.add(segment)
    return coming.finish()


class Import:
    """`import_segments` a segment at a time, for those who have other things to do in between."""

    def __init__(self, cache: PagedCache, *, draft: int = 0) -> None:
        self._cache = cache
        self._sequence = cache.sequence(draft=draft)
        self._usable = 0  # the last position at which there was a state

    def add(self, segment: Segment) -> None:
        """Takes the next segment into pages."""
        sequence, pool = self._sequence, self._cache.pool
        state, pages = sequence.state, sequence.state.full_pages
        _check(segment, state.position, pool)
        state.make_room(len(segment.token_ids))
        _write(pool, state.table.pages[pages:], segment)
        sequence.token_ids.extend(segment.token_ids.tolist())
        layers = _layer_states(pool, segment.arrays) if segment.has_state else state.layers
        state.set_to(segment.stop, layers)
        mx.eval(*pool.arrays(), *state.arrays())
        sequence.enter_pages()
        if segment.has_state:
            self._usable = segment.stop
            sequence.note_boundary()
            sequence.keep_boundary()
        sequence.logits = segment.arrays.get("logits")

    def finish(self) -> CachedSequence:
        """The sequence."""
        sequence = self._sequence
        if self._usable < sequence.state.position:
            sequence.go_to(self._cache.match(sequence.token_ids), sequence.token_ids)
        self._cache.evict()
        return sequence


def _evaluated(segment: Segment) -> Segment:
    """With arrays of its own: as long as they wait to be gathered they hold the pool, and the next write copies it."""
    mx.eval(*segment.arrays.values())
    return segment


def format_info(pool: PagePool) -> dict[str, str]:
    """How a pool's rows are stored, as segments say it."""
    dtype = next((part.dtype for part in pool.kv.parts if part.name in ("tail", "rows")), mx.uint8)
    return {"kv": pool.kv.name, "index": pool.index.name, "dtype": str(dtype).rpartition(".")[-1]}


def _pages_of(pool: PagePool) -> Iterator[tuple[str, list[LayerPages]]]:
    """The pages of all layers of one ratio with the beginning of their arrays' names; such layers have equal shapes."""
    for ratio in sorted(set(pool.ratios) - {0}):
        for kind, layers in (("entries", pool.entries), ("index", pool.index_entries)):
            group = [pages for pages in layers if pages is not None and pages.ratio == ratio]
            if group:
                yield f"pages.{ratio}.{kind}", group


def _rows(pages: LayerPages, numbers: Sequence[int], tokens: int) -> mx.array:
    """Where the rows of `tokens` tokens are that begin with the first of these pages."""
    first = np.array(numbers, dtype=np.int32)[:, None] * pages.per_page
    return mx.array((first + np.arange(pages.per_page, dtype=np.int32)).flatten()[: tokens // pages.ratio])


def _page_arrays(pool: PagePool, numbers: Sequence[int], tokens: int) -> dict[str, mx.array]:
    """Arrays [layers, rows, width]: a few large ones, because each costs its time whatever it holds."""
    arrays = {}
    for name, group in _pages_of(pool):
        rows = _rows(group[0], numbers, tokens)
        if rows.size:
            for part, layers in zip(
                group[0].format.parts, zip(*(p.take(rows) for p in group), strict=True), strict=True
            ):
                arrays[f"{name}.{part.name}"] = mx.stack(list(layers))
    return arrays


def _state_arrays(pool: PagePool, layers: Sequence[LayerState], position: int) -> dict[str, mx.array]:
    windows = zip(*(layer.window.parts if layer.window else () for layer in layers), strict=True)
    arrays = {f"state.window.{part.name}": mx.stack(list(w)) for part, w in zip(pool.kv.parts, windows, strict=True)}
    for ratio, name, width in _blocks(pool):
        blocks = [getattr(layer, name) for layer, r in zip(layers, pool.ratios, strict=True) if r == ratio]
        before, open_ = _kept_rows(ratio, position)
        for i, kind in enumerate(_KINDS if before + open_ else ()):
            rows = mx.stack([block.parts[i] for block in blocks])[:, -before - open_ :]
            if before:
                arrays[f"state.{ratio}.{name}.before.{kind}"] = mx.contiguous(rows[:, :before, : width // 2])
            if open_:
                arrays[f"state.{ratio}.{name}.{kind}"] = mx.contiguous(rows[:, before:])
    return arrays


def _kept_rows(ratio: int, position: int) -> tuple[int, int]:
    """Compressor projections that later entries need: of the block before, and of the open one.

    Entries of ratio 4 overlap (spec 4). Of the block before they pool the first of two series, so only that is stored.
    """
    return ratio if ratio == 4 and position >= ratio else 0, position % ratio


def _write(pool: PagePool, numbers: Sequence[int], segment: Segment) -> None:
    in_a_row = list(numbers) == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else False
    for name, group in _pages_of(pool):
        rows = _rows(group[0], numbers, len(segment.token_ids))
        if not rows.size:
            continue
        for i, pages in enumerate(group):
            parts = [segment.arrays[f"{name}.{part.name}"][i] for part in pages.format.parts]
            if in_a_row:
                pages.write_run(numbers[0] * pages.per_page, parts)
            else:
                pages.write(rows, parts)


def _layer_states(pool: PagePool, arrays: dict[str, mx.array]) -> list[LayerState]:
    """A state for each layer."""
    blocks: dict[
        tuple[int, str], tuple[mx.array, mx.array]
    ] = {}  # of all layers of a ratio: values and gates [layers, rows, width]
    for ratio, name, _ in _blocks(pool):
        both = [_block_rows(arrays, f"state.{ratio}.{name}", kind) for kind in _KINDS]
        if both[0] is not None and both[1] is not None:
            blocks[ratio, name] = both[0], both[1]
    found: list[LayerState] = []
    for i, ratio in enumerate(pool.ratios):
        window = Rows.of([arrays[f"state.window.{part.name}"][i] for part in pool.kv.parts])
        place = pool.ratios[:i].count(ratio)  # among the layers of this ratio
        own = {n: Rows.of([array[place] for array in both]) for (r, n), both in blocks.items() if r == ratio}
        found.append(LayerState(window, own.get("compressor"), own.get("index_compressor")))
    return found


def _block_rows(arrays: dict[str, mx.array], name: str, kind: str) -> mx.array | None:
    """[layers, rows, width]; zeros stand for the series that nobody reads any more."""
    before, rows = arrays.get(f"{name}.before.{kind}"), arrays.get(f"{name}.{kind}")
    if before is None:
        return rows
    padded = mx.concatenate([before, mx.zeros_like(before)], axis=-1)
    return padded if rows is None else mx.concatenate([padded, rows], axis=1)


def _check(segment: Segment, position: int, pool: PagePool) -> None:
    """Raises `UserError` unless the segment continues a sequence of `position` tokens in this pool."""
    where, n = f"The segment at token {segment.start}", len(segment.token_ids)
    if segment.start != position or position % PAGE:
        raise UserError(f"{where} does not follow: the ones before it end at {position}.")
    if (segment.kind == "pages" and (n == 0 or n % PAGE)) or (segment.kind == "tail" and n >= PAGE):
        raise UserError(f"{where} has {n} tokens, which no segment of kind {segment.kind!r} has.")
    for key, expected in format_info(pool).items():
        if segment.info.get(key, expected) != expected:
            raise UserError(f"{where} stores {key} as {segment.info[key]}; this model has {expected}.")
    for name, group in _pages_of(pool):
        rows = n // group[0].ratio
        for part in group[0].format.parts if rows else ():
            _check_array(segment, f"{name}.{part.name}", (len(group), rows, part.width), part.dtype)
    if segment.kind == "tail" or segment.has_state:
        window = min(segment.stop, pool.config.sliding_window - 1)
        for part in pool.kv.parts:
            _check_array(segment, f"state.window.{part.name}", (len(pool.ratios), window, part.width), part.dtype)
        for ratio, name, width in _blocks(pool):
            layers = pool.ratios.count(ratio)
            before, open_ = _kept_rows(ratio, segment.stop)
            for kind in _KINDS:
                if before:
                    shape = (layers, before, width // 2)
                    _check_array(segment, f"state.{ratio}.{name}.before.{kind}", shape, mx.float32)
                if open_:
                    _check_array(segment, f"state.{ratio}.{name}.{kind}", (layers, open_, width), mx.float32)


def _blocks(pool: PagePool) -> list[tuple[int, str, int]]:
    """The kinds of open blocks: ratio, name in a `LayerState`, channels."""
    config = pool.config
    found = [
        (4, "compressor", 2 * config.head_dim),
        (4, "index_compressor", 2 * config.index_head_dim),
        (128, "compressor", config.head_dim),
    ]
    return [block for block in found if block[0] in pool.ratios]


def _check_array(segment: Segment, name: str, shape: tuple[int, int, int], dtype: mx.Dtype) -> None:
    """shape: layers, rows, width. A window may have more rows: it keeps more where drafts are rolled back."""
    array = segment.arrays.get(name)
    where = f"The segment at token {segment.start}"
    if array is None:
        raise UserError(f"{where} lacks {name}.")
    layers, rows, width = array.shape if array.ndim == 3 else (0, 0, 0)
    rows_fit = rows >= shape[1] if name.startswith("state.window") else rows == shape[1]
    if (layers, width) != (shape[0], shape[2]) or not rows_fit or array.dtype != dtype:
        raise UserError(f"{where} has {name} as {array.dtype} {array.shape}; this model expects {dtype} {shape}.")
