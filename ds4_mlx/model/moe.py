"""Mixture of experts: hash or scored routing, routed FP4 experts, one shared FP8 expert (spec 9)."""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from ds4_mlx.config import ModelConfig
from ds4_mlx.model.linear import Numerics, QuantizedLinear, QuantizedMatrix, Weight, matmul_dtype, product_float32
from ds4_mlx.quant.simulate import simulate_activation

# From this many rows on, sorting them by expert pays: MLX then reads a run of rows against one expert's weights.
_SORT_ROWS = 64


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


def swiglu(gate: mx.array, up: mx.array, limit: float) -> mx.array:
    """silu(min(gate, limit)) * clamp(up, -limit, limit) in float32. The gate has no lower bound."""
    gate = mx.minimum(gate.astype(mx.float32), limit)
    up = mx.clip(up.astype(mx.float32), -limit, limit)
    return nn.silu(gate) * up


class Experts(nn.Module):
    """All routed experts of a layer, their matrices stacked: w1 (gate), w3 (up) [E, I, D], w2 (down) [E, D, I]."""

    def __init__(self, config: ModelConfig, numerics: Numerics) -> None:
        super().__init__()
        count, width, inner = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        self.w1 = QuantizedMatrix((count, inner, width), "mxfp4")
        self.w2 = QuantizedMatrix((count, width, inner), "mxfp4")
        self.w3 = QuantizedMatrix((count, inner, width), "mxfp4")
        self._limit = config.swiglu_limit
        self._simulate_activations = numerics.simulate_activations

    def __call__(self, x: mx.array, experts: mx.array, weights: mx.array) -> mx.array:
        """x [T, D], experts [T, k], weights float32 [T, k] -> float32 [T, D], summed over the k experts."""
        tokens, k = experts.shape
        chosen = experts.flatten()  # [R], R = T * k rows
        order = mx.argsort(chosen) if chosen.size >= _SORT_ROWS else mx.arange(chosen.size)
        rows, chosen = x[order // k], chosen[order]
        gate = self._matmul(rows, self.w1, chosen)
        up = self._matmul(rows, self.w3, chosen)
        # The route weight goes in before the down projection, where the reference rounds.
        inner = swiglu(gate, up, self._limit) * weights.flatten()[order][:, None]
        down = self._matmul(inner.astype(x.dtype), self.w2, chosen)
        back = mx.argsort(order)
        return mx.unflatten(down[back].astype(mx.float32), 0, (tokens, k)).sum(axis=1)

    def _matmul(self, x: mx.array, w: QuantizedMatrix, experts: mx.array) -> mx.array:
        """Row r of x [R, in] times the matrix of expert r -> [R, out], rounded to the dtype of x."""
        if self._simulate_activations:
            x = simulate_activation(x)
        y = mx.gather_qmm(
            x[:, None].astype(matmul_dtype(x)),
            w.weight,
            w.scales,
            rhs_indices=experts,
            transpose=True,
            sorted_indices=experts.size >= _SORT_ROWS,
            **w.mode(),
        )
        return y.squeeze(1).astype(x.dtype)


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
