"""The kernels of hyper-connections against their twins, on the emulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from kernels.emulate import emulated, without_each_barrier

from ds4_mlx.kernels import stream_samples as samples
from ds4_mlx.kernels.dense_samples import DTYPES
from ds4_mlx.kernels.dense_text import STORAGES
from ds4_mlx.kernels.kernel import Kernel, relative_error, tolerance
from ds4_mlx.kernels.stream_many import MANY_EXPERT_RETURN, MANY_RETURN, MANY_SUMS
from ds4_mlx.kernels.stream_rows import LEAVE, SITE_SUMS, dense_return_kernel, enter_kernel
from ds4_mlx.kernels.stream_twins import TILE, mixes_of, site_sums_twin

from mslemu import ORDERS, SCHEDULES, EmulationError, check, check_cuda

Case = tuple[Kernel, list[mx.array]]
CASES: dict[str, Callable[[mx.Dtype, int, int], Case]] = {
    "site_sums": lambda *size: (SITE_SUMS, samples.site_sums_inputs(*size)),
    "enter": lambda *size: (enter_kernel(20), samples.enter_inputs(*size)),
    "leave": lambda *size: (LEAVE, samples.leave_inputs(*size)),
    "return": lambda *size: (dense_return_kernel("mxfp8"), samples.dense_return_inputs("mxfp8", *size, 288)),
}
MANY: dict[str, Callable[[mx.Dtype, int, int], Case]] = {
    "many_sums": lambda *size: (MANY_SUMS, samples.site_sums_inputs(*size)),
    "many_return": lambda *size: (MANY_RETURN, samples.many_return_inputs(*size)),
    "many_expert_return": lambda *size: (MANY_EXPERT_RETURN, samples.many_expert_return_inputs(*size)),
}
ALL = CASES | MANY
UNEVEN = 328  # channels that fill neither tiles nor threads


def assert_is_twin(kernel: Kernel, inputs: list[mx.array], **options: Any) -> None:
    """One run in checked mode; each output for itself."""
    found, expected = emulated(kernel, inputs, **options), kernel.twin(*inputs)
    assert [y.dtype for y in found] == [y.dtype for y in expected]
    for output, wanted in zip(found, expected, strict=True):
        assert relative_error([output], [wanted]) <= tolerance(inputs[0].dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("tokens", "width"), [(1, 256), (3, UNEVEN), (8, 32)])
@pytest.mark.parametrize("case", CASES)
def test_equals_its_twin(case: str, tokens: int, width: int, dtype: mx.Dtype) -> None:
    assert_is_twin(*CASES[case](dtype, tokens, width))


# The last has several spans, the last one not whole, and more tokens than a threadgroup takes.
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("tokens", "width"), [(9, UNEVEN), (3, 32), (19, 1032)])
@pytest.mark.parametrize("case", MANY)
def test_of_many_tokens_equals_its_twin(case: str, tokens: int, width: int, dtype: mx.Dtype) -> None:
    assert_is_twin(*MANY[case](dtype, tokens, width))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_enter_takes_the_sums_of_many_tokens(dtype: mx.Dtype) -> None:
    h, fn = samples.site_sums_inputs(dtype, 9, 1032)
    _, _, *site = samples.enter_inputs(dtype, 9, 1032)
    kernel, sums = enter_kernel(20), MANY_SUMS.twin(h, fn)
    assert_is_twin(kernel, [h, *sums, *site])
    by_tiles = kernel.twin(h, *site_sums_twin(h, fn), *site)
    assert relative_error(kernel.twin(h, *sums, *site), by_tiles) <= tolerance(dtype)


@pytest.mark.parametrize("case", ["enter", "leave"])
def test_more_channels_than_threads_hold_at_once(case: str) -> None:
    assert_is_twin(*CASES[case](mx.bfloat16, 1, 4096 + 64))


@pytest.mark.parametrize("storage", STORAGES)
def test_returns_products_of_every_storage(storage: str) -> None:
    inputs = samples.dense_return_inputs(storage, mx.bfloat16, 2, UNEVEN, 64)
    assert_is_twin(dense_return_kernel(storage), inputs)


@pytest.mark.parametrize("iterations", [1, 3])
def test_sinkhorn_runs_as_often_as_it_is_told(iterations: int) -> None:
    assert_is_twin(enter_kernel(iterations), samples.enter_inputs(mx.float32, 1, 64))


@pytest.mark.parametrize(("schedule", "order"), list(zip(SCHEDULES, ORDERS, strict=True)))
@pytest.mark.parametrize("case", ALL)
def test_any_schedule(case: str, schedule: str, order: str) -> None:
    assert_is_twin(*ALL[case](mx.float32, 2, UNEVEN), schedule=schedule, order=order, strict=True)


@pytest.mark.parametrize("case", CASES)
def test_every_barrier_is_needed(case: str) -> None:
    kernel, inputs = CASES[case](mx.float32, 2, UNEVEN)
    mutants = without_each_barrier(kernel)
    assert mutants
    for mutant in mutants:
        with pytest.raises(EmulationError):
            emulated(mutant, inputs)


def test_many_tokens_have_no_barriers_to_forget() -> None:
    for case in MANY.values():
        assert without_each_barrier(case(mx.float32, 2, 32)[0]) == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ALL)
def test_is_metal_and_cuda(case: str, dtype: mx.Dtype) -> None:
    for tokens in (1, 8):
        kernel, inputs = ALL[case](dtype, tokens, UNEVEN)
        call = kernel.launch(*inputs)._asdict()
        assert check(kernel.text, inputs=inputs, **call) == []
        assert check_cuda(kernel.text, inputs=inputs, **call) == []


# Inputs of the other kernel are not all by token.
@pytest.mark.parametrize("case", [name for name in ALL if name != "many_expert_return"])
def test_a_token_s_numbers_do_not_depend_on_the_others(case: str) -> None:
    kernel, inputs = ALL[case](mx.bfloat16, 5, UNEVEN)
    of_tokens = [array.shape[:1] == (5,) and array.ndim > 1 for array in inputs]
    alone = [array[3:4] if own else array for array, own in zip(inputs, of_tokens, strict=True)]
    for together, single in zip(emulated(kernel, inputs), emulated(kernel, alone), strict=True):
        assert mx.array_equal(together[3:4], single)


def test_sums_by_tiles_are_those_of_whole_streams() -> None:
    h, fn = samples.site_sums_inputs(mx.float32, 3, UNEVEN)
    (sums,) = site_sums_twin(h, fn)
    assert sums.shape == (3, 25, -(-UNEVEN // TILE))
    z = np.array(h.flatten(1), dtype=np.float64)
    expected = z @ np.array(fn, dtype=np.float64).T / np.sqrt((z * z).mean(-1, keepdims=True) + 1e-6)
    assert np.allclose(np.array(mixes_of(sums, 4 * UNEVEN, 1e-6)), expected, rtol=1e-4, atol=1e-5)
