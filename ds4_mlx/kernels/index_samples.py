"""Inputs for trying out the kernels of the indexer."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import numpy as np

from ds4_mlx.kernels.attention_samples import Query, normal, page_table
from ds4_mlx.kernels.index_twins import NO_ENTRY, PER_PAGE
from ds4_mlx.kernels.row_samples import DTYPES, INDEX_WIDTH
from ds4_mlx.quant.rows import pack_index
from ds4_mlx.quant.simulate import simulate_index

QUERIES = (Query(0, 0, 1_333), Query(1, 0, 3), Query(1, 0, 4))


def _queries(queries: tuple[Query, ...]) -> mx.array:
    return mx.array(np.array([(q.sequence, 0, q.held, q.end) for q in queries], dtype=np.uint32))


def index_scores_inputs(heads: int, width: int, dtype: mx.Dtype, queries: tuple[Query, ...]) -> list[mx.array]:
    """Inputs of `INDEX_SCORES`."""
    rng = np.random.default_rng([heads, width, len(queries)])
    pages = page_table(rng, max(q.sequence for q in queries) + 1, -(-max(q.end for q in queries) // 128) + 1)
    return [
        simulate_index(normal(rng, (len(queries), heads, width), dtype)),
        normal(rng, (len(queries), heads), dtype),
        _queries(queries),
        mx.array(pages),
        *pack_index(normal(rng, (pages.size * PER_PAGE, width), mx.float32)),
    ]


def index_scores_samples() -> Iterator[list[mx.array]]:
    """Inputs of the released sizes."""
    for dtype in DTYPES:
        yield index_scores_inputs(64, INDEX_WIDTH, dtype, QUERIES)


def index_tiles_samples() -> Iterator[list[mx.array]]:
    """More tokens than a threadgroup takes, of two sequences, at the released sizes."""
    queries = *(Query(1, 0, end) for end in range(1_330, 1_337)), *(Query(0, 0, end) for end in range(1, 40, 3))
    for dtype in DTYPES:
        yield index_scores_inputs(64, INDEX_WIDTH, dtype, queries)


def best_entries_inputs(tokens: int, count: int, *, given: bool) -> list[mx.array]:
    """Inputs of `best_entries_kernel`: many equal scores, some zeros of either sign; queries see all, few, or none."""
    rng = np.random.default_rng([tokens, count])
    scores = np.round(rng.standard_normal((tokens, count)) * 8) / rng.choice([1, 1.5, 1e3], (tokens, 1))
    scores[rng.random(scores.shape) < 0.1] *= 0
    ends = [4 * count + 3, 4 * (count // 2), 0, 11] * tokens
    queries = _queries(tuple(Query(0, 0, end) for end in ends[:tokens]))
    inputs = [mx.array(scores.astype(np.float32)), queries]
    if given:
        numbers = np.sort(rng.permutation(9 * count)[: tokens * count].reshape(tokens, count).astype(np.uint32))
        numbers[rng.random(numbers.shape) < 0.3] = NO_ENTRY
        inputs.append(mx.array(numbers))
    return inputs


def best_entries_samples(*, given: bool) -> Iterator[list[mx.array]]:
    """More entries than are wanted, and fewer."""
    for count in (2_000, 400):
        yield best_entries_inputs(3, count, given=given)
