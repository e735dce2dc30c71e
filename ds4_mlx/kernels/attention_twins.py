"""What the kernels of attention compute, in plain operations (spec 3 to 7)."""

from __future__ import annotations

import mlx.core as mx

from ds4_mlx.quant.rows import PackedKV, pack_kv
from ds4_mlx.quant.simulate import rotate_and_simulate_index


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


def normed(x: mx.array, eps: mx.array, weight: mx.array | None = None) -> mx.array:
    """x / rms(x) over the last axis, times `weight` [d] if there is one: in float32, back to the dtype of x."""
    z = x.astype(mx.float32)
    z = z * mx.rsqrt(mx.mean(z * z, axis=-1, keepdims=True) + eps)
    return (z if weight is None else z * weight.astype(mx.float32)).astype(x.dtype)


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
    new = pack_kv(turn_pairs(normed(kv, eps, weight), cos, sin), old.codes.shape[-1])
    # Row s of the old ones, or of the new ones in turned order behind them: source -1 is token 0.
    rows = mx.where(sources < 0, old.codes.shape[0] - 1 - sources, sources)
    window = [mx.concatenate(list(pair))[rows] for pair in zip(old, new, strict=True)]
    queries = turn_pairs(normed(q, eps), cos, sin)
    return [queries, *window, *(rotate_and_simulate_index(turn_pairs(x, cos, sin)) for x in index)]
