"""Mixture of experts: hash or scored routing, routed experts, one shared expert (spec 9)."""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from ds4_mlx.config import ModelConfig
from ds4_mlx.kernels import runs_kernels
from ds4_mlx.kernels.dense_rows import dense_kernel
from ds4_mlx.kernels.dense_twins import FLOATS, Job
from ds4_mlx.kernels.expert_return import expert_return_kernel
from ds4_mlx.kernels.expert_twins import swiglu
from ds4_mlx.kernels.kernel import scalar
from ds4_mlx.kernels.route import HASHED, best_experts, scored_kernel, scores_of, weights_of
from ds4_mlx.kernels.stream_many import MANY_EXPERT_RETURN
from ds4_mlx.model.experts import Experts
from ds4_mlx.model.hyper_connections import HyperConnectionWeights, Streams
from ds4_mlx.model.linear import Numerics, QuantizedLinear, Weight, product_float32


class Gate(Weight):
    """Chooses the experts of each token and their weights.

    Hash layers look the experts up by token id; the others take the highest scores plus a bias that serves selection
    only.
    """

    def __init__(self, config: ModelConfig, *, hashed: bool) -> None:
        super().__init__(config.n_routed_experts, config.hidden_size)
        self._topk = config.num_experts_per_tok
        self._scale = scalar(config.routed_scaling_factor)
        if hashed:
            self.tid2eid = mx.zeros((config.vocab_size, config.num_experts_per_tok), dtype=mx.int32)
        else:
            self.bias = mx.zeros((config.n_routed_experts,))

    def __call__(self, x: mx.array, ids: mx.array) -> tuple[mx.array, mx.array]:
        """x [T, D], token ids [T] -> experts [T, k] and float32 weights [T, k]."""
        scores = scores_of(product_float32(x, self.weight))
        experts = self.tid2eid[ids] if "tid2eid" in self else best_experts(scores, self.bias, self._topk)
        return experts, weights_of(scores, experts, self._scale)

    def route(self, logits: mx.array, ids: mx.array) -> list[mx.array]:
        """The same from products float32 [T, E], in one launch: experts uint32 [T, k] and their weights."""
        if "tid2eid" in self:
            return HASHED(logits, self.tid2eid, ids, self._scale)
        return scored_kernel(self._topk)(logits, self.bias, self._scale)

    @property
    def job(self) -> Job | None:
        """What a kernel is to make of the weight; None if it knows no such dtype."""
        names = [name for name, dtype in FLOATS.items() if dtype == self.weight.dtype]
        return Job(names[0], "float32") if names else None


class SharedExpert(nn.Module):
    """The expert every token passes through; the same clamp, no route weight."""

    def __init__(self, config: ModelConfig, numerics: Numerics) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.moe_intermediate_size * config.n_shared_experts
        self.w1 = QuantizedLinear(width, inner, numerics)
        self.w2 = QuantizedLinear(inner, width, numerics)
        self.w3 = QuantizedLinear(width, inner, numerics)
        self._limit = config.swiglu_limit

    @property
    def job(self) -> Job | None:
        """What a kernel is to make of w1 and w3; None if there is none for both together."""
        jobs = {self.w1.job, self.w3.job}
        return Job(self.w1.storage, "swiglu") if len(jobs) == 1 and None not in jobs else None

    def __call__(self, x: mx.array) -> mx.array:
        """x [T, D] -> [T, D]."""
        activation = _swiglu_at_once if runs_kernels() else swiglu
        return self.w2(activation(self.w1(x), self.w3(x), self._limit).astype(x.dtype))


# For many tokens on a GPU: one pass over memory instead of nine.
_swiglu_at_once = mx.compile(swiglu, shapeless=True)


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

    def many(self, x: mx.array, ids: mx.array, h: mx.array, mix: mx.array) -> mx.array:
        """The sublayer for many tokens on a GPU, where kernels know the experts.

        x [T, D] and mix as `enter` made them of the streams h [T, N, D] -> new streams.
        """
        shared = self.shared_experts(x)
        chosen, weights = self.gate.route(product_float32(x, self.gate.weight), ids)
        (streams,) = MANY_EXPERT_RETURN(self.experts.products(x, chosen, weights), shared, h, mix)
        return streams

    @property
    def has_step(self) -> bool:
        """Whether kernels know all matrices, so that `step` can be called."""
        jobs = self.gate.job, self.shared_experts.job, self.shared_experts.w2.job
        return None not in jobs and self.experts.has_kernels

    def step(
        self, x: mx.array, ids: mx.array, h: mx.array, mix: mx.array, following: HyperConnectionWeights
    ) -> Streams:
        """The sublayer for few tokens on a GPU, in four launches.

        x [T, D] and mix as `enter` made them of the streams h [T, N, D] -> new streams, for the site `following`.
        """
        shared, experts = self.shared_experts, self.experts
        jobs = self.gate.job, shared.job
        logits, common = dense_kernel(jobs)(x, experts.limit, self.gate.weight, *shared.w1.arrays, *shared.w3.arrays)
        chosen, weights = self.gate.route(logits, ids)
        inner = experts.inner(x, chosen, weights)
        kernel = expert_return_kernel(str(experts.w2.format_name), shared.w2.storage)
        return Streams(*kernel(inner, chosen, common, h, mix, following.fn, *shared.w2.arrays, *experts.down_arrays))
