"""The indexer's scores of many queries against their definition, on the emulator."""

from __future__ import annotations

import mlx.core as mx
import pytest
from kernels.emulate import emulated, without_each_barrier

from ds4_mlx.kernels.attention_samples import Query
from ds4_mlx.kernels.index_samples import index_scores_inputs
from ds4_mlx.kernels.index_tiles import INDEX_TILES, query_blocks
from ds4_mlx.kernels.kernel import relative_error
from ds4_mlx.kernels.row_samples import DTYPES

from mslemu import ORDERS, SCHEDULES, EmulationError, check, check_cuda

# More than a threadgroup takes; a sequence after another, which sees less than a simdgroup's keys, or none.
QUERIES = tuple(Query(1, 0, end) for end in range(1_190, 1_196)) + tuple(Query(0, 0, end) for end in (3, 4, 99, 1_100))


def assert_same_scores(inputs: list[mx.array], **options: str) -> None:
    assert relative_error(emulated(INDEX_TILES, inputs, **options), INDEX_TILES.twin(*inputs)) <= 1e-5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "width"), [(16, 128), (3, 32), (8, 64)])
class TestScores:
    def test_equal_their_twin(self, heads: int, width: int, dtype: mx.Dtype) -> None:
        assert_same_scores(index_scores_inputs(heads, width, dtype, QUERIES))

    def test_are_metal_and_cuda(self, heads: int, width: int, dtype: mx.Dtype) -> None:
        inputs = index_scores_inputs(heads, width, dtype, QUERIES)
        call = INDEX_TILES.launch(*inputs)._asdict()
        assert check(INDEX_TILES.text, inputs=inputs, **call) == []
        assert check_cuda(INDEX_TILES.text, inputs=inputs, **call) == []


@pytest.mark.parametrize(("schedule", "order"), list(zip(SCHEDULES, ORDERS, strict=True)))
def test_any_schedule(schedule: str, order: str) -> None:
    assert_same_scores(index_scores_inputs(3, 32, mx.float32, QUERIES), schedule=schedule, order=order)


def test_every_barrier_is_needed() -> None:
    mutants = without_each_barrier(INDEX_TILES)
    assert mutants
    inputs = index_scores_inputs(16, 64, mx.float32, QUERIES)
    for mutant in mutants:
        with pytest.raises(EmulationError):
            emulated(mutant, inputs)


def test_blocks_of_queries_are_all_of_them_and_bounded() -> None:
    for tokens, pages in ((2_048, 256), (2_048, 8_192), (100, 1 << 20)):
        blocks = query_blocks(tokens, pages)
        assert [i for block in blocks for i in range(tokens)[block]] == list(range(tokens))
    assert max(block.stop - block.start for block in query_blocks(2_048, 8_192)) * 8_192 * 32 * 4 <= 1 << 28
