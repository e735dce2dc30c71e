"""Inputs for trying out the kernels of routed experts: random codes, every one of them legal, ragged sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ds4_mlx.kernels.expert_plan import plan
from ds4_mlx.kernels.runs import lookup
from ds4_mlx.quant.formats import get_format

DTYPES = (mx.float32, mx.float16, mx.bfloat16)


class Sizes(NamedTuple):
    """tokens T, slots k per token, experts E, width K and rows N of their matrices."""

    tokens: int
    slots: int
    experts: int
    width: int
    rows: int


def random_matrices(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> list[mx.array]:
    """The arrays of random matrices `shape` [E, N, K] whose products with normal numbers are of about unit size."""
    scale = 0.0001 if name == "q4_k" else 0.001  # its codes and scales are larger numbers than those of the others
    arrays = []
    shapes = get_format(name).array_shapes(shape)
    for part in get_format(name).parts:
        part_shape, _ = shapes[part.name]
        if part.dtype == "F16":
            arrays.append(mx.array(rng.uniform(0.5 * scale, 2 * scale, part_shape).astype(np.float16)))
        elif part.name == "scales":
            arrays.append(mx.array(rng.integers(114, 123, part_shape, dtype=np.uint8)))
        else:
            dtype = np.uint32 if part.dtype == "U32" else np.uint8
            arrays.append(mx.array(rng.integers(0, np.iinfo(dtype).max, part_shape, dtype=dtype, endpoint=True)))
    return arrays


def random_routes(rng: np.random.Generator, sizes: Sizes) -> tuple[mx.array, mx.array]:
    """experts uint32 [T, k], distinct within a token and few enough to be shared; weights float32 [T, k]."""
    chosen = np.stack([rng.permutation(sizes.experts)[: sizes.slots] for _ in range(sizes.tokens)])
    return mx.array(chosen.astype(np.uint32)), mx.array(rng.uniform(0.1, 1, chosen.shape).astype(np.float32))


def gate_up_inputs(name: str, sizes: Sizes, dtype: mx.Dtype) -> list[mx.array]:
    """Inputs of `gate_up_kernel(name)`."""
    rng = np.random.default_rng([*sizes, 1])
    experts, weights = random_routes(rng, sizes)
    shape = (sizes.experts, sizes.rows, sizes.width)
    x = mx.array(rng.standard_normal((sizes.tokens, sizes.width)).astype(np.float32)).astype(dtype)
    w1, w3 = random_matrices(rng, name, shape), random_matrices(rng, name, shape)
    return [x, experts, weights, mx.array(1.5), *w1, *w3, *lookup(name)]


def down_inputs(name: str, sizes: Sizes, dtype: mx.Dtype) -> list[mx.array]:
    """Inputs of `down_kernel(name)`."""
    rng = np.random.default_rng([*sizes, 2])
    experts, _ = random_routes(rng, sizes)
    inner = mx.array(rng.standard_normal((experts.size, sizes.width)).astype(np.float32)).astype(dtype)
    return [inner, experts, *random_matrices(rng, name, (sizes.experts, sizes.rows, sizes.width)), *lookup(name)]


def tile_gate_up_inputs(name: str, sizes: Sizes, dtype: mx.Dtype) -> list[mx.array]:
    """Inputs of `tile_gate_up_kernel(name)`."""
    x, experts, weights, limit, *rest = gate_up_inputs(name, sizes, dtype)
    return [x, weights, limit, *plan(experts, sizes.experts), *rest]


def tile_down_inputs(name: str, sizes: Sizes, dtype: mx.Dtype) -> list[mx.array]:
    """Inputs of `tile_down_kernel(name)`."""
    inner, experts, *rest = down_inputs(name, sizes, dtype)
    return [inner, *plan(experts, sizes.experts), *rest]


Inputs = Callable[[str, Sizes, mx.Dtype], list[mx.array]]

# What the self-test runs: each size is a compilation, so the second one is tried with bfloat16 only.
ROW_SIZES = Sizes(1, 6, 8, 2048, 73), Sizes(8, 3, 5, 1280, 40)
TILE_SIZES = Sizes(150, 3, 6, 512, 136), Sizes(9, 2, 5, 256, 17)


def samples(inputs: Inputs, sizes: tuple[Sizes, ...], name: str) -> Iterator[list[mx.array]]:
    """`inputs` of all dtypes for the first of `sizes`, of bfloat16 for the others."""
    for dtype in DTYPES:
        yield inputs(name, sizes[0], dtype)
    for more in sizes[1:]:
        yield inputs(name, more, mx.bfloat16)
