"""A matrix of any size as blocks of 256 weights, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx

from ds4_mlx.errors import UserError

_BLOCK = 256

# Blocks that are searched together, 262,144 weights. The widest array of a search takes 64 bytes for each of them, and
# a few of those live at once. On CPUs more blocks are slower: they leave the caches.
_CHUNK = 1024

# What a column of importance 0 counts beside the most important one of its block: too little to cost any other column
# anything, enough for a group without any importance to be rounded well. A calibration text may just have missed it.
_LEAST_IMPORTANCE = 1e-6

# Half of float16's smallest number, which is the smallest that either format can write beside zero.
ZERO_BELOW = 2.0**-25


class BlockEncoder(NamedTuple):
    """The search of one format.

    encode_blocks(x, w, amax) -> the format's arrays, each [n, ...]. The weights of the n blocks are x * amax: float32
    x [n, 256] in [-1, 1], amax [n] above 0. Their importances are w [n, 256], above 0 and at most about 1.
    """

    name: str
    encode_blocks: Callable[[mx.array, mx.array, mx.array], tuple[mx.array, ...]]
    largest: float  # magnitude of a weight that the format reaches


def encode_matrix(encoder: BlockEncoder, weights: mx.array, importance: mx.array) -> list[mx.array]:
    """weights [out, in], importance [in] -> the format's arrays, each [blocks, ...], evaluated chunk by chunk.

    Raises `UserError` for weights that the format cannot hold.
    """
    blocks, columns = weights.reshape(-1, _BLOCK), _relative(importance.reshape(-1, _BLOCK))
    chunks = []
    for start in range(0, blocks.shape[0], _CHUNK):
        x = blocks[start : start + _CHUNK].astype(mx.float32)
        w = columns[mx.arange(start, start + x.shape[0]) % columns.shape[0]]
        largest = mx.abs(x).max(axis=-1)
        held = mx.all(mx.abs(x) <= encoder.largest)  # false for a NaN as well
        some = largest >= ZERO_BELOW
        amax = mx.where(some, largest, 1)
        arrays = encoder.encode_blocks(mx.where(some[:, None], x / amax[:, None], 0), w, amax)
        mx.eval(held, arrays)
        if not held:
            _refuse(encoder, x)
        chunks.append(arrays)
    return [mx.concatenate(list(parts)) for parts in zip(*chunks, strict=True)]


def column_energy(weights: mx.array) -> mx.array:
    """weights [out, in] -> the sum of squares of each column, float32 [in], in steps of bounded memory."""
    energy = mx.zeros(weights.shape[1])
    rows = max(1, _CHUNK * _BLOCK // weights.shape[1])
    for start in range(0, weights.shape[0], rows):
        energy = energy + mx.square(weights[start : start + rows].astype(mx.float32)).sum(axis=0)
        mx.eval(energy)
    return energy


def _relative(importance: mx.array) -> mx.array:
    """Importances [n, 256] beside the largest of their block, none of them 0; all alike where all are 0."""
    largest = importance.astype(mx.float32).max(axis=-1, keepdims=True)
    return mx.where(largest > 0, importance / mx.where(largest > 0, largest, 1), 0) + _LEAST_IMPORTANCE


def _refuse(encoder: BlockEncoder, x: mx.array) -> None:
    """Raises the `UserError` that says what is wrong with weights x."""
    if not mx.all(mx.isfinite(x)):
        raise UserError("The weights to encode are not all finite; look for NaN and infinity where they come from.")
    largest = mx.abs(x).max().item()
    raise UserError(f"A weight of {largest:.4g} is too large for {encoder.name}, which reaches {encoder.largest:.4g}.")
