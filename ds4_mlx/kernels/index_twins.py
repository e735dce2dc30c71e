"""What the kernels of the indexer compute, in plain operations (spec 5)."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ds4_mlx.quant.rows import PackedIndex, unpack_index

NO_ENTRY = 0xFFFFFFFF  # in place of an entry's number
PER_PAGE = 32  # index rows of a page


def index_scores(queries: mx.array, weights: mx.array, keys: mx.array) -> mx.array:
    """sum_h w_h * relu(q_h . k): queries [B, H, d], weights [B, H], keys [N, d] -> float32 [B, N]."""
    products = queries.astype(mx.float32) @ keys.astype(mx.float32).T  # [B, H, N]
    return (weights[:, None] @ mx.maximum(products, 0)).squeeze(1)


def head_weights(products: mx.array, dim: int) -> mx.array:
    """What `weights_proj` gave [T, H], as factors of the scores: scaled in its own dtype, then float32."""
    return (products * (dim**-0.5 * products.shape[-1] ** -0.5)).astype(mx.float32)


def choose_entries(scores: mx.array, visible: mx.array, k: int) -> mx.array:
    """The exact top k of each row: scores [B, N], visible bool [B, N] -> entry numbers [B, k], ascending.

    Among equal scores the earlier entry wins, so the choice depends neither on the chunk a query came in nor on the
    backend's sort. Rows with fewer than k visible entries are filled with N, which is no entry. Needs N > k.
    """
    n = scores.shape[-1]
    scores = mx.where(visible, scores, -mx.inf)
    threshold = mx.sort(scores, axis=-1)[:, n - k, None]
    above = scores > threshold
    ties = visible & (scores == threshold)
    room = k - above.sum(axis=-1, keepdims=True)
    chosen = above | (ties & (mx.cumsum(ties.astype(mx.int32), axis=-1) <= room))
    return mx.sort(mx.where(chosen, mx.arange(n), n), axis=-1)[:, :k]


def index_scores_twin(
    index: mx.array, weights: mx.array, queries: mx.array, pages: mx.array, codes: mx.array, exponents: mx.array
) -> list[mx.array]:
    """float32 [T, 32 * P]: scores of the entries a query sees, 0 for all others. Waits for `queries`."""
    scores = []
    for token in range(index.shape[0]):
        sequence, _, _, end = (int(number) for number in np.array(queries[token]))
        places = (pages[sequence][:, None] * PER_PAGE + mx.arange(PER_PAGE, dtype=mx.uint32)).flatten()
        keys = unpack_index(PackedIndex(codes[places], exponents[places]), mx.float32)
        row = index_scores(index[token, None], head_weights(weights[token, None], index.shape[-1]), keys)
        scores.append(mx.where(mx.arange(keys.shape[0]) < end // 4, row, 0))
    return [mx.concatenate(scores)]


def best_entries_twin(topk: int, chunk: int, scores: mx.array, queries: mx.array, *given: mx.array) -> list[mx.array]:
    """numbers uint32 and scores float32 [T, C, topk] of the best of every `chunk` entries."""
    tokens, count = scores.shape
    numbers = given[0] if given else mx.broadcast_to(mx.arange(count, dtype=mx.uint32), scores.shape)
    visible = numbers != NO_ENTRY if given else numbers < queries[:, 3:] // 4
    chunks = -(-count // chunk)
    padding = [(0, 0), (0, chunks * chunk - count)]
    numbers, scores, visible = (
        mx.pad(mx.pad(array, padding).reshape(tokens * chunks, chunk), [(0, 0), (0, topk)])
        for array in (numbers, scores, visible)
    )  # with topk more that nobody sees, there are always more than topk
    chosen = choose_entries(scores, visible, topk)
    held = mx.take_along_axis(visible, mx.minimum(chosen, chunk + topk - 1), axis=1) & (chosen < chunk)
    chosen = mx.minimum(chosen, chunk - 1)
    found = [
        mx.where(held, mx.take_along_axis(numbers, chosen, axis=1), mx.array(NO_ENTRY, dtype=mx.uint32)),
        mx.where(held, mx.take_along_axis(scores, chosen, axis=1), 0.0),
    ]
    return [array.reshape(tokens, chunks, topk) for array in found]
