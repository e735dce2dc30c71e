"""What a conversion consists of: steps, each turning one item of the model into the arrays that hold it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ds4_mlx.checkpoint.items import Item
from ds4_mlx.checkpoint.safetensors_file import NUMPY_DTYPES

PIECE_BYTES = 16 << 20  # what is read at once
_PIECES_HELD = 8  # a piece read, its copies on the way to our layout, and as much one ahead


@dataclass(frozen=True)
class Output:
    """One array to be written. `weights` counts the weights of the model it carries: 0 for scales, mere storage."""

    name: str
    dtype: str  # safetensors name
    shape: tuple[int, ...]
    weights: int

    @property
    def nbytes(self) -> int:
        """Bytes on disk, and in memory once loaded."""
        return math.prod(self.shape) * NUMPY_DTYPES[self.dtype].itemsize


class Loss(NamedTuple):
    """Relative error of a quantised matrix, |Wq - W|^2 / |W|^2; also with columns weighted by their importance, and in
    the outputs that the calibration's inputs give.
    """

    plain: float
    weighted: float | None  # None without an imatrix or a calibration
    outputs: float | None = None  # None without a calibration


Pieces = Iterator[tuple[str, np.ndarray]]  # (name of the array, its next bytes as flat uint8)
Measure = Callable[[str, Loss], None]  # is told what quantising cost an item


@dataclass(frozen=True)
class Step:
    """One item on its way.

    `pieces(measure)` makes the bytes of the outputs, those of each in order, a few MB at a time. It raises `UserError`
    when the source holds values that no sound checkpoint holds. `working_memory` is what it needs beyond the pieces.
    """

    item: str
    outputs: tuple[Output, ...]
    pieces: Callable[[Measure], Pieces]
    working_memory: int = 0

    @property
    def memory(self) -> int:
        """Bounds the bytes of memory that it needs."""
        return self.working_memory + _PIECES_HELD * min(PIECE_BYTES, sum(output.nbytes for output in self.outputs))


def outputs_of(item: Item, storage: str) -> tuple[Output, ...]:
    """The arrays of an item stored as `storage`. The first one carries the weights."""
    weights = math.prod(item.shape)
    arrays = item.arrays(storage)
    return tuple(Output(a.name, a.dtype, a.shape, weights if a is arrays[0] else 0) for a in arrays)


def named_pieces(outputs: Sequence[Output], arrays: Mapping[str, np.ndarray]) -> Pieces:
    """The arrays of a format, by part, as pieces of the outputs that hold them."""
    for output, array in zip(outputs, arrays.values(), strict=True):
        yield output.name, np.ascontiguousarray(array).reshape(-1).view(np.uint8)
