"""The kernels of dense matrices against their twins, on the emulator."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from kernels.emulate import emulated, without_each_barrier

from ds4_mlx.kernels.dense_rows import dense_kernel
from ds4_mlx.kernels.dense_samples import DTYPES, dense_inputs
from ds4_mlx.kernels.dense_text import STORAGES
from ds4_mlx.kernels.dense_twins import Job, dense_twin
from ds4_mlx.kernels.expert_rows import MOST_TOKENS
from ds4_mlx.kernels.kernel import Kernel, relative_error, tolerance
from ds4_mlx.quant.formats import FORMATS

from mslemu import ORDERS, SCHEDULES, EmulationError, check, check_cuda

SEVERAL = Job("mxfp8"), Job("BF16", "float32"), Job("mxfp8", "swiglu"), Job("q8_0")
ROWS = [23, 9, 15, 40]  # no multiples of what a threadgroup takes
Case = tuple[Kernel, list[mx.array]]


def together(dtype: mx.Dtype, tokens: int, width: int = 288) -> Case:
    inputs = dense_inputs(SEVERAL, 1, False, dtype, tokens=tokens, width=width, rows=ROWS)
    return dense_kernel(SEVERAL), inputs


def after_a_norm(dtype: mx.Dtype, tokens: int) -> Case:
    jobs = Job("mxfp8"), Job("q8_0")
    inputs = dense_inputs(jobs, 1, True, dtype, tokens=tokens, width=320, rows=[9, 18])
    return dense_kernel(jobs, normed=True), inputs


def in_groups(dtype: mx.Dtype, tokens: int) -> Case:
    jobs = (Job("mxfp8"),)
    return dense_kernel(jobs, groups=3), dense_inputs(jobs, 3, False, dtype, tokens=tokens, width=96, rows=[42])


CASES = {make.__name__: make for make in (together, after_a_norm, in_groups)}


def assert_is_twin(kernel: Kernel, inputs: list[mx.array], **options: Any) -> None:
    """One run in checked mode."""
    found, expected = emulated(kernel, inputs, **options), kernel.twin(*inputs)
    assert [y.dtype for y in found] == [y.dtype for y in expected]
    assert relative_error(found, expected) <= tolerance(inputs[0].dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tokens", [1, 3, MOST_TOKENS])
@pytest.mark.parametrize("case", CASES)
def test_equals_its_twin(case: str, tokens: int, dtype: mx.Dtype) -> None:
    assert_is_twin(*CASES[case](dtype, tokens))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("storage", STORAGES)
def test_reads_every_storage(storage: str, dtype: mx.Dtype) -> None:
    jobs = (Job(storage), Job(storage, "swiglu"))
    inputs = dense_inputs(jobs, 1, False, dtype, tokens=2, width=256, rows=[11, 5])
    assert_is_twin(dense_kernel(jobs), inputs)


@pytest.mark.parametrize("storage", ["mxfp8", "q8_0"])
def test_reads_every_code_exactly(storage: str) -> None:
    """Against one column of ones at a time, so that nothing is summed."""
    codes = [code for code in range(256) if storage != "mxfp8" or code & 127 != 127]
    width = 256
    weight = mx.array(codes + [0] * (width - len(codes)), dtype=mx.uint8).view(mx.uint32)[None]
    scales = mx.arange(118, 126).astype(mx.uint8)[None]
    if storage == "q8_0":
        scales = (mx.arange(1, 9) / 3).astype(mx.float16)[None]
    jobs = (Job(storage, "float32"),)
    rows = []
    for first in range(0, width, MOST_TOKENS):
        x = mx.eye(width)[first : first + MOST_TOKENS]
        rows += emulated(dense_kernel(jobs), [x, weight, scales], mode="fast")
    assert mx.array_equal(mx.concatenate(rows).T, FORMATS[storage].decode(weight, scales))


@pytest.mark.parametrize(("schedule", "order"), list(zip(SCHEDULES, ORDERS, strict=True)))
@pytest.mark.parametrize("case", CASES)
def test_any_schedule(case: str, schedule: str, order: str) -> None:
    assert_is_twin(*CASES[case](mx.float32, 2), schedule=schedule, order=order, strict=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_is_metal_and_cuda(case: str, dtype: mx.Dtype) -> None:
    for tokens in (1, MOST_TOKENS):
        kernel, inputs = CASES[case](dtype, tokens)
        call = kernel.launch(*inputs)._asdict()
        assert check(kernel.text, inputs=inputs, **call) == []
        assert check_cuda(kernel.text, inputs=inputs, **call) == []


@pytest.mark.parametrize("case", CASES)
def test_every_barrier_is_needed(case: str) -> None:
    kernel, inputs = CASES[case](mx.float32, 2)
    mutants = without_each_barrier(kernel)
    assert bool(mutants) == (case == "after_a_norm")
    for mutant in mutants:
        with pytest.raises(EmulationError):
            emulated(mutant, inputs)


@pytest.mark.parametrize("case", CASES)
def test_a_token_s_numbers_do_not_depend_on_the_others(case: str) -> None:
    kernel, inputs = CASES[case](mx.bfloat16, MOST_TOKENS)
    for together, alone in zip(emulated(kernel, inputs), emulated(kernel, [inputs[0][5:6], *inputs[1:]]), strict=True):
        assert mx.array_equal(together[5:6], alone)


def test_rows_of_a_group_that_simdgroups_would_share_are_refused() -> None:
    jobs = (Job("F32"),)
    inputs = dense_inputs(jobs, 2, False, mx.float32, tokens=1, width=64, rows=[10])
    with pytest.raises(ValueError, match="10 rows"):
        dense_kernel(jobs, groups=2).launch(*inputs)


def test_the_twin_is_what_linear_layers_compute() -> None:
    """The clamp, the roundings, and which rows meet which group."""
    x = mx.array([[1.0, 2.0, 300.0, 4.0]]).astype(mx.bfloat16)
    weight = mx.array([[1.0, 0.001], [1.0, 1.0]])
    (grouped,) = dense_twin([Job("F32")], 2, False, x, weight)
    assert grouped.tolist() == [[1.0, 304.0]]  # 1.002 and 304 in bfloat16
    (exact,) = dense_twin([Job("F32", "float32")], 2, False, x, weight)
    assert exact.tolist() == [[pytest.approx(1.002), 304.0]]
