"""Linear layers and norms, each at the precision the spec asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx import nn

from ds4_mlx.quant.formats import Format, get_format
from ds4_mlx.quant.simulate import simulate_activation


@dataclass(frozen=True)
class Numerics:
    """Which roundings of the reference are reproduced.

    dtype: activations between operations, bfloat16 or float32.
    simulate_quantization: FP8 K=V rows, Hadamard + FP4 indexer (spec 7.1, 7.2); trained in, on by default.
    simulate_activations: FP8 inputs of the FP8/FP4 linears (spec 7.3); a run-time saving of the reference, off by
    default.
    """

    dtype: mx.Dtype = mx.bfloat16
    simulate_quantization: bool = True
    simulate_activations: bool = False


def on_cpu() -> bool:
    """Whether MLX computes on the CPU, where two of its matmuls need care (see the callers)."""
    return bool(mx.default_device() == mx.Device(mx.cpu))


def matmul_dtype(x: mx.array) -> mx.Dtype:
    """The dtype a matmul computes in.

    MLX's CPU backend accumulates bfloat16 products in bfloat16 (1-2 % rms error) and is slower at it than in float32;
    the GPU backends accumulate in float32 whatever the input.
    """
    return mx.float32 if on_cpu() else x.dtype


class QuantizedMatrix(nn.Module):
    """The arrays of one or several stacked matrices [..., out, in] in a format, under the names `weight` and
    `scales`.
    """

    def __init__(self, shape: tuple[int, ...], format_name: str) -> None:
        super().__init__()
        arrays = get_format(format_name).array_shapes(shape)
        self.weight = mx.zeros(arrays["weight"][0], dtype=mx.uint32)
        self.scales = mx.zeros(arrays["scales"][0], dtype=mx.uint8)
        self._format_name = format_name

    @property
    def format(self) -> Format:
        """How the arrays decode."""
        return get_format(self._format_name)

    def mode(self) -> dict[str, Any]:
        """The arguments by which MLX's quantised matmuls know the format."""
        return {"group_size": self.format.block, "bits": self.format.bits, "mode": self.format.name}

    def product(self, x: mx.array, *, groups: int = 1) -> mx.array:
        """x [..., in] times the transposed matrix -> [..., out] in the dtype of x.

        With groups > 1, x is [groups, T, in] and slice g meets only its own rows of the matrix: [groups, T, out /
        groups].
        """
        weight, scales = self.weight, self.scales
        if groups > 1:
            weight, scales = (mx.unflatten(a, 0, (groups, -1)) for a in (weight, scales))
        if on_cpu():
            # The CPU's quantized_matmul decodes the weights again for every row: decoding first is 3x faster from 2
            # rows on, as fast for one, and gives every row the same bits however many come along.
            matrix = self.format.decode(weight, scales)
            return (x.astype(mx.float32) @ matrix.swapaxes(-1, -2)).astype(x.dtype)
        return mx.quantized_matmul(x, weight, scales, transpose=True, **self.mode())


class QuantizedLinear(QuantizedMatrix):
    """`L8` of the spec: x [..., in] -> [..., out] in the dtype of x, weights decoded exactly."""

    def __init__(self, in_dim: int, out_dim: int, numerics: Numerics, format_name: str = "mxfp8") -> None:
        super().__init__((out_dim, in_dim), format_name)
        self._simulate_activations = numerics.simulate_activations

    def __call__(self, x: mx.array) -> mx.array:
        """x [..., in] -> [..., out]."""
        if self._simulate_activations:
            x = simulate_activation(x)
        return self.product(x)


class GroupedLinear(QuantizedMatrix):
    """`wo_a`: each of `groups` slices of the input has its own rows of the weight; no activation rounding."""

    def __init__(self, groups: int, in_dim: int, out_dim: int) -> None:
        super().__init__((groups * out_dim, in_dim), "mxfp8")
        self._groups = groups

    def __call__(self, x: mx.array) -> mx.array:
        """x [T, groups, in] -> [T, groups * out]."""
        return self.product(x.swapaxes(0, 1), groups=self._groups).swapaxes(0, 1).flatten(1)


class Weight(nn.Module):
    """A bfloat16 matrix or vector, so that it is found under `NAME.weight` as in the checkpoint."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = mx.zeros(shape, dtype=mx.bfloat16)


class Linear(Weight):
    """An unquantised projection computed in the dtype of its input: x [..., in] -> [..., out]."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__(out_dim, in_dim)

    def __call__(self, x: mx.array) -> mx.array:
        """x [..., in] -> [..., out]."""
        # Through float32 on the CPU for the reason given in `matmul_dtype`.
        dtype = matmul_dtype(x)
        return (x.astype(dtype) @ self.weight.astype(dtype).T).astype(x.dtype)


class LinearFloat32(Weight):
    """A projection whose product the spec wants in float32 (gate, compressor, head): bf16 weights are upcast."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__(out_dim, in_dim)

    def __call__(self, x: mx.array) -> mx.array:
        """x [..., in] -> float32 [..., out]."""
        return product_float32(x, self.weight)


# Rows of a bfloat16 matrix are upcast at most this many bytes at a time: the output matrix alone would be 2 GB.
_UPCAST_BYTES = 1 << 26


def product_float32(x: mx.array, weight: mx.array) -> mx.array:
    """x [..., in] times weight [out, in] transposed, both upcast: float32 [..., out]."""
    out, width = weight.shape
    step = max(1, _UPCAST_BYTES // (4 * width))
    x = x.astype(mx.float32)
    tiles = [x @ weight[i : i + step].astype(mx.float32).T for i in range(0, out, step)]
    return tiles[0] if len(tiles) == 1 else mx.concatenate(tiles, axis=-1)


class RMSNorm(Weight):
    """Weighted root-mean-square norm over the last axis, in float32, back to the dtype of x (spec 2)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__(dim)
        self._eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        """x [..., dim] -> same shape and dtype."""
        return (unit_rms(x.astype(mx.float32), self._eps) * self.weight.astype(mx.float32)).astype(x.dtype)


def unit_rms(x: mx.array, eps: float) -> mx.array:
    """x / rms(x) over the last axis without a weight; computed in float32, returned in the dtype of x."""
    z = x.astype(mx.float32)
    return (z * mx.rsqrt(mx.mean(z * z, axis=-1, keepdims=True) + eps)).astype(x.dtype)
