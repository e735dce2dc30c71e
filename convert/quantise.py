"""Quantising the routed experts of a released checkpoint: a few experts at a time, with what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import mlx.core as mx
import numpy as np

from ds4_convert.guide import Encoded, Guide
from ds4_convert.steps import Loss, Measure, Output, Pieces, Step, named_pieces, outputs_of
from ds4_mlx.checkpoint.items import Item
from ds4_mlx.checkpoint.repack import Checker
from ds4_mlx.checkpoint.safetensors_file import Tensor
from ds4_mlx.errors import UserError
from ds4_mlx.quant import get_format

# Weights at once: on a CPU one matrix of one expert of the full model, 32 MiB in float32; a GPU wants more rows.
_ON_CPU, _ON_GPU = 1 << 23, 1 << 27


def weights_at_once() -> int:
    """Weights that are encoded together."""
    return _ON_CPU if mx.default_device() == mx.Device(mx.cpu) else _ON_GPU


def quantise_step(item: Item, storage: str, tensors: Mapping[str, Tensor], check: Checker, guide: Guide) -> Step:
    """The step that stores the FP4 experts of `item` in the format `storage`. `check` sees every piece that is read."""
    outputs = outputs_of(item, storage)
    read = partial(_read, item, tensors, check)
    # The weights, their decoded twins, the error, and 130 MB for the encoder; a few Hessians of a calibration.
    memory = 32 * weights_at_once() + 6 * 8 * item.shape[-1] ** 2
    return Step(item.name, outputs, partial(_pieces, item, storage, outputs, read, guide), memory)


def _read(item: Item, tensors: Mapping[str, Tensor], check: Checker, experts: range) -> mx.array:
    """The weights of those experts, float32 [n, out, in]."""
    parts = []
    for suffix, dtype in (("weight", np.uint32), ("scale", np.uint8)):
        arrays = []
        for source in item.sources[experts.start : experts.stop]:
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
    read: Callable[[range], mx.array],
    guide: Guide,
    measure: Measure,
) -> Pieces:
    target, total = get_format(storage), item.shape[0]
    count = max(1, weights_at_once() // math.prod(item.shape[1:]))
    groups = [range(first, min(first + count, total)) for first in range(0, total, count)]
    sums, known = np.zeros((3, 2)), [True, False, False]  # squared error and squared weights, each weighed three ways
    try:
        for weights, encoded in guide.encoder(item)(storage, groups, read):
            arrays = [encoded.arrays[part.name] for part in target.parts]
            sums += _squares(target.decode(*arrays) - weights, weights, encoded)
            known = [True, encoded.importance is not None, encoded.hessian is not None]
            named = {part.name: np.array(a) for part, a in zip(target.parts, arrays, strict=True)}
            yield from named_pieces(outputs, named)
    except UserError as error:
        raise UserError(f"{item.name} cannot be quantised: {error}") from None
    plain, *others = [float(error / whole) if whole else 0.0 for error, whole in sums]
    by_column, in_outputs = (ratio if there else None for ratio, there in zip(others, known[1:], strict=True))
    measure(item.name, Loss(plain, by_column, in_outputs))


def _squares(error: mx.array, weights: mx.array, encoded: Encoded) -> np.ndarray:
    """Sums of squares of error and weights [experts, out, in]: float64 [as they are, by column, in the outputs; 2]."""
    pair = error, weights
    columns = mx.stack([(a * a).sum(axis=1) for a in pair])  # [2, experts, in]
    rows = [columns, columns if encoded.importance is None else columns * encoded.importance]
    if encoded.hessian is not None:
        outputs = []
        for i in range(len(weights)):
            h = encoded.hessian(i)
            outputs.append(mx.stack([((a[i] @ h) * a[i]).sum() for a in pair]))
        rows.append(mx.stack(outputs, axis=1)[..., None])
    sums = [row.sum(axis=(-1, -2)) for row in rows]
    return np.stack([np.array(s).astype(np.float64) for s in (*sums, *[mx.zeros(2)] * (3 - len(sums)))])
