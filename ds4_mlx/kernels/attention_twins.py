"""What the kernels of attention compute, in plain operations (spec 3 to 7)."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ds4_mlx.kernels.dense_twins import rms_norm
from ds4_mlx.quant.rows import PackedKV, pack_kv, unpack_kv
from ds4_mlx.quant.simulate import rotate_and_simulate_index

# Threadgroups that share the keys of a query, per group of heads: with 64 heads 128 in all for one token, as many as an
# H100 has cores. More would write more partial sums, which are 128 KB for each.
SPLITS = 32


def turn_pairs(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """Rotates the last 2 * p channels of x [T, ..., d] pair by pair; cos and sin float32 [T, p]. In float32, back to
    the dtype of x.
    """
    pairs = cos.shape[-1]
    shape = (cos.shape[0],) + (1,) * (x.ndim - 2) + (pairs,)
    cos, sin = cos.reshape(shape), sin.reshape(shape)
    still, turned = x[..., : -2 * pairs], x[..., -2 * pairs :]
    a, b = mx.unflatten(turned.astype(mx.float32), -1, (pairs, 2)).split(2, axis=-1)
    a, b = a.squeeze(-1), b.squeeze(-1)
    rotated = mx.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).flatten(-2)
    return mx.concatenate([still, rotated.astype(x.dtype)], axis=-1)


def attention_rows_twin(
    q: mx.array,
    kv: mx.array,
    weight: mx.array,
    cos: mx.array,
    sin: mx.array,
    eps: mx.array,
    sources: mx.array,
    *rest: mx.array,
) -> list[mx.array]:
    """`attention_rows`: queries [T, H, d], the parts of the window rows [O, ...], index queries if there are any."""
    old, index = PackedKV(*rest[:3]), rest[3:]
    new = pack_kv(turn_pairs(rms_norm(kv, weight, eps), cos, sin), old.codes.shape[-1])
    # Row s of the old ones, or of the new ones in turned order behind them: source -1 is token 0.
    rows = mx.where(sources < 0, old.codes.shape[0] - 1 - sources, sources)
    window = [mx.concatenate(list(pair))[rows] for pair in zip(old, new, strict=True)]
    queries = turn_pairs(rms_norm(q, None, eps), cos, sin)
    return [queries, *window, *(rotate_and_simulate_index(turn_pairs(x, cos, sin)) for x in index)]


def key_range(count: int, split: int) -> tuple[int, int]:
    """Which of a query's `count` keys a split reads: whole blocks of 8, as evenly as they go."""
    blocks = -(-count // 8)
    return 8 * (blocks * split // SPLITS), min(count, 8 * (blocks * (split + 1) // SPLITS))


def keys_of(
    ratio: int,
    choosing: bool,
    query: np.ndarray,
    pages: mx.array,
    chosen: mx.array,
    window: PackedKV,
    entries: PackedKV,
) -> mx.array:
    """The rows [n, d] that a query sees, in the order in which the kernel counts them."""
    sequence, first, held, end = (int(number) for number in query)
    rows = [unpack_kv(PackedKV(*(part[first : first + held] for part in window)))]
    visible = end // ratio if ratio else 0
    if visible:
        per_page = 128 // ratio
        numbers = chosen[: min(visible, chosen.shape[0])] if choosing else mx.arange(visible, dtype=mx.uint32)
        places = pages[sequence][numbers // per_page] * per_page + numbers % per_page
        rows.append(unpack_kv(PackedKV(*(part[places] for part in entries))))
    return mx.concatenate(rows)


def attend_twin(
    ratio: int, choosing: bool, q: mx.array, queries: mx.array, pages: mx.array, chosen: mx.array, *parts: mx.array
) -> list[mx.array]:
    """`attend`: per query, split and head the weighted sum of rows; maximum and denominator. Waits for `queries`."""
    (tokens, heads, width), window, entries = q.shape, PackedKV(*parts[:3]), PackedKV(*parts[3:])
    sums, softmax = [], []
    for token in range(tokens):
        query = np.array(queries[token])
        keys = keys_of(ratio, choosing, query, pages, chosen[token % chosen.shape[0]], window, entries)
        keys = keys.astype(mx.float32)
        scores = q[token].astype(mx.float32) @ keys.T * width**-0.5  # [H, n]
        for split in range(SPLITS):
            start, stop = key_range(keys.shape[0], split)
            if start == stop:
                sums.append(mx.zeros((heads, width)))
                softmax.append(mx.zeros((heads, 2)))
                continue
            part = scores[:, start:stop]
            top = part.max(axis=-1, keepdims=True)
            weights = mx.exp(part - top)
            sums.append(weights @ keys[start:stop])
            softmax.append(mx.concatenate([top, weights.sum(axis=-1, keepdims=True)], axis=-1))
    return [mx.unflatten(mx.stack(parts), 0, (tokens, SPLITS)) for parts in (sums, softmax)]


def combine_twin(
    dtype: mx.Dtype, partial: mx.array, softmax: mx.array, sink: mx.array, cos: mx.array, sin: mx.array
) -> list[mx.array]:
    """`combine`: all splits together with the sink, turned back."""
    top, total = softmax[..., :1], softmax[..., 1:]  # [T, SPLITS, H, 1]
    most = mx.where(total == 0, -mx.inf, top).max(axis=1, keepdims=True)
    weights = mx.where(total == 0, 0, mx.exp(top - most))
    whole = (total * weights).sum(axis=1) + mx.exp(sink[:, None] - most[:, 0])
    return [turn_pairs(((partial * weights).sum(axis=1) / whole).astype(dtype), cos, -sin)]


def attend_tiles_twin(
    ratio: int,
    choosing: bool,
    q: mx.array,
    queries: mx.array,
    pages: mx.array,
    chosen: mx.array,
    sink: mx.array,
    cos: mx.array,
    sin: mx.array,
    *parts: mx.array,
) -> list[mx.array]:
    """`attend_tiles`: each query's attention with the sink, turned back. Waits for `queries`."""
    window, entries, outputs = PackedKV(*parts[:3]), PackedKV(*parts[3:]), []
    for token, query in enumerate(np.array(queries)):
        keys = keys_of(ratio, choosing, query, pages, chosen[token % chosen.shape[0]], window, entries)
        keys = keys.astype(mx.float32)
        scores = q[token].astype(mx.float32) @ keys.T * q.shape[-1] ** -0.5  # [H, n]
        top = scores.max(axis=-1, keepdims=True)
        weights = mx.exp(scores - top)
        whole = weights.sum(axis=-1, keepdims=True) + mx.exp(sink[:, None] - top)
        outputs.append((weights @ keys / whole).astype(q.dtype))
    return [turn_pairs(mx.stack(outputs), cos, -sin)]
