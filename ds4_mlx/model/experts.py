"""The routed experts of a layer, in whichever format they are stored (spec 9)."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
from mlx import nn

from ds4_mlx.config import ModelConfig
from ds4_mlx.kernels import runs_kernels
from ds4_mlx.kernels.expert_plan import plan
from ds4_mlx.kernels.expert_rows import MOST_TOKENS, down_kernel, gate_up_kernel
from ds4_mlx.kernels.expert_tiles import tile_down_kernel, tile_gate_up_kernel
from ds4_mlx.kernels.expert_twins import expert_products, swiglu
from ds4_mlx.kernels.kernel import scalar
from ds4_mlx.kernels.runs import FORMATS, lookup
from ds4_mlx.model.linear import Matrix, Numerics, matmul_dtype
from ds4_mlx.quant.simulate import simulate_activation

# From this many rows on, sorting them by expert pays: MLX then reads a run of rows against one expert's weights.
_SORT_ROWS = 64


class InnerRows(NamedTuple):
    """Rows [R, I] that w2 takes, R = T * k, sorted by expert where there are many: the expert and the token of each,
    [R], and which of the pairs in their own order it is.
    """

    rows: mx.array
    experts: mx.array
    tokens: mx.array
    order: mx.array


class Experts(nn.Module):
    """All routed experts of a layer, their matrices stacked: w1 (gate), w3 (up) [E, I, D], w2 (down) [E, D, I].

    On a GPU our kernels do the work: one pair for few tokens, one for many. Elsewhere, plain operations.
    """

    def __init__(self, config: ModelConfig, numerics: Numerics) -> None:
        super().__init__()
        count, width, inner = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        self.w1 = Matrix((count, inner, width), "mxfp4")
        self.w2 = Matrix((count, width, inner), "mxfp4")
        self.w3 = Matrix((count, inner, width), "mxfp4")
        self._count = count
        self._limit = scalar(config.swiglu_limit)
        self._simulate_activations = numerics.simulate_activations

    def __call__(self, x: mx.array, experts: mx.array, weights: mx.array) -> mx.array:
        """x [T, D], experts [T, k], weights float32 [T, k] -> float32 [T, D], summed over the k experts."""
        if not runs_kernels() or not self.has_kernels:
            return self._plain(x, experts, weights)
        chosen = experts.astype(mx.uint32)
        if x.shape[0] <= MOST_TOKENS:
            return self._few(self._rounded(x), chosen, weights)
        return _summed(self.products(x, chosen, weights), chosen)

    def _few(self, x: mx.array, experts: mx.array, weights: mx.array) -> mx.array:
        inner = self._rounded(self.inner(x, experts, weights))
        (y,) = down_kernel(str(self.w2.format_name))(inner, experts, *self.down_arrays)
        return y

    @property
    def has_kernels(self) -> bool:
        """Whether kernels know the matrices."""
        same = self.w1.format_name == self.w3.format_name
        return same and not {self.w1.format_name, self.w2.format_name} - set(FORMATS)

    @property
    def limit(self) -> mx.array:
        """The clamp of SwiGLU, float32 []."""
        return self._limit

    @property
    def down_arrays(self) -> list[mx.array]:
        """What kernels take of w2."""
        return [*self.w2.arrays, *lookup(str(self.w2.format_name))]

    def inner(self, x: mx.array, experts: mx.array, weights: mx.array) -> mx.array:
        """Few rows x [T, D], experts uint32 [T, k] -> the rows [T * k, I] that w2 takes, by a kernel."""
        kernel = gate_up_kernel(str(self.w1.format_name))
        (inner,) = kernel(x, experts, weights, self._limit, *self._gate_up_arrays)
        return inner

    @property
    def _gate_up_arrays(self) -> list[mx.array]:
        """What kernels take of w1 and w3."""
        return [*self.w1.arrays, *self.w3.arrays, *lookup(str(self.w1.format_name))]

    def products(self, x: mx.array, experts: mx.array, weights: mx.array) -> mx.array:
        """Many rows x [T, D], experts uint32 [T, k], weights float32 [T, k] -> what each of a token's k experts makes
        of it [T * k, D] in the dtype of x, by kernels.
        """
        x = self._rounded(x)
        gate_up, down = tile_gate_up_kernel(str(self.w1.format_name)), tile_down_kernel(str(self.w2.format_name))
        planned = plan(experts, self._count)
        (inner,) = gate_up(x, weights, self._limit, *planned, *self._gate_up_arrays)
        (products,) = down(self._rounded(inner), *planned, *self.down_arrays)
        return products

    def _plain(self, x: mx.array, experts: mx.array, weights: mx.array) -> mx.array:
        return self.outer_rows(self.inner_rows(x, experts, weights), experts)

    def inner_rows(self, x: mx.array, experts: mx.array, weights: mx.array) -> InnerRows:
        """What w2 takes of every pair, in plain operations. Arguments as in a call."""
        k = experts.shape[1]
        chosen = experts.flatten()  # [R], R = T * k rows
        order = mx.argsort(chosen) if chosen.size >= _SORT_ROWS else mx.arange(chosen.size)
        tokens, chosen = order // k, chosen[order]
        rows = x[tokens]
        gate = self._products(rows, self.w1, chosen)
        up = self._products(rows, self.w3, chosen)
        # The route weight goes in before the down projection, where the reference rounds.
        inner = swiglu(gate, up, self._limit) * weights.flatten()[order][:, None]
        return InnerRows(inner.astype(x.dtype), chosen, tokens, order)

    def outer_rows(self, inner: InnerRows, experts: mx.array) -> mx.array:
        """What a call returns, from what `inner_rows` made for these experts [T, k]."""
        down = self._products(inner.rows, self.w2, inner.experts)
        return _summed(down[mx.argsort(inner.order)], experts)

    def _products(self, x: mx.array, w: Matrix, chosen: mx.array) -> mx.array:
        """Row r of x [R, in] times the matrix of expert chosen[r] -> [R, out], rounded to the dtype of x."""
        x = self._rounded(x)
        arrays = w.mlx_arrays()
        if arrays is None:
            return expert_products(x, chosen, w.arrays, str(w.format_name)).astype(x.dtype)
        y = mx.gather_qmm(
            x[:, None].astype(matmul_dtype(x)),
            *arrays,
            None,
            chosen,
            sorted_indices=chosen.size >= _SORT_ROWS,
            **w.mlx_mode(),
        )
        return y.squeeze(1).astype(x.dtype)

    def _rounded(self, x: mx.array) -> mx.array:
        return simulate_activation(x) if self._simulate_activations else x


def _summed(products: mx.array, experts: mx.array) -> mx.array:
    """Products of pairs [T * k, D] -> their float32 sums [T, D] over a token's k."""
    return mx.unflatten(products.astype(mx.float32), 0, experts.shape).sum(axis=1)
