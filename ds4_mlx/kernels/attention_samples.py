"""Inputs for trying out the kernels of attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ds4_mlx.kernels.row_samples import DTYPES, random_rows
from ds4_mlx.quant.rows import pack_kv


class Sizes(NamedTuple):
    """tokens T, heads H, width d of a K=V row, of which `nope` are packed; index heads and their width."""

    tokens: int
    heads: int
    width: int
    nope: int
    index_heads: int
    index_width: int


RELEASED = Sizes(2, 64, 512, 448, 64, 128)


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    """Normal numbers."""
    return mx.array(rng.standard_normal(shape).astype(np.float32)).astype(dtype)


def angles(tokens: int, pairs: int) -> tuple[mx.array, mx.array]:
    """Cosines and sines float32 [T, p]."""
    turns = np.random.default_rng(pairs).uniform(-4, 4, (tokens, pairs)).astype(np.float32)
    return mx.array(np.cos(turns)), mx.array(np.sin(turns))


def attention_rows_inputs(sizes: Sizes, dtype: mx.Dtype, *, old: int, indexed: bool) -> list[mx.array]:
    """Inputs of `attention_rows_kernel`: of `old` window rows the last ones stay, with the tokens between them."""
    rng = np.random.default_rng([*sizes, old])
    tokens, heads, width, nope, index_heads, index_width = sizes
    cos, sin = angles(tokens, (width - nope) // 2)
    stay = list(range(old // 4, old))
    sources = [*stay[: len(stay) // 2], *range(-1, -1 - tokens, -1), *stay[len(stay) // 2 :]]
    inputs = [
        normal(rng, (tokens, heads, width), dtype),
        normal(rng, (tokens, width), dtype),
        mx.array(rng.uniform(0.5, 2, width).astype(np.float32)).astype(mx.bfloat16),
        cos,
        sin,
        mx.array(1e-6),
        mx.array(np.array(sources, dtype=np.int32)),
        *pack_kv(random_rows(max(1, old), width, dtype), nope),
    ]
    return [*inputs, normal(rng, (tokens, index_heads, index_width), dtype)] if indexed else inputs


def attention_rows_samples(*, indexed: bool) -> Iterator[list[mx.array]]:
    """Inputs of the released sizes."""
    for dtype in DTYPES:
        yield attention_rows_inputs(RELEASED, dtype, old=37, indexed=indexed)
