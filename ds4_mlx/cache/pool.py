"""Pages: 128 tokens of every layer's compressed entries, in arrays that all sequences of a model share.

A page number stands for the same rows of every array: with ratio 4 the 32 K=V rows and the 32 index rows from 32 * page
on, with ratio 128 the row `page`. A sequence names its pages in order in a `PageTable`; a page that several tables name
is shared and no longer written to.

Each array is one piece, so that a kernel reads a sequence's rows through its page table from one address; it grows by
many pages at once and is copied then, one array at a time. Between that MLX writes in place, because nothing else holds
the arrays when they are evaluated: whoever looks into a pool lets go of what it took before the next call.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ds4_mlx.cache.rows import RowFormat, index_format, kv_format
from ds4_mlx.config import ModelConfig

PAGE = 128  # tokens: the least common multiple of the compression ratios


def written(arrays: Sequence[mx.array], rows: mx.array | None, parts: Sequence[mx.array]) -> tuple[mx.array, ...]:
    """Arrays of a pool with encoded rows, an array [n, width] per part, put where `rows` [n] says. The same arrays if
    there are no parts.
    """
    if not parts:
        return tuple(arrays)
    after = []
    for array, part in zip(arrays, parts, strict=True):
        changed = copy.copy(array)  # another handle of the same value: assignment changes the handle
        changed[rows] = part
        after.append(changed)
    return tuple(after)


class LayerPages:
    """The rows of one layer in all pages: one array [capacity * rows per page, width] per part of a format."""

    def __init__(self, ratio: int, form: RowFormat) -> None:
        self.ratio = ratio
        self.format = form
        self.arrays: list[mx.array] = []

    @property
    def per_page(self) -> int:
        """Rows in a page."""
        return PAGE // self.ratio

    def enlarge(self, pages: int) -> None:
        """Makes room for `pages` pages in all. Evaluated one array at a time: no two old copies live at once."""
        for i, part in enumerate(self.format.parts):
            held = self.arrays[i] if self.arrays[i:] else mx.zeros((0, part.width), dtype=part.dtype)
            more = mx.zeros((pages * self.per_page - held.shape[0], part.width), dtype=part.dtype)
            grown = mx.concatenate([held, more])
            del held
            self.arrays[i : i + 1] = [grown]
            mx.eval(grown)

    def write(self, rows: mx.array, parts: Sequence[mx.array]) -> None:
        """Puts encoded rows, an array [n, width] per part, where `rows` [n] says."""
        self.arrays = list(written(self.arrays, rows, parts))

    def write_run(self, first: int, parts: Sequence[mx.array]) -> None:
        """The same for rows that follow each other from `first` on: copied in one go instead of row by row."""
        for i, part in enumerate(parts):
            self.arrays[i] = mx.slice_update(self.arrays[i], part, mx.array([first, 0]), axes=(0, 1))

    def take(self, rows: mx.array) -> tuple[mx.array, ...]:
        """Encoded rows: rows [...] -> [..., width] per part, arrays of their own."""
        return tuple(mx.take(array, rows, axis=0) for array in self.arrays)

    @property
    def nbytes_per_page(self) -> int:
        """Bytes of this layer in one page."""
        return self.per_page * self.format.nbytes


@dataclass(frozen=True)
class RowsOf:
    """The first `rows.size` rows that a sequence has in one layer, wherever its pages are."""

    layer: LayerPages
    rows: mx.array  # int32 [n], row numbers in the pool

    @property
    def count(self) -> int:
        """How many."""
        return int(self.rows.size)

    def all(self) -> mx.array:
        """Decoded, in order [n, d]."""
        return self.layer.format.decode(self.layer.take(self.rows))

    def chosen(self, numbers: mx.array) -> mx.array:
        """Only some of them decoded: numbers [B, k] of 0 to n - 1 -> [B, k, d]."""
        parts = self.layer.take(self.rows[numbers.flatten()])
        return mx.unflatten(self.layer.format.decode(parts), 0, numbers.shape)


class PagePool:
    """The pages of all sequences of one model: which are free, how many tables name each, and the arrays."""

    STEP = 256  # pages added at once: 115 MB with the released model

    def __init__(self, config: ModelConfig, ratios: tuple[int, ...], kv: RowFormat, index: RowFormat) -> None:
        self.config, self.ratios, self.kv, self.index = config, ratios, kv, index
        self.entries = [LayerPages(ratio, kv) if ratio else None for ratio in ratios]
        self.index_entries = [LayerPages(ratio, index) if ratio == 4 else None for ratio in ratios]
        self.capacity = 0
        self.generation = 0  # how often everything was lost, see `lose`
        self.references: list[int] = []  # by page
        self._free: list[int] = []

    @classmethod
    def for_model(cls, config: ModelConfig, dtype: mx.Dtype = mx.bfloat16, *, packed: bool = True) -> PagePool:
        """Empty, for activations in `dtype`; packed if the model simulates the quantisation it was trained with."""
        ratios = config.compress_ratios[: config.num_hidden_layers]
        return cls(config, ratios, kv_format(config, dtype, packed=packed), index_format(config, dtype, packed=packed))

    @classmethod
    def for_mtp(cls, config: ModelConfig, dtype: mx.Dtype = mx.bfloat16, *, packed: bool = True) -> PagePool:
        """For an MTP block, which has a window and no pages."""
        return cls(config, (0,), kv_format(config, dtype, packed=packed), index_format(config, dtype, packed=packed))

    def layers(self) -> Iterable[LayerPages]:
        """What exists of entries and index entries."""
        return (layer for layer in (*self.entries, *self.index_entries) if layer is not None)

    @property
    def page_bytes(self) -> int:
        """Bytes of one page over all layers."""
        return sum(layer.nbytes_per_page for layer in self.layers())

    @property
    def nbytes(self) -> int:
        """Bytes allocated, free pages included."""
        return self.capacity * self.page_bytes

    @property
    def used(self) -> int:
        """Pages that some table names."""
        return self.capacity - len(self._free)

    def arrays(self) -> list[mx.array]:
        """Every array, for evaluation."""
        return [array for layer in self.layers() for array in layer.arrays]

    def snapshot(self) -> list[list[mx.array]]:
        """The arrays as they are, for `restore`. While it lives, the next evaluation copies them: drop it soon."""
        return [list(layer.arrays) for layer in self.layers()]

    def restore(self, earlier: list[list[mx.array]]) -> None:
        """Forgets what was written since `snapshot`."""
        for layer, arrays in zip(self.layers(), earlier, strict=True):
            layer.arrays = arrays

    def lose(self) -> None:
        """Starts over after the device failed: the arrays went into the call. States of before are of no use."""
        self.generation += 1
        self.capacity, self.references, self._free = 0, [], []
        for layer in self.layers():
            layer.arrays = []

    def reserve(self, pages: int) -> None:
        """Sees to `pages` free pages, so that they come in one step."""
        missing = pages - len(self._free)
        if missing <= 0 or not any(self.ratios):
            return
        capacity = self.capacity + -(-missing // self.STEP) * self.STEP
        for layer in self.layers():
            layer.enlarge(capacity)
        self._free.extend(range(capacity - 1, self.capacity - 1, -1))  # taken from the end: lowest numbers first
        self.references.extend([0] * (capacity - self.capacity))
        self.capacity = capacity

    def allocate(self, count: int) -> list[int]:
        """Numbers of `count` pages, in the caller's name."""
        self.reserve(count)
        pages = [self._free.pop() for _ in range(count)]
        for page in pages:
            self.references[page] = 1
        return pages

    def retain(self, pages: Iterable[int]) -> None:
        """Notes one more table for each."""
        for page in pages:
            self.references[page] += 1

    def release(self, pages: Iterable[int]) -> None:
        """One table less for each; those that nobody names are free."""
        for page in pages:
            self.references[page] -= 1
            if self.references[page] == 0:
                self._free.append(page)

    def copy_page(self, source: int, target: int) -> None:
        """Makes `target` equal to `source`."""
        for layer in self.layers():
            rows = mx.arange(layer.per_page)
            layer.write(target * layer.per_page + rows, layer.take(source * layer.per_page + rows))


class PageTable:
    """The pages of one sequence in order. It counts as their user for as long as it exists."""

    def __init__(self, pool: PagePool, pages: Iterable[int] = ()) -> None:
        self.pool = pool
        self._generation = pool.generation
        self.pages = list(pages)
        pool.retain(self.pages)

    def __del__(self) -> None:
        self.truncate(0)

    def fork(self) -> PageTable:
        """Another table of the same pages."""
        return PageTable(self.pool, self.pages)

    def grow(self, count: int) -> None:
        """Adds `count` fresh pages."""
        self.pages.extend(self.pool.allocate(count))

    def truncate(self, count: int) -> None:
        """Keeps the first `count` pages."""
        gone = self.pages[count:]
        del self.pages[count:]
        if gone and self._generation == self.pool.generation:
            self.pool.release(gone)

    def replace(self, number: int, page: int) -> None:
        """From now on the page of tokens from 128 * number on is `page`."""
        self.pool.retain([page])
        self.pool.release([self.pages[number]])
        self.pages[number] = page

    def own(self, number: int) -> None:
        """Makes a page writable: if others name it too, this table gets a copy."""
        page = self.pages[number]
        if self.pool.references[page] > 1:
            (fresh,) = self.pool.allocate(1)
            self.pool.copy_page(page, fresh)
            self.pages[number] = fresh
            self.pool.release([page])

    def rows(self, ratio: int, count: int) -> mx.array:
        """Where the first `count` rows of a layer with that ratio are: int32 [count]."""
        per_page = PAGE // ratio
        pages = mx.array(np.array(self.pages[: -(-count // per_page)], dtype=np.int32))
        return (pages[:, None] * per_page + mx.arange(per_page, dtype=mx.int32)).flatten()[:count]
