"""The kernel that ends a feed-forward sublayer against its twin, on the emulator."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from kernels.emulate import emulated, without_each_barrier

from ds4_mlx.kernels.dense_samples import DTYPES
from ds4_mlx.kernels.dense_text import STORAGES
from ds4_mlx.kernels.expert_return import expert_return_inputs, expert_return_kernel
from ds4_mlx.kernels.expert_samples import Sizes
from ds4_mlx.kernels.kernel import relative_error, tolerance
from ds4_mlx.kernels.runs import FORMATS

from mslemu import ORDERS, SCHEDULES, EmulationError, check, check_cuda

ONE = Sizes(1, 3, 4, 512, 24)
SEVERAL = Sizes(8, 3, 4, 256, 40)  # experts of several tokens; channels that fill no tile


def assert_is_twin(name: str, storage: str, sizes: Sizes, dtype: mx.Dtype, **options: Any) -> None:
    """One run in checked mode; each output for itself."""
    kernel, inputs = expert_return_kernel(name, storage), expert_return_inputs(name, storage, sizes, dtype, 96)
    for found, wanted in zip(emulated(kernel, inputs, **options), kernel.twin(*inputs), strict=True):
        assert found.dtype == wanted.dtype
        assert relative_error([found], [wanted]) <= tolerance(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", [ONE, SEVERAL], ids=["one token", "several tokens"])
@pytest.mark.parametrize("name", FORMATS)
def test_equals_its_twin(name: str, sizes: Sizes, dtype: mx.Dtype) -> None:
    assert_is_twin(name, "mxfp8", sizes, dtype)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_shared_expert_in_any_storage(storage: str) -> None:
    assert_is_twin("q2_k", storage, Sizes(2, 2, 3, 256, 24), mx.bfloat16)


@pytest.mark.parametrize(("schedule", "order"), list(zip(SCHEDULES, ORDERS, strict=True)))
def test_any_schedule(schedule: str, order: str) -> None:
    assert_is_twin("iq2_xxs", "mxfp8", Sizes(5, 2, 3, 256, 24), mx.float32, schedule=schedule, order=order)


def test_every_barrier_is_needed() -> None:
    kernel = expert_return_kernel("iq2_xxs", "mxfp8")
    inputs = expert_return_inputs("iq2_xxs", "mxfp8", Sizes(5, 2, 3, 256, 24), mx.float32, 96)
    mutants = without_each_barrier(kernel)
    assert len(mutants) == 4
    for mutant in mutants:
        with pytest.raises(EmulationError):
            emulated(mutant, inputs)


@pytest.mark.parametrize("sizes", [ONE, SEVERAL], ids=["few pairs", "more pairs"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FORMATS)
def test_is_metal_and_cuda(name: str, dtype: mx.Dtype, sizes: Sizes) -> None:
    kernel, inputs = expert_return_kernel(name, "mxfp8"), expert_return_inputs(name, "mxfp8", sizes, dtype, 96)
    call = kernel.launch(*inputs)._asdict()
    assert check(kernel.text, inputs=inputs, **call) == []
    assert check_cuda(kernel.text, inputs=inputs, **call) == []


def test_a_token_s_streams_do_not_depend_on_the_others() -> None:
    kernel = expert_return_kernel("q2_k", "mxfp8")
    inner, experts, common, h, mix, fn, *arrays = expert_return_inputs("q2_k", "mxfp8", SEVERAL, mx.bfloat16, 96)
    together = emulated(kernel, [inner, experts, common, h, mix, fn, *arrays])
    one = slice(3, 4)
    alone = emulated(kernel, [inner[9:12], experts[one], common[one], h[one], mix[one], fn, *arrays])
    for found, expected in zip(together, alone, strict=True):
        assert mx.array_equal(found[one], expected)
