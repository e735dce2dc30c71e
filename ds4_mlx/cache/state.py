"""The state of one sequence: for each layer a window, compressed entries, and the compressors' open blocks.

MLX arrays are values, so copying a state copies references. What grows (`RowBuffer`) is append-only: rows beyond its
count mean nothing. Hence two sequences may share a past (`SequenceState.fork`), and an interrupted call is undone by
going back to a fork taken before it (`restore`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import mlx.core as mx

from ds4_mlx.config import ModelConfig


def last_rows(rows: mx.array, start: int) -> mx.array:
    """rows[start:] as an array of its own. A slice would keep all of `rows` in memory for as long as it lives."""
    return mx.take(rows, mx.arange(start, rows.shape[0]), axis=0)


class RowBuffer:
    """Append-only rows [count, width], kept in a larger array so that appending moves no old row most of the time."""

    _SMALLEST_STEP = 256

    def __init__(self, width: int) -> None:
        self.width = width
        self.count = 0
        self._data: mx.array | None = None

    @property
    def rows(self) -> mx.array:
        """The rows [count, width] appended so far."""
        return mx.zeros((0, self.width)) if self._data is None else self._data[: self.count]

    @property
    def nbytes(self) -> int:
        """Bytes allocated, including room for rows to come."""
        return 0 if self._data is None else self._data.nbytes

    def append(self, rows: mx.array) -> mx.array:
        """Adds rows [n, width] of any n; the first ones fix the dtype. Returns all rows [count, width]."""
        n = rows.shape[0]
        if n == 0:
            return self.rows
        capacity = 0 if self._data is None else self._data.shape[0]
        if self.count + n > capacity:
            # A quarter more each time: copying stays a small, constant share of the work however long the sequence.
            step = max(self._SMALLEST_STEP, capacity // 4, self.count + n - capacity)
            room = mx.zeros((step, self.width), dtype=rows.dtype)
            self._data = room if self._data is None else mx.concatenate([self._data, room])
        assert self._data is not None
        # In place unless a fork still holds the array (MLX copies then).
        self._data = mx.slice_update(self._data, rows, mx.array([self.count, 0]), axes=(0, 1))
        self.count += n
        return self.rows

    def arrays(self) -> list[mx.array]:
        """What must be evaluated for the rows to be stored."""
        return [] if self._data is None else [self._data]


class CompressorState:
    """The projections of recent tokens that a later entry still needs, float32 [r, c * d]; None at the very start.

    For ratio 128 these are the tokens of the open block. For ratio 4 the last complete block precedes them, because
    entries overlap (spec 4).
    """

    def __init__(self) -> None:
        self.values: mx.array | None = None  # K_t
        self.gates: mx.array | None = None  # G_t, ape included

    def arrays(self) -> list[mx.array]:
        """What must be evaluated."""
        return [a for a in (self.values, self.gates) if a is not None]


class LayerState:
    """What one attention layer remembers."""

    def __init__(self, config: ModelConfig, ratio: int) -> None:
        self.window: mx.array | None = None  # the last K=V rows, at most sliding_window - 1: [w, d]
        self.entries = RowBuffer(config.head_dim) if ratio else None
        self.compressor = CompressorState() if ratio else None
        self.index_entries = RowBuffer(config.index_head_dim) if ratio == 4 else None
        self.index_compressor = CompressorState() if ratio == 4 else None

    def parts(self) -> Iterator[RowBuffer | CompressorState]:
        """The parts that exist in this layer."""
        for part in (self.entries, self.compressor, self.index_entries, self.index_compressor):
            if part is not None:
                yield part

    def arrays(self) -> list[mx.array]:
        """What must be evaluated."""
        window = [] if self.window is None else [self.window]
        return window + [array for part in self.parts() for array in part.arrays()]


class SequenceState:
    """One sequence's memory. `position` is the number of tokens fed so far, and the position of the next one."""

    def __init__(self, config: ModelConfig, ratios: tuple[int, ...]) -> None:
        self.position = 0
        self.layers = [LayerState(config, ratio) for ratio in ratios]

    @classmethod
    def for_model(cls, config: ModelConfig) -> SequenceState:
        """The memory of a sequence that has not begun."""
        return cls(config, config.compress_ratios[: config.num_hidden_layers])

    @classmethod
    def for_mtp(cls, config: ModelConfig) -> SequenceState:
        """The memory of one MTP block: a window."""
        return cls(config, (0,))

    def arrays(self) -> list[mx.array]:
        """Every array held, for evaluation."""
        return [array for layer in self.layers for array in layer.arrays()]

    @property
    def nbytes(self) -> int:
        """Bytes held, room for growth included."""
        return sum(array.nbytes for array in self.arrays())

    def fork(self) -> SequenceState:
        """An independent sequence with the same past. Nothing is copied until one of the two grows."""
        twin = copy.copy(self)
        twin.layers = [copy.copy(layer) for layer in self.layers]
        for layer in twin.layers:
            for name, part in vars(layer).items():
                if isinstance(part, (RowBuffer, CompressorState)):
                    setattr(layer, name, copy.copy(part))
        return twin

    def restore(self, earlier: SequenceState) -> None:
        """Goes back to `earlier`, a fork of this sequence. While that fork lives, appending copies: drop it soon."""
        self.position, self.layers = earlier.position, earlier.layers
