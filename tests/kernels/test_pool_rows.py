"""A step of a compressor against its definition, on the emulator."""

from __future__ import annotations

import mlx.core as mx
import pytest
from kernels.emulate import assert_is_twin, emulated, without_each_barrier

from ds4_mlx.kernels.pool_rows import KEEP_ROWS, Kind, pool_kernel
from ds4_mlx.kernels.pool_samples import keep_inputs, pool_inputs
from ds4_mlx.kernels.row_samples import DTYPES

from mslemu import ORDERS, SCHEDULES, EmulationError, check, check_cuda

SIZES = {"kv": [(128, 64), (202, 10)], "index": [(128, 64), (32, 16)]}
CASES = [(kind, *sizes, ratio) for kind in SIZES for sizes in SIZES[kind] for ratio in (4, 128)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("kind", "width", "turned", "ratio"), CASES)
class TestPool:
    @pytest.mark.parametrize("old", [0, 7])
    def test_equals_its_twin(self, kind: Kind, width: int, turned: int, ratio: int, dtype: mx.Dtype, old: int) -> None:
        inputs = pool_inputs(width, turned, ratio, tokens=5, old=old, entries=2)
        assert_is_twin(pool_kernel(kind, dtype), inputs)

    def test_is_metal_and_cuda(self, kind: Kind, width: int, turned: int, ratio: int, dtype: mx.Dtype) -> None:
        kernel = pool_kernel(kind, dtype)
        for tokens, old, entries in ((1, 3, 1), (9, 9, 3)):
            inputs = pool_inputs(width, turned, ratio, tokens=tokens, old=old, entries=entries)
            call = kernel.launch(*inputs)._asdict()
            assert check(kernel.text, inputs=inputs, **call) == []
            assert check_cuda(kernel.text, inputs=inputs, **call) == []


@pytest.mark.parametrize(("tokens", "old"), [(1, 0), (2, 5), (9, 12)])
def test_rows_that_only_stay(tokens: int, old: int) -> None:
    inputs = keep_inputs(130, 4, tokens=tokens, old=old)
    assert_is_twin(KEEP_ROWS, inputs)
    call = KEEP_ROWS.launch(*inputs)._asdict()
    assert check(KEEP_ROWS.text, inputs=inputs, **call) == []
    assert check_cuda(KEEP_ROWS.text, inputs=inputs, **call) == []


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize(("schedule", "order"), list(zip(SCHEDULES, ORDERS, strict=True)))
def test_any_schedule(kind: Kind, schedule: str, order: str) -> None:
    inputs = pool_inputs(128, 64, 4, tokens=5, old=3, entries=2)
    assert_is_twin(pool_kernel(kind, mx.float32), inputs, schedule=schedule, order=order)


@pytest.mark.parametrize("kind", SIZES)
def test_every_barrier_is_needed(kind: Kind) -> None:
    mutants = without_each_barrier(pool_kernel(kind, mx.float32))
    assert mutants
    for mutant in mutants:
        with pytest.raises(EmulationError):
            emulated(mutant, pool_inputs(128, 64, 4, tokens=5, old=3, entries=2))
