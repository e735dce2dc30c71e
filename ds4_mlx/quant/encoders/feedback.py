"""Encoding with feedback: what rounding a column does to the outputs is made up for in the columns after it.

    factor = mx.array(feedback_factor(hessian))[None]
    arrays = encode_with_feedback("iq2_xxs", weights, factor)

GPTQ / LDLQ over the blocks of IQ2_XXS and Q2_K: the bytes are those of any other encoder of the format, the outputs
of the matrix are two to three times nearer to the original's. docs/quantization.md tells the method and its evidence,
tests/quant/feedback_twin.py is its definition, one row at a time in NumPy. Here all rows of several experts go
together, in plain MLX operations, so that a GPU can do it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import mlx.core as mx

from ds4_mlx.errors import UserError
from ds4_mlx.quant.encoders import feedback_iq2_xxs, feedback_q2_k, iq2_xxs, q2_k
from ds4_mlx.quant.encoders.blocks import ZERO_BELOW
from ds4_mlx.quant.formats import get_format

BLOCK = 256

# Rows in work at once. A search holds a few times 4 KB for each: on a CPU that should stay in its caches, a GPU wants
# many.
_ROWS_ON_CPU, _ROWS_ON_GPU = 512, 1 << 15


class FeedbackEncoder(NamedTuple):
    """The search of one format.

    encode_block(x, amax, factor) -> the format's arrays, each [F, R, ...], and what later columns have to make up for,
    float32 [F, R, 256]. The weights of the blocks are x * amax, x [F, R, 256] in [-1, 1] and amax [F, R] above 0;
    factor [F, 256, 256] is the block's own part of U.
    """

    encode_block: Callable[[mx.array, mx.array, mx.array], tuple[tuple[mx.array, ...], mx.array]]
    largest: float  # magnitude of a weight that the format reaches


_ENCODERS = {
    "iq2_xxs": FeedbackEncoder(feedback_iq2_xxs.encode_block, iq2_xxs.LARGEST),
    "q2_k": FeedbackEncoder(feedback_q2_k.encode_block, q2_k.LARGEST),
}


def encode_with_feedback(name: str, weights: mx.array, factors: mx.array) -> dict[str, mx.array]:
    """Quantises a stack of matrices to the format of that name, errors fed back.

    weights: float32 [E, out, in]. factors: float32 [E, in, in], or [1, in, in] for all of them, from
    `feedback_factor`. Returns the format's arrays by name, evaluated; the same input gives the same arrays on the same
    kind of device. On another, sums in another order may turn a choice between two codes that are as good: bytes
    differ, the loss does not (docs/quantization.md).

    Raises `UserError` for a format without such an encoder, weights or factors that do not fit, that are not finite, or
    larger than the format reaches.
    """
    if name not in _ENCODERS:
        raise UserError(f"There is no encoder with feedback for {name}; formats that have one: {', '.join(_ENCODERS)}.")
    if weights.ndim != 3 or weights.size == 0 or weights.dtype != mx.float32:
        raise UserError(f"Weights to encode with feedback are float32 [experts, out, in], got {list(weights.shape)}.")
    shapes = get_format(name).array_shapes(weights.shape)
    experts, _, width = weights.shape
    if factors.shape not in ((1, width, width), (experts, width, width)):
        raise UserError(f"The factors of {list(weights.shape)} are [{experts}, {width}, {width}], got {factors.shape}.")
    shared = factors.shape[0] == 1
    pieces = [
        _encode_rows(_ENCODERS[name], name, rows, factor)
        for rows, factor in _chunks(weights.reshape(1, -1, width) if shared else weights, factors)
    ]
    parts = [mx.concatenate([part.flatten() for part in each]) for each in zip(*pieces, strict=True)]
    arrays = {part: a.reshape(shape) for (part, (shape, _)), a in zip(shapes.items(), parts, strict=True)}
    mx.eval(arrays)
    return arrays


def _chunks(weights: mx.array, factors: mx.array) -> Iterator[tuple[mx.array, mx.array]]:
    """weights [F, R, in] with factors [F, in, in], some rows of one factor or all rows of some, in order."""
    count, rows, _ = weights.shape
    most = _ROWS_ON_CPU if mx.default_device() == mx.Device(mx.cpu) else _ROWS_ON_GPU
    together = max(1, most // rows)
    for first in range(0, count, together):
        for start in range(0, rows, most):
            yield weights[first : first + together, start : start + most], factors[first : first + together]


def _encode_rows(encoder: FeedbackEncoder, name: str, weights: mx.array, factor: mx.array) -> list[mx.array]:
    """weights [F, R, in], factor [F, in, in] -> the format's arrays, each [F, R, in / 256, ...]."""
    held = mx.all(mx.abs(weights) <= encoder.largest)  # false for a NaN as well
    if not held:
        raise UserError(f"Weights are not finite, or larger than {name} reaches ({encoder.largest:.4g}).")
    blocks = []
    for start in range(0, weights.shape[-1], BLOCK):
        end = start + BLOCK
        block, weights = weights[..., :BLOCK], weights[..., BLOCK:]
        largest = mx.abs(block).max(axis=-1)
        amax = mx.where(largest >= ZERO_BELOW, mx.minimum(largest, encoder.largest), 1)
        arrays, errors = encoder.encode_block(block / amax[..., None], amax, factor[:, start:end, start:end])
        weights = weights - (errors * amax[..., None]) @ factor[:, start:end, end:]
        mx.eval(arrays, weights)
        blocks.append(arrays)
    return [mx.stack(list(parts), axis=2) for parts in zip(*blocks, strict=True)]
