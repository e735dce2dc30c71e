"""The state of one sequence: for each layer a window and the compressors' open blocks; for all layers a page table.

What is not in pages are MLX arrays, which are values: copying a state copies references. Whatever follows from the
position is not stored: how many entries there are, which of them are open. So a sequence goes back by setting its
length, as far as its windows and open blocks reach.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import mlx.core as mx

from ds4_mlx.cache.pool import PAGE, LayerPages, PagePool, PageTable, RowsOf
from ds4_mlx.cache.slices import Rows


@dataclass(frozen=True)
class LayerState:
    """What one attention layer remembers beside its pages; None at the very start. Replaced, never changed.

    window: the last K=V rows, encoded, an array per part of their format. Compressors: the projections of recent tokens
    that a later entry still needs, float32 [r, c * d], K_t and G_t (ape included). For ratio 128 these are the tokens
    of the open block. For ratio 4 the last complete block precedes them, because entries overlap (spec 4).
    """

    window: Rows | None = None
    compressor: Rows | None = None
    index_compressor: Rows | None = None

    @property
    def rows(self) -> list[Rows]:
        """What there is."""
        return [rows for rows in (self.window, self.compressor, self.index_compressor) if rows is not None]

    def arrays(self) -> list[mx.array]:
        """What must be evaluated."""
        return [array for rows in self.rows for array in rows.whole]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return sum(rows.nbytes for rows in self.rows)

    def without_last(self, count: int) -> LayerState:
        """As it was `count` tokens ago; the caller knows that it reaches back that far."""
        return LayerState(
            self.window and self.window.without_last(count),
            self.compressor and self.compressor.without_last(count),
            self.index_compressor and self.index_compressor.without_last(count),
        )

    def alone(self) -> LayerState:
        """The same in arrays of its own."""
        return LayerState(
            self.window and self.window.alone(),
            self.compressor and self.compressor.alone(),
            self.index_compressor and self.index_compressor.alone(),
        )


class SequenceState:
    """One sequence's memory. `position` is the number of tokens fed so far, and the position of the next one.

    draft: how many tokens `roll_back` can take back, up to 127. Windows and open blocks keep as many rows more.
    """

    def __init__(self, pool: PagePool, *, draft: int = 0) -> None:
        if not 0 <= draft < PAGE:
            raise ValueError(f"draft is {draft}; expected 0 to {PAGE - 1}.")
        self.pool = pool
        self.draft = draft
        self.position = 0
        self._floor = 0  # the position down to which windows and open blocks reach
        self.layers = [LayerState() for _ in pool.ratios]
        self.table = PageTable(pool)

    @property
    def full_pages(self) -> int:
        """Pages that are complete."""
        return self.position // PAGE

    def arrays(self) -> list[mx.array]:
        """The arrays that are this sequence's own: windows and open blocks."""
        return [array for layer in self.layers for array in layer.arrays()]

    @property
    def own_bytes(self) -> int:
        """Bytes of windows and open blocks."""
        return sum(layer.nbytes for layer in self.layers)

    @property
    def nbytes(self) -> int:
        """Bytes held, pages included whether shared or not."""
        return self.own_bytes + len(self.table.pages) * self.pool.page_bytes

    def make_room(self, tokens: int) -> None:
        """Pages for `tokens` more tokens, of which the one being filled is this sequence's own."""
        if not any(self.pool.ratios):
            return
        if self.position % PAGE:
            self.table.own(self.full_pages)
        pages = -(-(self.position + tokens) // PAGE)
        self.table.grow(max(0, pages - len(self.table.pages)))

    def entries(self, layer: int, end: int) -> RowsOf | None:
        """The compressed entries of a layer up to position `end`."""
        return self._rows(self.pool.entries[layer], end)

    def index_entries(self, layer: int, end: int) -> RowsOf | None:
        """Its index keys."""
        return self._rows(self.pool.index_entries[layer], end)

    def _rows(self, pages: LayerPages | None, end: int) -> RowsOf | None:
        return None if pages is None else RowsOf(pages, self.table.rows(pages.ratio, end // pages.ratio))

    def fork(self) -> SequenceState:
        """An independent sequence with the same past. Whoever goes on first copies the page being filled, if any."""
        twin = copy.copy(self)
        twin.layers = list(self.layers)
        twin.table = self.table.fork()
        return twin

    def advance(self, tokens: int) -> None:
        """Notes that `tokens` more have passed all layers."""
        self.position += tokens
        self._floor = max(self._floor, self.position - self.draft)

    def set_to(self, position: int, layers: list[LayerState]) -> None:
        """Stands at `position` with these windows and open blocks; the table is the caller's business."""
        self.position = self._floor = position
        self.layers = list(layers)

    def mark(self) -> Mark:
        """For `go_back`: what a call that fails has to undo. Pages are not part of it."""
        return Mark(self.position, self._floor, list(self.layers))

    def go_back(self, mark: Mark) -> None:
        """Undoes what was done since `mark`, whose page was already this sequence's own."""
        self.position, self._floor, self.layers = mark.position, mark.floor, list(mark.layers)
        self.table.truncate(-(-self.position // PAGE))

    def roll_back(self, tokens: int) -> None:
        """Takes back the last `tokens` tokens, `draft` at most, counted from the furthest position it was at."""
        if not 0 <= tokens <= self.reach:
            raise ValueError(f"{tokens} tokens cannot be taken back; this state keeps {self.reach}.")
        if tokens:
            self.layers = [layer.without_last(tokens) for layer in self.layers]
            self.position -= tokens
            self.table.truncate(-(-self.position // PAGE))

    @property
    def reach(self) -> int:
        """How many tokens can be taken back."""
        return self.position - self._floor


@dataclass(frozen=True)
class Mark:
    """Where a sequence stood."""

    position: int
    floor: int
    layers: list[LayerState]
