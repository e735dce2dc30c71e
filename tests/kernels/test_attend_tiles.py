"""Attention of many queries in tiles against its definition, on the emulator."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from kernels.emulate import assert_is_twin, emulated, without_each_barrier

from ds4_mlx.kernels.attend_rows import attend_kernel, combine_kernel
from ds4_mlx.kernels.attend_tiles import attend_tiles_kernel
from ds4_mlx.kernels.attention_samples import Query, Sizes, attend_tiles_inputs
from ds4_mlx.kernels.kernel import Kernel, relative_error
from ds4_mlx.kernels.row_samples import DTYPES

from mslemu import ORDERS, SCHEDULES, EmulationError, check, check_cuda

SMALL = Sizes(0, 4, 128, 64, 0, 0)
MORE_HEADS = Sizes(0, 36, 192, 64, 0, 0)  # no whole groups; three slices; a tail of 128 channels
RELEASED = Sizes(0, 64, 512, 448, 0, 0)
SEVERAL = (Query(1, 16, 700), Query(0, 1, 1), Query(0, 2, 2), Query(2, 9, 131), Query(0, 128, 1300))
LONG = (Query(0, 16, 1500), Query(0, 120, 1501))  # rows of more keys than are looked up at once
KINDS = {"window": (0, 0), "ratio 4": (4, 0), "ratio 4, chosen": (4, 24), "ratio 128": (128, 0)}


def case(kind: str, sizes: Sizes, dtype: mx.Dtype, queries: tuple[Query, ...]) -> tuple[Kernel, list[mx.array]]:
    ratio, topk = KINDS[kind]
    return attend_tiles_kernel(ratio, choosing=topk > 0), attend_tiles_inputs(sizes, dtype, queries, ratio, topk=topk)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
class TestAttendTiles:
    def test_equals_its_twin(self, kind: str, dtype: mx.Dtype) -> None:
        assert_is_twin(*case(kind, SMALL, dtype, SEVERAL))

    def test_is_metal_and_cuda(self, kind: str, dtype: mx.Dtype) -> None:
        for sizes, queries in ((SMALL, SEVERAL), (RELEASED, SEVERAL), (SMALL, LONG[:1])):
            kernel, inputs = case(kind, sizes, dtype, queries)
            call = kernel.launch(*inputs)._asdict()
            assert check(kernel.text, inputs=inputs, **call) == []
            assert check_cuda(kernel.text, inputs=inputs, **call) == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_heads_that_fill_no_group(dtype: mx.Dtype) -> None:
    assert_is_twin(*case("ratio 128", MORE_HEADS, dtype, SEVERAL))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_released_sizes_fit_into_a_threadgroups_memory(dtype: mx.Dtype) -> None:
    assert_is_twin(*case("ratio 4, chosen", RELEASED, dtype, (Query(1, 128, 700),)), mode="fast")


@pytest.mark.parametrize(("schedule", "order"), list(zip(SCHEDULES, ORDERS, strict=True)))
def test_any_schedule(schedule: str, order: str) -> None:
    kernel, inputs = case("ratio 4, chosen", SMALL, mx.float32, SEVERAL)
    assert_is_twin(kernel, inputs, schedule=schedule, order=order)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
def test_more_keys_than_are_looked_up_at_once(dtype: mx.Dtype) -> None:
    assert_is_twin(*case("ratio 4", SMALL, dtype, LONG))


def test_every_barrier_is_needed() -> None:
    kernel, inputs = case("ratio 4", SMALL, mx.float32, LONG[:1])
    mutants = without_each_barrier(kernel)
    assert mutants
    for mutant in mutants:
        with pytest.raises(EmulationError):
            emulated(mutant, inputs)


def test_a_query_does_not_depend_on_the_others() -> None:
    kernel, (q, queries, pages, chosen, sink, cos, sin, *parts) = case("ratio 4, chosen", SMALL, mx.bfloat16, SEVERAL)
    (together,) = emulated(kernel, [q, queries, pages, chosen, sink, cos, sin, *parts])
    (alone,) = emulated(kernel, [q[3:], queries[3:], pages, chosen[3:], sink, cos[3:], sin[3:], *parts])
    assert mx.array_equal(together[3:], alone)


def test_keys_of_another_size() -> None:
    """Blocks far from 1: their scales are exact in halves, and so are the keys."""
    kernel, inputs = case("ratio 128", SMALL, mx.bfloat16, SEVERAL)
    for exponents in (8, 11):
        inputs[exponents] = mx.array(np.array(inputs[exponents]) - 6)
    assert_is_twin(kernel, inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_is_what_few_queries_get(kind: str) -> None:
    kernel, inputs = case(kind, SMALL, mx.float32, SEVERAL)
    ratio, topk = KINDS[kind]
    *rows, sink, cos, sin = inputs[:7]
    sums = attend_kernel(ratio, choosing=topk > 0).twin(*rows, *inputs[7:])
    assert relative_error(kernel.twin(*inputs), combine_kernel(mx.float32).twin(*sums, sink, cos, sin)) <= 1e-5
