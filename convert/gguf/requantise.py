"""An item of a converted folder as the bytes that a GGUF file holds, rounded only where the two differ."""

from __future__ import annotations

import math
from collections.abc import Iterator

import mlx.core as mx
import numpy as np

from ds4_mlx.checkpoint import Checkpoint
from ds4_mlx.checkpoint.items import Item
from ds4_mlx.errors import UserError
from ds4_mlx.quant import FORMATS, get_format

_WEIGHTS_AT_ONCE = 1 << 22  # 16 MiB in float32


def in_storage(checkpoint: Checkpoint, item: Item, storage: str) -> Iterator[np.ndarray]:
    """The item's GGUF bytes in order, uint8, some rows at a time, stored there as `storage`.

    Raises `UserError` when it holds values that `storage` cannot.
    """
    held = checkpoint.formats.of(item.name)
    for arrays in _rows(checkpoint, item, held):
        if held == storage:
            rows = get_format(held).to_gguf(*arrays) if held in FORMATS else arrays[0].view(np.uint8)
        else:
            rows = _stored(_decoded(arrays, held), storage, item.name)
        yield rows.reshape(-1)


def _rows(checkpoint: Checkpoint, item: Item, held: str) -> Iterator[list[np.ndarray]]:
    """The arrays of an item, some rows at a time: each [rows, ...]."""
    tensors = [checkpoint.tensors[array.name] for array in item.arrays(held)]
    axes = len(item.shape) - 1
    count = math.prod(item.shape[:axes])
    step = max(1, _WEIGHTS_AT_ONCE // item.shape[-1])
    for first in range(0, count, step):
        rows = min(step, count - first)
        arrays = []
        for tensor in tensors:
            inner = tensor.shape[axes:]
            width = math.prod(inner)
            arrays.append(tensor.read(first * width, rows * width).reshape(rows, *inner))
        yield arrays


def _decoded(arrays: list[np.ndarray], held: str) -> np.ndarray:
    """The float32 values of some rows."""
    if held in FORMATS:
        return np.array(get_format(held).decode(*map(mx.array, arrays)))
    if held == "BF16":
        return (arrays[0].astype(np.uint32) << 16).view(np.float32)
    return arrays[0].astype(np.float32)


def _stored(values: np.ndarray, storage: str, name: str) -> np.ndarray:
    """Float32 rows as the bytes of `storage`."""
    if storage == "F32":
        return values.view(np.uint8)
    if storage == "F16":
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if not np.isfinite(halves).all():
            raise UserError(f"{name} has values beyond 65,504, the largest that ds4's float16 tensors hold.")
        return halves.view(np.uint8)
    assert storage == "q8_0", storage
    import gguf

    return gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
