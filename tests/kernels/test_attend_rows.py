"""Attention over packed rows against its definition, on the emulator."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from kernels.emulate import assert_is_twin, emulated, without_each_barrier

from ds4_mlx.kernels.attend_rows import attend_kernel, combine_kernel
from ds4_mlx.kernels.attention_samples import Query, Sizes, angles, attend_inputs, combine_inputs, normal
from ds4_mlx.kernels.attention_twins import SPLITS, key_range, keys_of, turn_pairs
from ds4_mlx.kernels.kernel import Kernel, relative_error, tolerance
from ds4_mlx.kernels.row_samples import DTYPES
from ds4_mlx.model.attention import attend
from ds4_mlx.quant.rows import PackedKV

from mslemu import ORDERS, SCHEDULES, EmulationError, check, check_cuda

SMALL = Sizes(0, 4, 128, 64, 0, 0)
MORE_HEADS = Sizes(0, 24, 192, 64, 0, 0)  # no whole groups; a tail of two simdgroups
ONE = (Query(0, 128, 1300),)
SEVERAL = (Query(1, 16, 700), Query(0, 1, 1), Query(0, 2, 2), Query(2, 9, 131))
KINDS = {"window": (0, 0), "ratio 4": (4, 0), "ratio 4, chosen": (4, 8), "ratio 128": (128, 0)}


def case(kind: str, sizes: Sizes, dtype: mx.Dtype, queries: tuple[Query, ...]) -> tuple[Kernel, list[mx.array]]:
    ratio, topk = KINDS[kind]
    return attend_kernel(ratio, choosing=topk > 0), attend_inputs(sizes, dtype, queries, ratio, topk=topk)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
class TestAttend:
    @pytest.mark.parametrize("queries", [ONE, SEVERAL], ids=["one", "several"])
    def test_equals_its_twin(self, kind: str, dtype: mx.Dtype, queries: tuple[Query, ...]) -> None:
        assert_is_twin(*case(kind, SMALL, dtype, queries))

    def test_is_metal_and_cuda(self, kind: str, dtype: mx.Dtype) -> None:
        for queries in (ONE, SEVERAL):
            kernel, inputs = case(kind, SMALL, dtype, queries)
            call = kernel.launch(*inputs)._asdict()
            assert check(kernel.text, inputs=inputs, **call) == []
            assert check_cuda(kernel.text, inputs=inputs, **call) == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_heads_that_fill_no_group(dtype: mx.Dtype) -> None:
    assert_is_twin(*case("ratio 128", MORE_HEADS, dtype, SEVERAL))


@pytest.mark.parametrize(("schedule", "order"), list(zip(SCHEDULES, ORDERS, strict=True)))
def test_any_schedule(schedule: str, order: str) -> None:
    kernel, inputs = case("ratio 4, chosen", SMALL, mx.float32, SEVERAL)
    assert_is_twin(kernel, inputs, schedule=schedule, order=order)


LONG = (Query(0, 16, 5200),)  # more keys than one step of each split


def test_more_keys_than_a_step() -> None:
    assert_is_twin(*case("ratio 4", SMALL, mx.float32, LONG))


def test_every_barrier_is_needed() -> None:
    kernel, inputs = case("ratio 4", SMALL, mx.float32, LONG)
    mutants = without_each_barrier(kernel)
    assert mutants
    for mutant in mutants:
        with pytest.raises(EmulationError):
            emulated(mutant, inputs)


def test_a_query_does_not_depend_on_the_others() -> None:
    kernel, (q, queries, pages, chosen, *parts) = case("ratio 4, chosen", SMALL, mx.bfloat16, SEVERAL)
    together = emulated(kernel, [q, queries, pages, chosen, *parts])
    alone = emulated(kernel, [q[3:], queries[3:], pages, chosen[3:], *parts])
    assert all(mx.array_equal(a[3:], b) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("count", [1, 8, 9, 255, 256, 257, 640, 70_000])
def test_splits_share_all_keys(count: int) -> None:
    ranges = [key_range(count, split) for split in range(SPLITS)]
    keys = [key for start, stop in ranges for key in range(start, stop)]
    assert keys == list(range(count))
    assert max(b - a for a, b in ranges) <= count / SPLITS + 16


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
class TestCombine:
    @pytest.mark.parametrize("width", [128, 192])
    def test_equals_its_twin(self, width: int, dtype: mx.Dtype) -> None:
        assert_is_twin(combine_kernel(dtype), combine_inputs(Sizes(2, 3, width, 64, 0, 0), 5))

    def test_is_metal_and_cuda(self, dtype: mx.Dtype) -> None:
        for heads in (3, 9):
            kernel, inputs = combine_kernel(dtype), combine_inputs(Sizes(1, heads, 128, 64, 0, 0), 5)
            call = kernel.launch(*inputs)._asdict()
            assert check(kernel.text, inputs=inputs, **call) == []
            assert check_cuda(kernel.text, inputs=inputs, **call) == []

    def test_every_barrier_is_needed(self, dtype: mx.Dtype) -> None:
        (mutant,) = without_each_barrier(combine_kernel(dtype))
        with pytest.raises(EmulationError):
            emulated(mutant, combine_inputs(Sizes(1, 2, 256, 64, 0, 0), 5))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_both_together_are_attention(dtype: mx.Dtype) -> None:
    kernel, inputs = case("ratio 4, chosen", SMALL, dtype, SEVERAL)
    q, queries, pages, chosen, *parts = inputs
    sink, turns = normal(np.random.default_rng(0), (4,), mx.float32), angles(len(SEVERAL), 32)
    (found,) = emulated(combine_kernel(dtype), [*emulated(kernel, inputs), sink, *turns])
    rows = []
    for i in range(len(SEVERAL)):
        window, entries = PackedKV(*parts[:3]), PackedKV(*parts[3:])
        keys = keys_of(4, True, np.array(queries[i]), pages, chosen[i], window, entries)
        o = attend(q[i : i + 1], keys, mx.ones((1, keys.shape[0]), dtype=mx.bool_), None, None, sink)
        rows.append(o.astype(dtype))
    cos, sin = turns
    assert relative_error([found], [turn_pairs(mx.concatenate(rows), cos, -sin)]) <= tolerance(dtype)
