"""What every weight format offers: the arrays of a matrix, how they decode, the way from and to GGUF blocks.

A format is a subclass of `Format` that declares its arrays and fills in three short methods; the checks and sizes that
follow from the declaration are made here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np

from ds4_mlx.errors import UserError

# The safetensors names of the dtypes that formats use, and the names that numpy and MLX share.
_DTYPES = {"U8": "uint8", "U32": "uint32", "F16": "float16"}


@dataclass(frozen=True)
class Part:
    """One array of a format: [..., out, in / block * per_block, *inner], `dtype` by its safetensors name."""

    name: str
    dtype: str
    per_block: int
    inner: tuple[int, ...] = ()

    @property
    def block_bytes(self) -> int:
        """Bytes of this array per block of weights."""
        return self.per_block * int(np.prod(self.inner, dtype=int)) * np.dtype(_DTYPES[self.dtype]).itemsize


class Format(ABC):
    """One way to store a matrix [..., out, in].

    `bits` counts the packed codes alone, per weight; `block` is the number of weights along the input that the format
    describes together; `parts` are the arrays in the order in which `decode` and `to_gguf` take them. `gguf_block` is
    the layout of the same block in a GGUF file, None where ggml has no such type.
    """

    name: ClassVar[str]
    bits: ClassVar[int]
    block: ClassVar[int]
    parts: ClassVar[tuple[Part, ...]]
    gguf_block: ClassVar[np.dtype | None] = None

    @property
    def bits_per_weight(self) -> float:
        """Storage per weight, scales included."""
        return sum(p.block_bytes for p in self.parts) * 8 / self.block

    def array_shapes(self, shape: Sequence[int]) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shapes and safetensors dtypes of the arrays that hold a matrix of `shape` [..., out, in]."""
        *lead, width = shape
        if width % self.block:
            raise UserError(f"A {self.name} matrix needs a width that is a multiple of {self.block}, got {width}.")
        blocks = width // self.block
        return {p.name: ((*lead, blocks * p.per_block, *p.inner), p.dtype) for p in self.parts}

    def decode(self, *arrays: mx.array, dtype: mx.Dtype = mx.float32) -> mx.array:
        """The matrix [..., out, in] that the arrays stand for: exact in float32, else rounded once to `dtype`.

        Plain MLX operations; this is the definition that kernels are held against.
        """
        self._matrix_shape(arrays)
        return self._decode(arrays, dtype)

    def from_gguf(self, raw: np.ndarray) -> dict[str, np.ndarray]:
        """Splits the rows of a GGUF tensor, uint8 [..., out, bytes per row], into fresh arrays by name."""
        block = self._gguf_block()
        if raw.dtype != np.uint8:
            raise UserError(f"GGUF rows of {self.name} are expected as uint8, got {raw.dtype}.")
        if raw.ndim == 0 or raw.shape[-1] % block.itemsize:
            got = "a single number" if raw.ndim == 0 else f"{raw.shape[-1]} bytes"
            raise UserError(f"A GGUF row of {self.name} holds blocks of {block.itemsize} bytes, got {got}.")
        blocks = np.ascontiguousarray(raw).view(block)
        shapes = self.array_shapes((*blocks.shape[:-1], blocks.shape[-1] * self.block))
        arrays = self._from_blocks(blocks)
        # A copy even where numpy would give a view: fields of a block are not aligned and `raw` may be a mapped file.
        return {name: a.copy().reshape(shape) for (name, (shape, _)), a in zip(shapes.items(), arrays, strict=True)}

    def to_gguf(self, *arrays: np.ndarray) -> np.ndarray:
        """The GGUF rows, uint8 [..., out, bytes per row], of the arrays: the inverse of `from_gguf`, byte for byte."""
        block = self._gguf_block()
        *lead, width = self._matrix_shape(arrays)
        blocks = np.empty((*lead, width // self.block), block)
        by_block = [
            a.reshape(*blocks.shape, *((p.per_block,) if p.per_block > 1 else ()), *p.inner)
            for p, a in zip(self.parts, arrays, strict=True)
        ]
        self._to_blocks(by_block, blocks)
        return blocks.view(np.uint8)

    @abstractmethod
    def _decode(self, arrays: Sequence[mx.array], dtype: mx.Dtype) -> mx.array:
        """`decode` for arrays known to fit."""

    # The two below are needed by formats with a `gguf_block` only; `_gguf_block` turns the others away before.

    def _from_blocks(self, blocks: np.ndarray) -> Sequence[np.ndarray]:
        """The arrays, in any shape of the right order, of blocks [..., out, in / block] of dtype `gguf_block`."""
        raise NotImplementedError

    def _to_blocks(self, arrays: Sequence[np.ndarray], blocks: np.ndarray) -> None:
        """Fills blocks [..., out, in / block] from arrays [..., out, in / block, per_block (unless 1), *inner]."""
        raise NotImplementedError

    def _gguf_block(self) -> np.dtype:
        if self.gguf_block is None:
            raise UserError(
                f"GGUF has no type for {self.name}: such a matrix can be neither read from nor written to it."
            )
        return self.gguf_block

    def _matrix_shape(self, arrays: Sequence[Any]) -> tuple[int, ...]:
        """The shape [..., out, in] of the matrix in `arrays`. Raises `UserError` if they do not fit each other."""
        if len(arrays) != len(self.parts):
            names = ", ".join(p.name for p in self.parts)
            raise UserError(f"A {self.name} matrix consists of {len(self.parts)} arrays ({names}), got {len(arrays)}.")
        # The last part has the fewest numbers per block, so any number of them makes whole blocks.
        last, scales = self.parts[-1], tuple(arrays[-1].shape)
        axis = len(scales) - 1 - len(last.inner)
        if axis < 0:
            raise UserError(f"Array {last.name} of a {self.name} matrix lacks an axis: its shape is {scales}.")
        matrix = (*scales[:axis], scales[axis] // last.per_block * self.block)
        for array, (name, (shape, dtype)) in zip(arrays, self.array_shapes(matrix).items(), strict=True):
            found = str(array.dtype).rpartition(".")[-1]
            if found != _DTYPES[dtype] or tuple(array.shape) != shape:
                expected = f"{_DTYPES[dtype]} {list(shape)}"
                raise UserError(
                    f"Array {name} of a {self.name} matrix {list(matrix)} is expected as {expected}, "
                    f"got {found} {list(array.shape)}."
                )
        return matrix
