"""What happens to rows before they attend, on the emulator."""

from __future__ import annotations

import mlx.core as mx
import pytest
from kernels.emulate import emulated, without_each_barrier

from ds4_mlx.kernels.attention_rows import attention_rows_kernel
from ds4_mlx.kernels.attention_samples import Sizes, attention_rows_inputs
from ds4_mlx.kernels.kernel import relative_error, tolerance
from ds4_mlx.kernels.row_samples import DTYPES

from mslemu import ORDERS, SCHEDULES, check, check_cuda

SIZES = {
    "small": Sizes(1, 4, 128, 64, 16, 128),
    "several": Sizes(8, 3, 192, 128, 2, 64),
    "no multiple of 64": Sizes(3, 2, 202, 192, 3, 32),
}


def assert_is_twin(inputs: list[mx.array], *, indexed: bool, **options: str) -> None:
    kernel = attention_rows_kernel(indexed=indexed)
    found, expected = emulated(kernel, inputs, **options), kernel.twin(*inputs)
    assert [x.dtype for x in found] == [x.dtype for x in expected]
    assert relative_error(found, expected) <= tolerance(inputs[0].dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
class TestAttentionRows:
    @pytest.mark.parametrize("old", [0, 9])
    def test_equals_its_twin(self, sizes: Sizes, dtype: mx.Dtype, old: int) -> None:
        assert_is_twin(attention_rows_inputs(sizes, dtype, old=old, indexed=True), indexed=True)

    def test_equals_its_twin_without_index_queries(self, sizes: Sizes, dtype: mx.Dtype) -> None:
        assert_is_twin(attention_rows_inputs(sizes, dtype, old=3, indexed=False), indexed=False)

    def test_is_metal_and_cuda(self, sizes: Sizes, dtype: mx.Dtype) -> None:
        for indexed in (False, True):
            for old in (0, 9):
                kernel, inputs = (
                    attention_rows_kernel(indexed=indexed),
                    attention_rows_inputs(sizes, dtype, old=old, indexed=indexed),
                )
                call = kernel.launch(*inputs)._asdict()
                assert check(kernel.text, inputs=inputs, **call) == []
                assert check_cuda(kernel.text, inputs=inputs, **call) == []


@pytest.mark.parametrize(("schedule", "order"), list(zip(SCHEDULES, ORDERS, strict=True)))
def test_any_schedule(schedule: str, order: str) -> None:
    inputs = attention_rows_inputs(SIZES["several"], mx.float32, old=3, indexed=True)
    assert_is_twin(inputs, indexed=True, schedule=schedule, order=order)


def test_there_are_no_barriers_to_forget() -> None:
    assert without_each_barrier(attention_rows_kernel(indexed=True)) == []
