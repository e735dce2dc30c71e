"""Manifold-constrained hyper-connections: four residual streams instead of one (spec 2, 10)."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
from mlx import nn

from ds4_mlx.config import ModelConfig
from ds4_mlx.kernels.expert_rows import MOST_TOKENS
from ds4_mlx.kernels.kernel import scalar
from ds4_mlx.kernels.stream_many import MANY_SUMS
from ds4_mlx.kernels.stream_rows import LEAVE, SITE_SUMS, enter_kernel
from ds4_mlx.kernels.stream_twins import Mix, collapse, split_mixes, write_back
from ds4_mlx.model.linear import RMSNorm, product_float32


class HyperConnectionWeights(NamedTuple):
    """Parameters of one site, all float32: fn [M, N * D], base [M], scale; M = (2 + N) * N and scale [3] in a block.

    The final collapse has M = N and scale [1].
    """

    fn: mx.array
    base: mx.array
    scale: mx.array


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


def split_mix(mixes: mx.array, weights: HyperConnectionWeights, config: ModelConfig) -> Mix:
    """mixes float32 [T, (2 + N) * N] -> the three gates."""
    n, rounds = config.hc_mult, config.hc_sinkhorn_iters
    return split_mixes(mixes, weights.base, weights.scale, n, rounds, config.hc_eps)


def normalised_product(h: mx.array, fn: mx.array, eps: float) -> mx.array:
    """(fn . z) * rsqrt(mean(z^2) + eps) with z = all streams of h [T, N, D] flattened, float32 [T, rows of fn]."""
    z = h.astype(mx.float32).flatten(1)
    return product_float32(h.flatten(1), fn) * mx.rsqrt(mx.mean(z * z, axis=-1, keepdims=True) + eps)


def hc_pre(h: mx.array, weights: HyperConnectionWeights, config: ModelConfig) -> tuple[mx.array, Mix]:
    """Collapses the streams [T, N, D] to a sublayer's input [T, D] and decides how its output returns."""
    mix = split_mix(normalised_product(h, weights.fn, config.rms_norm_eps), weights, config)
    return collapse(h, mix.pre), mix


def hc_post(y: mx.array, h: mx.array, mix: Mix) -> mx.array:
    """Writes a sublayer's output y [T, D] back into the old streams h [T, N, D]."""
    return write_back(y, h, mix.post, mix.comb)


def hc_head(h: mx.array, weights: HyperConnectionWeights, config: ModelConfig) -> mx.array:
    """The last collapse [T, N, D] -> [T, D] before the final norm: sigmoid gates, no Sinkhorn. fn is [N, N * D]."""
    mixes = normalised_product(h, weights.fn, config.rms_norm_eps)
    return collapse(h, mx.sigmoid(mixes * weights.scale + weights.base) + config.hc_eps)


class Streams(NamedTuple):
    """Streams h [T, N, D] between two sublayers on a GPU, and what the next site sums of them (`stream_twins`)."""

    h: mx.array
    sums: mx.array


def streams_for(h: mx.array, weights: HyperConnectionWeights) -> Streams:
    """Streams [T, N, D] as a site takes them, where no sublayer of few tokens made them."""
    sums = SITE_SUMS if h.shape[0] <= MOST_TOKENS else MANY_SUMS
    return Streams(h, *sums(h, weights.fn))


def enter(
    streams: Streams, weights: HyperConnectionWeights, norm: RMSNorm, config: ModelConfig
) -> tuple[mx.array, mx.array]:
    """`hc_pre` and the norm after it in one launch: a sublayer's input [T, D], and gates that only kernels read."""
    site = weights.base, weights.scale, norm.weight, norm.eps, scalar(config.hc_eps)
    x, mix = enter_kernel(config.hc_sinkhorn_iters)(*streams, *site)
    return x, mix


def leave(streams: Streams, weights: HyperConnectionWeights, norm: RMSNorm, config: ModelConfig) -> mx.array:
    """`hc_head` and the norm after it in one launch: the output matrix's input [T, D]."""
    site = weights.base, weights.scale, norm.weight, norm.eps, scalar(config.hc_eps)
    (x,) = LEAVE(*streams, *site)
    return x
