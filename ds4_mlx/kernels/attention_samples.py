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


class Query(NamedTuple):
    """A token's sequence, how many window rows it sees, and how many tokens its sequence has with it."""

    sequence: int
    held: int
    end: int


QUERIES = (Query(0, 128, 2_600), Query(1, 1, 1), Query(1, 2, 2), Query(2, 37, 700))


def page_table(rng: np.random.Generator, sequences: int, pages: int) -> np.ndarray:
    """uint32 [B, P]: pages of several sequences, in no order, some shared."""
    return rng.integers(0, sequences * pages, (sequences, pages), dtype=np.uint32)


def attend_inputs(
    sizes: Sizes, dtype: mx.Dtype, queries: tuple[Query, ...], ratio: int, *, topk: int
) -> list[mx.array]:
    """Inputs of `attend_kernel`. topk 0: not choosing. Rows differ in size, as those of a model do little."""
    rng = np.random.default_rng([*sizes[1:], ratio, topk, len(queries)])
    sequences, most = max(q.sequence for q in queries) + 1, max(q.end for q in queries)
    pages = page_table(rng, sequences, -(-most // 128) + 1)
    rows = pages.size * (128 // ratio if ratio else 1)
    first = np.cumsum([0, *(q.held for q in queries)])
    # At least as many numbers as an entry needs, each once and ascending; what is behind them is no entry.
    chosen = np.full((len(queries), max(topk, 1)), 0xFFFFFFFF, dtype=np.uint32)
    for i, query in enumerate(queries):
        visible = query.end // ratio if ratio else 0
        numbers = np.sort(rng.permutation(visible)[:topk])
        chosen[i, : len(numbers)] = numbers
    return [
        normal(rng, (len(queries), sizes.heads, sizes.width), dtype),
        mx.array(np.array([(q.sequence, f, q.held, q.end) for q, f in zip(queries, first, strict=False)], np.uint32)),
        mx.array(pages),
        mx.array(chosen),
        *pack_kv(normal(rng, (int(first[-1]), sizes.width), dtype), sizes.nope),
        *pack_kv(normal(rng, (rows, sizes.width), dtype), sizes.nope),
    ]


def attend_samples(ratio: int, *, choosing: bool) -> Iterator[list[mx.array]]:
    """Inputs of the released sizes."""
    for dtype in DTYPES:
        yield attend_inputs(RELEASED, dtype, QUERIES, ratio, topk=512 if choosing else 0)


def attend_tiles_inputs(
    sizes: Sizes, dtype: mx.Dtype, queries: tuple[Query, ...], ratio: int, *, topk: int
) -> list[mx.array]:
    """Inputs of `attend_tiles_kernel`: those of `attend_kernel`, sinks and angles."""
    q, rows, pages, chosen, *parts = attend_inputs(sizes, dtype, queries, ratio, topk=topk)
    sink = normal(np.random.default_rng(sizes.heads), (sizes.heads,), mx.float32)
    turns = angles(len(queries), (sizes.width - sizes.nope) // 2)
    return [q, rows, pages, chosen, sink, *turns, *parts]


def attend_tiles_samples(ratio: int, *, choosing: bool) -> Iterator[list[mx.array]]:
    """Inputs of the released sizes."""
    for dtype in DTYPES:
        yield attend_tiles_inputs(RELEASED, dtype, QUERIES * 3, ratio, topk=512 if choosing else 0)


def combine_inputs(sizes: Sizes, splits: int) -> list[mx.array]:
    """Inputs of `combine_kernel`; some splits had no keys."""
    rng = np.random.default_rng([*sizes, splits])
    shape = sizes.tokens, splits, sizes.heads
    softmax = np.stack([rng.uniform(-8, 8, shape), rng.uniform(1, 9, shape)], axis=-1).astype(np.float32)
    empty = rng.random(splits) < 0.3
    empty[splits // 2] = False
    softmax[:, empty] = 0
    return [
        mx.array(np.where(empty[:, None, None], 0, rng.standard_normal((*shape, sizes.width))).astype(np.float32)),
        mx.array(softmax),
        normal(rng, (sizes.heads,), mx.float32),
        *angles(sizes.tokens, (sizes.width - sizes.nope) // 2),
    ]


def combine_samples() -> Iterator[list[mx.array]]:
    """Inputs of the released sizes."""
    yield combine_inputs(RELEASED, 32)
