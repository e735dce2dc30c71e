"""Linear layers and norms, each at the precision the spec asks for."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx import nn

from ds4_mlx.kernels import runs_kernels
from ds4_mlx.kernels.dense_rows import ROWS, dense_kernel
from ds4_mlx.kernels.dense_text import STORAGES
from ds4_mlx.kernels.dense_twins import FLOATS, Job, rms_norm
from ds4_mlx.kernels.expert_rows import MOST_TOKENS
from ds4_mlx.kernels.kernel import scalar
from ds4_mlx.quant.formats import get_format
from ds4_mlx.quant.simulate import simulate_activation

# Dtypes by their safetensors names: those of plain weights, and those of the parts of formats.
_PACKED = {"U32": mx.uint32, "U8": mx.uint8, "F16": mx.float16}
# The formats that MLX's own quantised matmuls know, and what they call them.
_MLX_MODES = {"mxfp4": "mxfp4", "mxfp8": "mxfp8", "q8_0": "affine"}
# From so many rows on, a GPU decodes a matrix before it multiplies. MLX's quantised matmul decodes a tile of the matrix
# again for every tile of rows: on an H200 it ends near 120 TFLOP/s, where the plain one reaches 370. For fewer rows
# writing the decoded matrix and reading it again takes longer than that gains: 202 us against 83 for 128 rows of wq_b,
# 245 against 283 for 512 (docs/performance.md).
DECODE_ROWS = 512


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


class Matrix(nn.Module):
    """One or several stacked matrices [..., out, in], stored as a dtype or in a format (`ds4_mlx.quant`).

    Begins as `storage` says, which is how the released checkpoint has it; `store_as` makes it something else. The
    arrays go by the names of a checkpoint: `weight` for a dtype, one per part for a format.
    """

    def __init__(self, shape: tuple[int, ...], storage: str) -> None:
        super().__init__()
        self._shape = shape
        self.store_as(storage)

    def store_as(self, storage: str) -> None:
        """Empty arrays for `storage`: the safetensors name of a dtype, or the name of a format."""
        for name in list(self.parameters()):
            del self[name]
        self._storage = storage
        self._format = None if storage in FLOATS else get_format(storage)
        if self._format is None:
            self.weight = mx.zeros(self._shape, dtype=FLOATS[storage])
        else:
            for name, (shape, dtype) in self._format.array_shapes(self._shape).items():
                setattr(self, name, mx.zeros(shape, dtype=_PACKED[dtype]))

    @property
    def format_name(self) -> str | None:
        """The format, None for a dtype."""
        return self._format.name if self._format else None

    @property
    def storage(self) -> str:
        """What `store_as` was told."""
        return self._storage

    @property
    def is_stack(self) -> bool:
        """Whether there are several matrices."""
        return len(self._shape) > 2

    @property
    def arrays(self) -> list[mx.array]:
        """The arrays of the format in its order, or the one of a dtype."""
        if self._format is None:
            return [self.weight]
        return [self[part.name] for part in self._format.parts]

    def decoded(self) -> mx.array:
        """All weights, exact in float32; a stored dtype as it is."""
        return self.weight if self._format is None else self._format.decode(*self.arrays)

    def mlx_arrays(self) -> tuple[mx.array, mx.array, mx.array | None] | None:
        """Weight, scales and biases as MLX's quantised matmuls take them; None if they do not know the format."""
        if self._format is None or self._format.name not in _MLX_MODES:
            return None
        return self.weight, self.scales, -128 * self.scales if self._format.name == "q8_0" else None

    def mlx_mode(self) -> dict[str, Any]:
        """The arguments by which they know the format."""
        assert self._format is not None
        return {
            "group_size": self._format.block,
            "bits": self._format.bits,
            "mode": _MLX_MODES[self._format.name],
            "transpose": True,
        }

    def product(self, x: mx.array, *, groups: int = 1) -> mx.array:
        """x [..., in] times the transposed matrix -> [..., out] in the dtype of x.

        With groups > 1, x is [groups, T, in] and slice g meets only its own rows of the matrix: [groups, T, out /
        groups].
        """

        def grouped(array: mx.array) -> mx.array:
            return mx.unflatten(array, 0, (groups, -1)) if groups > 1 else array

        arrays = self.mlx_arrays()
        if arrays is not None and not on_cpu():
            if x.size // (groups * x.shape[-1]) >= DECODE_ROWS:
                if x.dtype == mx.float32:
                    return product_float32(x, grouped(self.decoded()))
                return _product_of_sum(x, [grouped(part) for part in self._bfloat16_parts()])
            weight, scales, biases = arrays
            biases = None if biases is None else grouped(biases)
            # q8_0 has scales in float16: MLX computes in float32 then, and returns it.
            return mx.quantized_matmul(x, grouped(weight), grouped(scales), biases, **self.mlx_mode()).astype(x.dtype)
        # The CPU's quantized_matmul decodes the weights again for every row: decoding first is 3x faster from 2 rows
        # on, as fast for one, and gives every row the same bits however many come along.
        dtype = matmul_dtype(x)
        weight = grouped(self.decoded().astype(dtype))
        return (x.astype(dtype) @ weight.swapaxes(-1, -2)).astype(x.dtype)

    def product_float32(self, x: mx.array, factors: Sequence[mx.array] = ()) -> mx.array:
        """x [..., in] times the transposed matrix, both in float32 -> float32 [..., out]. For `factors` see
        `product_float32` below.
        """
        if self._format is None:
            return product_float32(x, self.weight, factors)
        if on_cpu() or x.size // x.shape[-1] < DECODE_ROWS:
            return self.product(x.astype(mx.float32))
        return product_float32(x, self.decoded(), factors)

    def _bfloat16_parts(self) -> list[mx.array]:
        """Matrices in bfloat16 whose sum is this one, the first by far the largest: the weights of MXFP4 and MXFP8 as
        they are, of q8_0 (19 bits) in two parts, to 2^-17 of each.
        """
        if self.format_name != "q8_0":
            mode = {key: value for key, value in self.mlx_mode().items() if key != "transpose"}
            return [mx.dequantize(self.weight, self.scales, dtype=mx.bfloat16, **mode)]
        return list(_two_bfloat16_parts(self.decoded()))


def store_as(module: nn.Module, storage_of: Callable[[str], str]) -> None:
    """Stores every matrix in `module` as `storage_of` says of its name, such as layers.3.attn.wq_a."""
    for name, part in module.named_modules():
        if isinstance(part, Matrix):
            part.store_as(storage_of(name))


class Projection(Matrix):
    """A matrix [out, in] that rows are multiplied with: x [..., in] -> [..., out] in the dtype of x.

    Few rows on a GPU are our kernel's; `plain` is the definition.
    """

    def __init__(self, in_dim: int, out_dim: int, storage: str) -> None:
        super().__init__((out_dim, in_dim), storage)

    @property
    def job(self) -> Job | None:
        """What a kernel is to make of it; None if there is none that computes the same."""
        return Job(self.storage) if self.storage in STORAGES else None

    def plain(self, x: mx.array) -> mx.array:
        """The product in plain operations."""
        return self.product(x)

    def __call__(self, x: mx.array) -> mx.array:
        """x [..., in] -> [..., out]."""
        return products(x, [self])[0]


def products(x: mx.array, layers: Sequence[Projection], norm: RMSNorm | None = None) -> list[mx.array]:
    """What each of `layers` makes of the same x [..., in], normed first if there is a norm.

    Few rows [T, in] on a GPU take one launch.
    """
    jobs = tuple(layer.job for layer in layers)
    if not few_by_kernels(x) or None in jobs:
        x = x if norm is None else norm(x)
        factors: Sequence[mx.array] = ()
        if sum(isinstance(layer, LinearFloat32) for layer in layers) > 1:
            factors = float32_factors(x)  # upcast once for all
        return [
            layer.product_float32(x, factors) if isinstance(layer, LinearFloat32) else layer.plain(x)
            for layer in layers
        ]
    before = [] if norm is None else [norm.weight, norm.eps]
    arrays = [array for layer in layers for array in layer.arrays]
    return dense_kernel(jobs, normed=norm is not None)(x, *before, *arrays)


def few_by_kernels(x: mx.array) -> bool:
    """Whether the kernels for few tokens take x [T, ...]."""
    return x.ndim == 2 and x.shape[0] <= MOST_TOKENS and runs_kernels()


class QuantizedLinear(Projection):
    """`L8` of the spec: x [..., in] -> [..., out] in the dtype of x, weights decoded exactly."""

    def __init__(self, in_dim: int, out_dim: int, numerics: Numerics) -> None:
        super().__init__(in_dim, out_dim, "mxfp8")
        self._simulate_activations = numerics.simulate_activations

    @property
    def job(self) -> Job | None:
        """None if inputs are rounded: no kernel does it."""
        return None if self._simulate_activations else super().job

    def plain(self, x: mx.array) -> mx.array:
        """x [..., in] -> [..., out]."""
        if self._simulate_activations:
            x = simulate_activation(x)
        return self.product(x)


class GroupedLinear(Matrix):
    """`wo_a`: each of `groups` slices of the input has its own rows of the weight; no activation rounding."""

    def __init__(self, groups: int, in_dim: int, out_dim: int) -> None:
        super().__init__((groups * out_dim, in_dim), "mxfp8")
        self._groups = groups
        self._fits = out_dim % ROWS == 0

    def __call__(self, x: mx.array) -> mx.array:
        """x [T, groups, in] -> [T, groups * out]."""
        rows = x.flatten(1)
        if self._fits and few_by_kernels(rows) and self.storage in STORAGES:
            (y,) = dense_kernel((Job(self.storage),), groups=self._groups)(rows, *self.arrays)
            return y
        return self.product(x.swapaxes(0, 1), groups=self._groups).swapaxes(0, 1).flatten(1)


class Weight(nn.Module):
    """An array of the released dtype bfloat16, so that it is found under `NAME.weight` as in the checkpoint.

    A checkpoint may bring another dtype: what computes with it converts.
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = mx.zeros(shape, dtype=mx.bfloat16)


class Linear(Projection):
    """A projection that is released in bfloat16, computed in the dtype of its input: x [..., in] -> [..., out]."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__(in_dim, out_dim, "BF16")


class LinearFloat32(Projection):
    """A projection whose product the spec wants in float32 (compressor, head): bfloat16 weights are upcast."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__(in_dim, out_dim, "BF16")

    @property
    def job(self) -> Job | None:
        """Products stay in float32."""
        return Job(self.storage, "float32") if self.storage in STORAGES else None

    def plain(self, x: mx.array) -> mx.array:
        """x [..., in] -> float32 [..., out]."""
        return self.product_float32(x)


# Rows of a matrix are upcast at most this many bytes at a time: the output matrix alone would be 2 GB.
_UPCAST_BYTES = 1 << 26


def product_float32(x: mx.array, weight: mx.array, factors: Sequence[mx.array] = ()) -> mx.array:
    """x [..., in] times weight [..., out, in] transposed, both upcast: float32 [..., out].

    `factors` are `float32_factors(x)` if the caller has them already.
    """
    out = weight.shape[-2]
    step = max(1, _UPCAST_BYTES * out // (4 * weight.size))
    x_factors = factors or float32_factors(x)
    tiles = []
    for i in range(0, out, step):
        pairs = itertools.product(enumerate(x_factors), enumerate(float32_factors(weight[..., i : i + step, :])))
        # The smallest products first; those of two remainders are below what float32 holds.
        wanted = sorted(((n + m, a, b) for (n, a), (m, b) in pairs if n + m < 2), key=lambda pair: -pair[0])
        tiles.append(functools.reduce(mx.add, [a @ b.swapaxes(-1, -2) for _, a, b in wanted]))
    return tiles[0] if len(tiles) == 1 else mx.concatenate(tiles, axis=-1)


def float32_factors(x: mx.array) -> list[mx.array]:
    """float32 arrays whose sum is x, for products that are to be right in float32.

    Matmuls of float32 round their factors to 11 bits on NVIDIA's tensor cores (TF32) and on Apple's newer GPUs, and sum
    in float32. Numbers of 16 bits have no more than 11, so they pass as they are; a float32 number goes in two parts,
    which leaves out less than 2^-23 of it.
    """
    if on_cpu() or x.dtype != mx.float32:
        return [x.astype(mx.float32)]
    high = (x.view(mx.uint32) & 0xFFFFE000).view(mx.float32)
    return [high, x - high]


@mx.compile
def _two_bfloat16_parts(x: mx.array) -> tuple[mx.array, mx.array]:
    high = x.astype(mx.bfloat16)
    return high, (x - high.astype(mx.float32)).astype(mx.bfloat16)


def _product_of_sum(x: mx.array, parts: Sequence[mx.array]) -> mx.array:
    """x [..., in] times the transposed sum of `parts` [..., out, in], the largest first -> [..., out] in their dtype.

    What the small parts add is rounded on its way, which is little of little.
    """
    smallest, *larger = (part.swapaxes(-1, -2) for part in reversed(parts))
    y = x @ smallest
    for part in larger:
        y = mx.addmm(y, x, part)
    return y


class RMSNorm(Weight):
    """Weighted root-mean-square norm over the last axis, in float32, back to the dtype of x (spec 2)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__(dim)
        self._eps = scalar(eps)

    @property
    def eps(self) -> mx.array:
        """float32 []."""
        return self._eps

    def __call__(self, x: mx.array) -> mx.array:
        """x [..., dim] -> same shape and dtype."""
        return rms_norm(x, self.weight, self._eps)


def unit_rms(x: mx.array, eps: float | mx.array) -> mx.array:
    """x / rms(x) over the last axis without a weight; computed in float32, returned in the dtype of x."""
    return rms_norm(x, None, eps)
