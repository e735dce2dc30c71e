"""Rows that are a part of larger arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True)
class Rows:
    """Rows start to stop of each of some arrays, which may have more: those of other sequences of the same call, or
    room that keeps shapes from changing with every token.

    Nothing is sliced before somebody asks: kernels take whole arrays and the numbers of rows.
    """

    whole: tuple[mx.array, ...]
    start: int
    stop: int

    @classmethod
    def of(cls, arrays: Sequence[mx.array]) -> Rows:
        """All rows of these arrays."""
        return cls(tuple(arrays), 0, arrays[0].shape[0])

    @classmethod
    def copied(cls, arrays: Sequence[mx.array], start: int) -> Rows:
        """array[start:] of each as an array of its own. A slice would keep all rows in memory for as long as it
        lives.
        """
        rows = mx.arange(start, arrays[0].shape[0])
        return cls.of([mx.take(array, rows, axis=0) for array in arrays])

    @property
    def count(self) -> int:
        """How many rows."""
        return self.stop - self.start

    @property
    def parts(self) -> tuple[mx.array, ...]:
        """The rows alone, of each array."""
        if self.count == self.whole[0].shape[0]:
            return self.whole
        return tuple(array[self.start : self.stop] for array in self.whole)

    @property
    def nbytes(self) -> int:
        """Bytes of these rows."""
        return sum(array.nbytes // array.shape[0] * self.count for array in self.whole)

    def without_last(self, count: int) -> Rows | None:
        """The first ones, if any are left."""
        return Rows(self.whole, self.start, self.stop - count) if count < self.count else None

    def alone(self) -> Rows:
        """The same rows in arrays that hold hardly more: for what stays in memory for long."""
        if self.whole[0].shape[0] <= self.count + self.count // 8:
            return self
        return Rows.copied(self.parts, 0)
