"""The tokens of one call: a flat list that belongs to one or several sequences.

Dense layers, experts and hyper-connections see the flat list. Attention, compressors and the indexer walk over the
spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from ds4_mlx.cache import PAGE, LayerPages, PagePool, RowsOf, SequenceState
from ds4_mlx.model.rope import Rope, RopeTable


@dataclass(frozen=True)
class Span:
    """Tokens start..stop of the flat list are those at `position`, `position` + 1, ... of the sequence `state`."""

    state: SequenceState
    start: int
    stop: int
    position: int

    @property
    def length(self) -> int:
        """Tokens of this sequence in this call."""
        return self.stop - self.start

    @property
    def end(self) -> int:
        """The position after its last token."""
        return self.position + self.length

    @property
    def rows(self) -> slice:
        """Where they are in the flat list."""
        return slice(self.start, self.stop)


@dataclass
class Batch:
    """T flat tokens: ids int32 [T], their positions int64 [T] (on the host), and the spans that own them."""

    ids: mx.array
    positions: np.ndarray
    spans: list[Span]
    _tables: dict[int, RopeTable] = field(default_factory=dict)
    _new_rows: dict[int, mx.array] = field(default_factory=dict)
    _held_rows: dict[tuple[int, int], mx.array] = field(default_factory=dict)

    @classmethod
    def of(cls, parts: Sequence[tuple[SequenceState, np.ndarray | mx.array]]) -> Batch:
        """Joins (state, token ids [n]) pairs, each continuing its sequence where it stands; makes room for them.

        The states' pages are in one pool.

        Ids may be arrays that are not evaluated yet: only their number is needed here.
        """
        spans, start = [], 0
        for state, ids in parts:
            state.make_room(ids.shape[0])
            spans.append(Span(state, start, start + ids.shape[0], state.position))
            start += ids.shape[0]
        positions = np.concatenate([np.arange(s.position, s.position + s.length) for s in spans])
        flat = mx.concatenate([mx.array(ids).astype(mx.int32) for _, ids in parts])
        return cls(flat, positions, spans)

    @property
    def pool(self) -> PagePool:
        """Where the sequences' pages are."""
        return self.spans[0].state.pool

    def new_rows(self, ratio: int) -> mx.array:
        """Where the entries that the spans complete belong, in the arrays of a layer with that ratio: int32 [n]."""
        if ratio not in self._new_rows:
            self._new_rows[ratio] = mx.array(self.row_numbers(ratio))
        return self._new_rows[ratio]

    def row_numbers(self, ratio: int) -> np.ndarray:
        """The same on the host."""
        per_page, found = PAGE // ratio, []
        for span in self.spans:
            numbers = np.arange(span.position // ratio, span.end // ratio)
            pages = np.array(span.state.table.pages, dtype=np.int64)[numbers // per_page]
            found.append(pages * per_page + numbers % per_page)
        return np.concatenate(found).astype(np.int32)

    def rows_of(self, span: Span, pages: LayerPages) -> RowsOf:
        """All rows of the span's sequence in a layer's pages, those of the span included."""
        key = span.start, pages.ratio
        if key not in self._held_rows:
            self._held_rows[key] = span.state.table.rows(pages.ratio, span.end // pages.ratio)
        return RowsOf(pages, self._held_rows[key])

    def advance(self) -> None:
        """Tells every sequence that its tokens have passed all layers."""
        for span in self.spans:
            span.state.advance(span.length)

    def table(self, rope: Rope) -> RopeTable:
        """Cosines and sines at every token; made once per kind of rope and call."""
        key = id(rope)
        if key not in self._tables:
            self._tables[key] = rope.table(self.positions)
        return self._tables[key]
