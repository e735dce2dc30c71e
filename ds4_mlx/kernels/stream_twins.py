"""Hyper-connections in plain operations, and what their kernels pass on (spec 2, 10).

A site decides by numbers that all streams have a part in: its product with their channels, divided by their rms. The
kernels that write streams make these sums, by tiles of `TILE` channels: a sublayer's output is not known as a whole
within a kernel, a tile of it is. float32 [T, M + 1, tiles], the last row holds sums of squares. For many tokens they
are made apart, by spans of the streams laid end to end: [T, M + 1, spans].
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from ds4_mlx.kernels.dense_twins import decoded, rms_norm

TILE = 16  # channels
SPAN = 2048  # channels of all streams in a row, for the sums of many tokens


class Mix(NamedTuple):
    """What a site decides for each token, float32: pre [T, N], post [T, N], comb [T, N, N]."""

    pre: mx.array
    post: mx.array
    comb: mx.array


def sinkhorn(logits: mx.array, iterations: int, eps: mx.array | float) -> mx.array:
    """Makes [T, N, N] nearly doubly stochastic. The first round is a softmax over rows plus eps; columns come last."""
    comb = mx.softmax(logits, axis=-1) + eps
    comb = comb / (comb.sum(axis=-2, keepdims=True) + eps)
    for _ in range(iterations - 1):
        comb = comb / (comb.sum(axis=-1, keepdims=True) + eps)
        comb = comb / (comb.sum(axis=-2, keepdims=True) + eps)
    return comb


def split_mixes(
    mixes: mx.array, base: mx.array, scale: mx.array, n: int, iterations: int, eps: mx.array | float
) -> Mix:
    """mixes float32 [T, (2 + N) * N] of a site with its base [(2 + N) * N] and scale [3] -> the three gates."""
    pre = mx.sigmoid(mixes[:, :n] * scale[0] + base[:n]) + eps
    post = 2 * mx.sigmoid(mixes[:, n : 2 * n] * scale[1] + base[n : 2 * n])
    comb = mx.unflatten(mixes[:, 2 * n :] * scale[2] + base[2 * n :], -1, (n, n))
    return Mix(pre, post, sinkhorn(comb, iterations, eps))


def collapse(h: mx.array, gates: mx.array) -> mx.array:
    """sum_j gates[:, j] * h[:, j] of h [T, N, D] in float32, back to the dtype of h."""
    return (gates[..., None] * h.astype(mx.float32)).sum(axis=1).astype(h.dtype)


def write_back(y: mx.array, h: mx.array, post: mx.array, comb: mx.array) -> mx.array:
    """Writes a sublayer's output y [T, D] back into the old streams h [T, N, D].

    h'[k] = post[k] * y + sum_j comb[j, k] * h[j]: the sum runs over comb's first index.
    """
    mixed = comb.swapaxes(-1, -2) @ h.astype(mx.float32)
    return (post[..., None] * y.astype(mx.float32)[:, None] + mixed).astype(h.dtype)


def site_sums_twin(h: mx.array, fn: mx.array) -> list[mx.array]:
    """h [T, N, D], fn float32 [M, N * D] -> the sums that a site needs [T, M + 1, tiles]."""
    n, width = h.shape[1:]
    spare = -width % TILE

    def tiled(x: mx.array) -> mx.array:
        """[..., N, D] -> [..., N, tiles, TILE]"""
        return mx.unflatten(mx.pad(x, [*[(0, 0)] * (x.ndim - 1), (0, spare)]), -1, (-1, TILE))

    z, f = tiled(h.astype(mx.float32)), tiled(mx.unflatten(fn, -1, (n, width)))
    products = (z[:, None] * f[None]).sum(axis=(2, 4))
    return [mx.concatenate([products, (z * z).sum(axis=(1, 3))[:, None]], axis=1)]


def mixes_of(sums: mx.array, channels: int, eps: mx.array | float) -> mx.array:
    """The sums of a site over streams with as many `channels` in all -> its product over their rms [T, M]."""
    totals = sums.sum(axis=-1)
    return totals[:, :-1] * mx.rsqrt(totals[:, -1:] / channels + eps)


def enter_twin(
    iterations: int,
    h: mx.array,
    sums: mx.array,
    base: mx.array,
    scale: mx.array,
    norm: mx.array,
    eps: mx.array,
    hc_eps: mx.array,
) -> list[mx.array]:
    """A sublayer's normed input [T, D], and how its output returns: float32 [T, N + N * N], post and then comb."""
    n, width = h.shape[1:]
    mix = split_mixes(mixes_of(sums, n * width, eps), base, scale, n, iterations, hc_eps)
    x = rms_norm(collapse(h, mix.pre), norm, eps)
    return [x, mx.concatenate([mix.post, mix.comb.flatten(1)], axis=-1)]


def leave_twin(
    h: mx.array, sums: mx.array, base: mx.array, scale: mx.array, norm: mx.array, eps: mx.array, hc_eps: mx.array
) -> list[mx.array]:
    """The normed input of the output matrix [T, D]: sigmoid gates, no Sinkhorn."""
    mixes = mixes_of(sums, h.shape[1] * h.shape[2], eps)
    return [rms_norm(collapse(h, mx.sigmoid(mixes * scale + base) + hc_eps), norm, eps)]


def returned(y: mx.array, h: mx.array, mix: mx.array, fn: mx.array) -> list[mx.array]:
    """A sublayer's output y [T, D] written back by the `mix` of `enter_twin` -> streams, and their sums for site fn."""
    (streams,) = many_return_twin(y, h, mix)
    return [streams, *site_sums_twin(streams, fn)]


def dense_return_twin(
    storage: str, u: mx.array, h: mx.array, mix: mx.array, fn: mx.array, *arrays: mx.array
) -> list[mx.array]:
    """`returned` for the product of u [T, K] with a matrix [D, K], rounded to the dtype of u."""
    y = (u.astype(mx.float32) @ decoded(storage, arrays).T).astype(u.dtype)
    return returned(y, h, mix, fn)


def many_sums_twin(h: mx.array, fn: mx.array) -> list[mx.array]:
    """h [T, N, D], fn float32 [M, N * D] -> the sums that a site needs [T, M + 1, spans]."""
    z, spare = h.astype(mx.float32).flatten(1), -fn.shape[1] % SPAN
    z, f = (mx.unflatten(mx.pad(x, [(0, 0), (0, spare)]), -1, (-1, SPAN)) for x in (z, fn))
    products = z.swapaxes(0, 1) @ mx.moveaxis(f, 0, 2)  # [spans, T, M]
    return [mx.concatenate([mx.moveaxis(products, 0, 2), (z * z).sum(axis=-1)[:, None]], axis=1)]


def many_return_twin(y: mx.array, h: mx.array, mix: mx.array) -> list[mx.array]:
    """A sublayer's output y [T, D] written back by the `mix` of `enter_twin` -> streams [T, N, D]."""
    n = h.shape[1]
    return [write_back(y, h, mix[:, :n], mx.unflatten(mix[:, n:], -1, (n, n)))]


def many_expert_return_twin(products: mx.array, shared: mx.array, h: mx.array, mix: mx.array) -> list[mx.array]:
    """`many_return_twin` for the sum of a token's k products, of [T * k, D], and the shared expert's [T, D]."""
    routed = mx.unflatten(products.astype(mx.float32), 0, (h.shape[0], -1)).sum(axis=1)
    return many_return_twin((routed + shared.astype(mx.float32)).astype(h.dtype), h, mix)
