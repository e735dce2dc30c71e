"""The kernels of the indexer against their definitions, on the emulator."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from kernels.emulate import emulated, without_each_barrier

from ds4_mlx.kernels import index_rows
from ds4_mlx.kernels.attention_samples import Query
from ds4_mlx.kernels.index_rows import INDEX_SCORES, best_entries, best_entries_kernel
from ds4_mlx.kernels.index_samples import best_entries_inputs, index_scores_inputs
from ds4_mlx.kernels.index_twins import NO_ENTRY, choose_entries
from ds4_mlx.kernels.kernel import Kernel, Launch, relative_error
from ds4_mlx.kernels.row_samples import DTYPES

from mslemu import ORDERS, SCHEDULES, EmulationError, check, check_cuda

ONE = (Query(0, 0, 700),)
SEVERAL = (Query(1, 0, 601), Query(0, 0, 3), Query(0, 0, 4), Query(2, 0, 99))


def assert_same_scores(inputs: list[mx.array], kernel: Kernel = INDEX_SCORES, **options: str) -> None:
    assert relative_error(emulated(kernel, inputs, **options), kernel.twin(*inputs)) <= 1e-5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "width"), [(16, 128), (3, 32), (8, 64)])
class TestScores:
    @pytest.mark.parametrize("queries", [ONE, SEVERAL], ids=["one", "several"])
    def test_equal_their_twin(self, heads: int, width: int, dtype: mx.Dtype, queries: tuple[Query, ...]) -> None:
        assert_same_scores(index_scores_inputs(heads, width, dtype, queries))

    def test_are_metal_and_cuda(self, heads: int, width: int, dtype: mx.Dtype) -> None:
        for queries in (ONE, SEVERAL):
            inputs = index_scores_inputs(heads, width, dtype, queries)
            call = INDEX_SCORES.launch(*inputs)._asdict()
            assert check(INDEX_SCORES.text, inputs=inputs, **call) == []
            assert check_cuda(INDEX_SCORES.text, inputs=inputs, **call) == []


@pytest.mark.parametrize(("schedule", "order"), list(zip(SCHEDULES, ORDERS, strict=True)))
class TestAnySchedule:
    def test_of_scores(self, schedule: str, order: str) -> None:
        assert_same_scores(index_scores_inputs(16, 64, mx.float32, SEVERAL), schedule=schedule, order=order)

    def test_of_the_best(self, schedule: str, order: str) -> None:
        assert_same_best(20, 512, best_entries_inputs(4, 300, given=False), schedule=schedule, order=order)


def assert_same_best(topk: int, chunk: int, inputs: list[mx.array], **options: str) -> None:
    kernel = best_entries_kernel(topk, chunk, given=len(inputs) > 2)
    found, expected = emulated(kernel, inputs, **options), kernel.twin(*inputs)
    assert all(mx.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("given", [False, True], ids=["all", "given"])
class TestBest:
    @pytest.mark.parametrize("topk", [1, 8, 299, 300, 512])
    def test_equal_their_twin(self, given: bool, topk: int) -> None:
        assert_same_best(topk, 512, best_entries_inputs(4, 300, given=given))

    def test_of_several_chunks(self, given: bool) -> None:
        assert_same_best(30, 1024, best_entries_inputs(2, 2_500, given=given))

    def test_are_metal_and_cuda(self, given: bool) -> None:
        kernel = best_entries_kernel(8, 512, given=given)
        for tokens, count in ((1, 5), (3, 300)):
            inputs = best_entries_inputs(tokens, count, given=given)
            call = kernel.launch(*inputs)._asdict()
            assert check(kernel.text, inputs=inputs, **call) == []
            assert check_cuda(kernel.text, inputs=inputs, **call) == []


@pytest.mark.parametrize("value", [0.0, -3.5, 7e-42, -np.inf])
def test_equal_scores_are_taken_from_the_start(value: float) -> None:
    kernel = best_entries_kernel(9, 512, given=False)
    scores, queries = mx.full((1, 40), value), mx.array([[0, 0, 0, 160]], dtype=mx.uint32)
    assert np.array(emulated(kernel, [scores, queries])[0]).tolist() == [[list(range(9))]]


def one_group(*inputs: mx.array) -> Launch:
    """A launch of `INDEX_SCORES` whose only threadgroup goes through all keys."""
    launch = INDEX_SCORES.launch(*inputs)
    return launch._replace(grid=(launch.threadgroup[0], *launch.grid[1:]))


FEW_GROUPS = replace(INDEX_SCORES, launch=one_group)


def test_a_threadgroup_goes_on_with_more_keys() -> None:
    assert_same_scores(index_scores_inputs(16, 64, mx.float32, SEVERAL), kernel=FEW_GROUPS)


@pytest.mark.parametrize(
    ("kernel", "inputs"),
    [
        (FEW_GROUPS, index_scores_inputs(16, 64, mx.float32, ONE)),
        (best_entries_kernel(20, 512, given=False), best_entries_inputs(1, 300, given=False)),
    ],
    ids=["scores", "best"],
)
def test_every_barrier_is_needed(kernel: Kernel, inputs: list[mx.array]) -> None:
    mutants = without_each_barrier(kernel)
    assert mutants
    for mutant in mutants:
        with pytest.raises(EmulationError):
            emulated(mutant, inputs)


@pytest.mark.parametrize(("count", "topk"), [(100, 50), (16_384, 50), (40_000, 50), (20_000, 4_000), (140_000, 512)])
def test_however_many_entries_the_choice_is_exact(count: int, topk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kernel, "__call__", lambda kernel, *inputs: emulated(kernel, list(inputs), mode="fast"))
    scores, queries = best_entries_inputs(1, count, given=False)
    found = np.array(best_entries(scores, queries, topk))
    assert np.array_equal(found, np.array(choose_entries(scores, mx.ones(scores.shape, dtype=mx.bool_), topk)))


def test_fewer_entries_than_wanted_end_with_none() -> None:
    scores, queries = mx.arange(40.0)[None], mx.array([[0, 0, 0, 13]], dtype=mx.uint32)
    assert np.array(best_entries(scores, queries, 5)).tolist() == [[0, 1, 2, NO_ENTRY, NO_ENTRY]]
    assert index_rows.best_entries(scores, queries, 2).tolist() == [[1, 2]]
