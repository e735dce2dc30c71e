"""What the kernels of routed experts compute, in plain operations (spec 9)."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
from mlx import nn

from ds4_mlx.quant.formats import get_format


def expert_products(
    rows: mx.array, chosen: mx.array, arrays: Sequence[mx.array], name: str, *, halves: bool = False
) -> mx.array:
    """Row r of rows [R, K] times the transposed matrix [N, K] of expert chosen[r] -> float32 [R, N].

    `arrays` hold the matrices of all experts in format `name`. Each expert that is needed is decoded once. `halves`:
    both factors are rounded to float16 first, weights as 1024 times what they are, unless rows are float32. Waits for
    `chosen`, so not for use in compiled functions.
    """
    matrix_format, ids = get_format(name), np.array(chosen)
    halves = halves and rows.dtype != mx.float32
    rows = rows.astype(mx.float16 if halves else rows.dtype).astype(mx.float32)
    order = np.argsort(ids, kind="stable")
    products = []
    for expert in np.unique(ids):
        matrix = matrix_format.decode(*(array[int(expert)] for array in arrays))
        if halves:
            matrix = (matrix * 1024).astype(mx.float16).astype(mx.float32) / 1024
        products.append(rows[mx.array(np.flatnonzero(ids == expert))] @ matrix.T)
    return mx.concatenate(products)[mx.array(np.argsort(order))]


def swiglu(gate: mx.array, up: mx.array, limit: float | mx.array) -> mx.array:
    """silu(min(gate, limit)) * clamp(up, -limit, limit) in float32. The gate has no lower bound."""
    gate = mx.minimum(gate.astype(mx.float32), limit)
    up = mx.clip(up.astype(mx.float32), -limit, limit)
    return nn.silu(gate) * up


def gate_up_twin(
    name: str,
    x: mx.array,
    experts: mx.array,
    weights: mx.array,
    limit: mx.array,
    *arrays: mx.array,
    halves: bool = False,
) -> list[mx.array]:
    """inner [T * k, N]: SwiGLU of x's products with w1 and w3 of each chosen expert, times the route's weight.

    The products are rounded to the dtype of x, as the reference's linear layers round; the weight goes in before the
    down projection, where the reference has it.
    """
    parts, slots = len(get_format(name).parts), experts.shape[1]
    chosen = experts.flatten()
    rows = mx.repeat(x, slots, axis=0)
    matrices = arrays[:parts], arrays[parts : 2 * parts]
    gate, up = (expert_products(rows, chosen, matrix, name, halves=halves).astype(x.dtype) for matrix in matrices)
    return [(swiglu(gate, up, limit) * weights.flatten()[:, None]).astype(x.dtype)]


def down_twin(name: str, inner: mx.array, experts: mx.array, *arrays: mx.array) -> list[mx.array]:
    """float32 [T, N]: each pair's product with w2, rounded to the dtype of inner, summed over a token's k experts."""
    products = expert_products(inner, experts.flatten(), arrays[: len(get_format(name).parts)], name)
    return [mx.unflatten(products.astype(inner.dtype).astype(mx.float32), 0, experts.shape).sum(axis=1)]


def tile_gate_up_twin(
    name: str,
    x: mx.array,
    weights: mx.array,
    limit: mx.array,
    order: mx.array,
    starts: mx.array,
    tiles: mx.array,
    *arrays: mx.array,
) -> list[mx.array]:
    """`gate_up_twin` with its rows in the order of a plan."""
    experts = _planned_experts(order, starts).reshape(weights.shape)
    (inner,) = gate_up_twin(name, x, experts, weights, limit, *arrays, halves=True)
    return [inner[order]]


def tile_down_twin(
    name: str, inner: mx.array, order: mx.array, starts: mx.array, tiles: mx.array, *arrays: mx.array
) -> list[mx.array]:
    """[R, N]: each row's product with w2 of its expert, rounded to the dtype of inner, in the order of the pairs."""
    chosen = _planned_experts(order, starts)
    products = expert_products(inner, chosen[order], arrays[: len(get_format(name).parts)], name, halves=True)
    return [products.astype(inner.dtype)[mx.argsort(order)]]


def _planned_experts(order: mx.array, starts: mx.array) -> mx.array:
    """The expert of each pair [R], in the order of the pairs."""
    by_expert = (mx.arange(order.size)[:, None] >= starts[None, 1:].astype(mx.int32)).sum(axis=1)
    return by_expert[mx.argsort(order)]
