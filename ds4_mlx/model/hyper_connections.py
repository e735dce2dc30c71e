"""Manifold-constrained hyper-connections: four residual streams instead of one (spec 2, 10)."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
from mlx import nn

from ds4_mlx.config import ModelConfig


class HyperConnectionWeights(NamedTuple):
    """Parameters of one site, all float32: fn [M, N * D], base [M], scale; M = (2 + N) * N and scale [3] in a block.

    The final collapse has M = N and scale [1].
    """

    fn: mx.array
    base: mx.array
    scale: mx.array


class Mix(NamedTuple):
    """What `hc_pre` decides for each token, float32: pre [T, N], post [T, N], comb [T, N, N]."""

    pre: mx.array
    post: mx.array
    comb: mx.array


def add_site(module: nn.Module, name: str, config: ModelConfig) -> None:
    """Gives `module` the parameters `hc_NAME_fn`, `hc_NAME_base` and `hc_NAME_scale` of one site."""
    n = config.hc_mult
    rows = (2 + n) * n
    module[f"hc_{name}_fn"] = mx.zeros((rows, n * config.hidden_size))
    module[f"hc_{name}_base"] = mx.zeros((rows,))
    module[f"hc_{name}_scale"] = mx.zeros((3,))


def site(module: nn.Module, name: str) -> HyperConnectionWeights:
    """The parameters that `add_site` made."""
    return HyperConnectionWeights(module[f"hc_{name}_fn"], module[f"hc_{name}_base"], module[f"hc_{name}_scale"])


def add_head_site(module: nn.Module, config: ModelConfig) -> None:
    """Gives `module` the parameters of the final collapse: fn [N, N * D], base [N], scale [1]."""
    module.hc_head_fn = mx.zeros((config.hc_mult, config.hc_mult * config.hidden_size))
    module.hc_head_base = mx.zeros((config.hc_mult,))
    module.hc_head_scale = mx.zeros((1,))


def head_site(module: nn.Module) -> HyperConnectionWeights:
    """The parameters that `add_head_site` made."""
    return site(module, "head")


def sinkhorn(logits: mx.array, iterations: int, eps: float) -> mx.array:
    """Makes [T, N, N] nearly doubly stochastic. The first round is a softmax over rows plus eps; columns come last."""
    comb = mx.softmax(logits, axis=-1) + eps
    comb = comb / (comb.sum(axis=-2, keepdims=True) + eps)
    for _ in range(iterations - 1):
        comb = comb / (comb.sum(axis=-1, keepdims=True) + eps)
        comb = comb / (comb.sum(axis=-2, keepdims=True) + eps)
    return comb


def split_mix(mixes: mx.array, weights: HyperConnectionWeights, config: ModelConfig) -> Mix:
    """mixes float32 [T, (2 + N) * N] -> the three gates."""
    n, eps = config.hc_mult, config.hc_eps
    scale, base = weights.scale, weights.base
    pre = mx.sigmoid(mixes[:, :n] * scale[0] + base[:n]) + eps
    post = 2 * mx.sigmoid(mixes[:, n : 2 * n] * scale[1] + base[n : 2 * n])
    comb = mx.unflatten(mixes[:, 2 * n :] * scale[2] + base[2 * n :], -1, (n, n))
    return Mix(pre, post, sinkhorn(comb, config.hc_sinkhorn_iters, eps))


def normalised_product(h: mx.array, fn: mx.array, eps: float) -> mx.array:
    """(fn . z) * rsqrt(mean(z^2) + eps) with z = all streams of h [T, N, D] flattened, float32 [T, rows of fn]."""
    z = h.astype(mx.float32).flatten(1)
    return (z @ fn.T) * mx.rsqrt(mx.mean(z * z, axis=-1, keepdims=True) + eps)


def hc_pre(h: mx.array, weights: HyperConnectionWeights, config: ModelConfig) -> tuple[mx.array, Mix]:
    """Collapses the streams [T, N, D] to a sublayer's input [T, D] and decides how its output returns."""
    mix = split_mix(normalised_product(h, weights.fn, config.rms_norm_eps), weights, config)
    return collapse(h, mix.pre), mix


def hc_post(y: mx.array, h: mx.array, mix: Mix) -> mx.array:
    """Writes a sublayer's output y [T, D] back into the old streams h [T, N, D].

    h'[k] = post[k] * y + sum_j comb[j, k] * h[j]: the sum runs over comb's first index.
    """
    mixed = mix.comb.swapaxes(-1, -2) @ h.astype(mx.float32)
    return (mix.post[..., None] * y.astype(mx.float32)[:, None] + mixed).astype(h.dtype)


def hc_head(h: mx.array, weights: HyperConnectionWeights, config: ModelConfig) -> mx.array:
    """The last collapse [T, N, D] -> [T, D] before the final norm: sigmoid gates, no Sinkhorn. fn is [N, N * D]."""
    mixes = normalised_product(h, weights.fn, config.rms_norm_eps)
    return collapse(h, mx.sigmoid(mixes * weights.scale + weights.base) + config.hc_eps)


def collapse(h: mx.array, gates: mx.array) -> mx.array:
    """sum_j gates[:, j] * h[:, j] in float32, back to the dtype of h."""
    return (gates[..., None] * h.astype(mx.float32)).sum(axis=1).astype(h.dtype)
