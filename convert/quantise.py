"""Quantising the routed experts of a released checkpoint: a few experts at a time, with what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import mlx.core as mx
import numpy as np

from ds4_convert.imatrix import Imatrix
from ds4_convert.steps import Loss, Measure, Output, Pieces, Step, named_pieces, outputs_of
from ds4_mlx.checkpoint.items import Item
from ds4_mlx.checkpoint.repack import Checker
from ds4_mlx.checkpoint.safetensors_file import Tensor
from ds4_mlx.errors import UserError
from ds4_mlx.quant import get_format
from ds4_mlx.quant.encoders import encode

WEIGHTS_AT_ONCE = 1 << 23  # one matrix of one expert of the full model: 32 MiB in float32
MEMORY = 32 * WEIGHTS_AT_ONCE  # the weights, their decoded twins, the error, and 130 MB for the encoder


def quantise_step(
    item: Item, storage: str, tensors: Mapping[str, Tensor], check: Checker, imatrix: Imatrix | None
) -> Step:
    """The step that stores the FP4 experts of `item` in the format `storage`. `check` sees every piece that is read."""
    experts, _, width = item.shape
    outputs = outputs_of(item, storage)
    read = partial(_read, item, tensors, check)
    importance = None if imatrix is None else partial(imatrix.importance, item.name, experts, width)
    return Step(item.name, outputs, partial(_pieces, item, storage, outputs, read, importance), MEMORY)


def _read(item: Item, tensors: Mapping[str, Tensor], check: Checker, first: int, count: int) -> mx.array:
    """The weights of experts from `first` on, float32 [count, out, in]."""
    parts = []
    for suffix, dtype in (("weight", np.uint32), ("scale", np.uint8)):
        arrays = []
        for source in item.sources[first : first + count]:
            tensor = tensors[f"{source}.{suffix}"]
            array = tensor.array()
            check(tensor, array)
            arrays.append(array.view(dtype))
        parts.append(mx.array(np.stack(arrays)))
    return get_format("mxfp4").decode(*parts)


def _pieces(
    item: Item,
    storage: str,
    outputs: tuple[Output, ...],
    read: Callable[[int, int], mx.array],
    importance: Callable[[], np.ndarray] | None,
    measure: Measure,
) -> Pieces:
    target, columns = get_format(storage), None if importance is None else importance()
    count = max(1, WEIGHTS_AT_ONCE // math.prod(item.shape[1:]))
    sums = np.zeros((2, 2))  # squared error and squared weights, plain and weighted
    for first in range(0, item.shape[0], count):
        weights = read(first, min(count, item.shape[0] - first))
        chosen = None if columns is None else mx.array(columns[first : first + count])
        try:
            encoded = encode(storage, weights, chosen)
        except UserError as error:
            raise UserError(f"{item.name} cannot be quantised: {error}") from None
        arrays = [encoded[part.name] for part in target.parts]
        sums += _squares(target.decode(*arrays) - weights, weights, chosen)
        yield from named_pieces(outputs, {part.name: np.array(a) for part, a in zip(target.parts, arrays, strict=True)})
    plain, weighted = (float(error / whole) if whole else 0.0 for error, whole in sums)
    measure(item.name, Loss(plain, None if columns is None else weighted))


def _squares(error: mx.array, weights: mx.array, importance: mx.array | None) -> np.ndarray:
    """Sums of squares of error and weights [experts, out, in]: float64 [plain and weighted by column, 2]."""
    columns = mx.stack([(a * a).sum(axis=1) for a in (error, weights)])  # [2, experts, in]
    weighted = columns if importance is None else columns * importance
    sums = mx.stack([columns, weighted]).sum(axis=(-1, -2))
    return np.array(sums).astype(np.float64)
