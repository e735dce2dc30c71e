"""Mixture of experts: hash or scored routing, routed experts, one shared expert (spec 9)."""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from ds4_mlx.config import ModelConfig
from ds4_mlx.kernels.expert_twins import swiglu
from ds4_mlx.model.experts import Experts
from ds4_mlx.model.linear import Numerics, QuantizedLinear, Weight, product_float32


class Gate(Weight):
    """Chooses the experts of each token and their weights.

    Hash layers look the experts up by token id; the others take the highest scores plus a bias that serves selection
    only.
    """

    def __init__(self, config: ModelConfig, *, hashed: bool) -> None:
        super().__init__(config.n_routed_experts, config.hidden_size)
        self._topk = config.num_experts_per_tok
        self._scale = config.routed_scaling_factor
        if hashed:
            self.tid2eid = mx.zeros((config.vocab_size, config.num_experts_per_tok), dtype=mx.int32)
        else:
            self.bias = mx.zeros((config.n_routed_experts,))

    def __call__(self, x: mx.array, ids: mx.array) -> tuple[mx.array, mx.array]:
        """x [T, D], token ids [T] -> experts [T, k] and float32 weights [T, k]."""
        scores = mx.sqrt(mx.logaddexp(product_float32(x, self.weight), 0.0))  # sqrt(softplus)
        if "tid2eid" in self:
            experts = self.tid2eid[ids]
        else:
            experts = mx.argsort(-(scores + self.bias), axis=-1)[:, : self._topk]
        weights = mx.take_along_axis(scores, experts, axis=-1)
        return experts, weights / weights.sum(axis=-1, keepdims=True) * self._scale


class SharedExpert(nn.Module):
    """The expert every token passes through; the same clamp, no route weight."""

    def __init__(self, config: ModelConfig, numerics: Numerics) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.moe_intermediate_size * config.n_shared_experts
        self.w1 = QuantizedLinear(width, inner, numerics)
        self.w2 = QuantizedLinear(inner, width, numerics)
        self.w3 = QuantizedLinear(width, inner, numerics)
        self._limit = config.swiglu_limit

    def __call__(self, x: mx.array) -> mx.array:
        """x [T, D] -> [T, D]."""
        return self.w2(swiglu(self.w1(x), self.w3(x), self._limit).astype(x.dtype))


class MoE(nn.Module):
    """The feed-forward sublayer."""

    def __init__(self, config: ModelConfig, numerics: Numerics, *, hashed: bool) -> None:
        super().__init__()
        self.gate = Gate(config, hashed=hashed)
        self.experts = Experts(config, numerics)
        self.shared_experts = SharedExpert(config, numerics)

    def __call__(self, x: mx.array, ids: mx.array) -> mx.array:
        """x [T, D] after ffn_norm, token ids [T] -> [T, D] in the dtype of x."""
        experts, weights = self.gate(x, ids)
        return (self.experts(x, experts, weights) + self.shared_experts(x).astype(mx.float32)).astype(x.dtype)
