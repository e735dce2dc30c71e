"""The routing kernels against their twins, on the emulator."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from kernels.emulate import emulated, without_each_barrier

from ds4_mlx.kernels.kernel import Kernel, relative_error
from ds4_mlx.kernels.route import HASHED, hashed_inputs, scored_inputs, scored_kernel

from mslemu import ORDERS, SCHEDULES, EmulationError, check, check_cuda

Case = tuple[Kernel, list[mx.array]]


def scored(tokens: int, experts: int, slots: int) -> Case:
    return scored_kernel(slots), scored_inputs(tokens, experts)


def hashed(tokens: int, experts: int, slots: int) -> Case:
    return HASHED, hashed_inputs(tokens, experts, slots)


CASES = {make.__name__: make for make in (scored, hashed)}


def assert_is_twin(kernel: Kernel, inputs: list[mx.array], **options: Any) -> None:
    """The same experts, weights within float's error."""
    (experts, weights), expected = emulated(kernel, inputs, **options), kernel.twin(*inputs)
    assert mx.array_equal(experts, expected[0])
    assert relative_error([weights], [expected[1]]) <= 1e-6


@pytest.mark.parametrize(("tokens", "experts", "slots"), [(1, 256, 6), (8, 40, 3), (2, 700, 8), (3, 2, 2), (1, 1, 1)])
@pytest.mark.parametrize("case", CASES)
def test_equals_its_twin(case: str, tokens: int, experts: int, slots: int) -> None:
    assert_is_twin(*CASES[case](tokens, experts, slots))


@pytest.mark.parametrize(("schedule", "order"), list(zip(SCHEDULES, ORDERS, strict=True)))
@pytest.mark.parametrize("case", CASES)
def test_any_schedule(case: str, schedule: str, order: str) -> None:
    assert_is_twin(*CASES[case](2, 72, 5), schedule=schedule, order=order)


@pytest.mark.parametrize("case", CASES)
def test_every_barrier_is_needed(case: str) -> None:
    kernel, inputs = CASES[case](1, 72, 5)
    mutants = without_each_barrier(kernel)
    assert mutants
    for mutant in mutants:
        with pytest.raises(EmulationError):
            emulated(mutant, inputs)


@pytest.mark.parametrize(("tokens", "experts"), [(1, 4), (8, 256)])
@pytest.mark.parametrize("case", CASES)
def test_is_metal_and_cuda(case: str, tokens: int, experts: int) -> None:
    kernel, inputs = CASES[case](tokens, experts, 3)
    call = kernel.launch(*inputs)._asdict()
    assert check(kernel.text, inputs=inputs, **call) == []
    assert check_cuda(kernel.text, inputs=inputs, **call) == []


def test_of_equals_the_lower_number_comes_first() -> None:
    logits = mx.array([[1.0, 2.0, 2.0, 1.0, 2.0, 0.0, 1.0, 0.5]])
    kernel, inputs = scored_kernel(5), [logits, mx.zeros(8), mx.array(1.0)]
    assert_is_twin(kernel, inputs)
    assert emulated(kernel, inputs)[0].tolist() == [[1, 2, 4, 0, 3]]


def test_a_score_far_below_one_is_not_zero() -> None:
    inputs = [mx.array([[-30.0, -25.0, -20.0, -40.0]]), mx.zeros(4), mx.array(1.5)]
    assert_is_twin(scored_kernel(2), inputs)


def test_the_bias_chooses_and_does_not_weigh() -> None:
    inputs = [mx.array([[0.0, 1.0, 2.0]]), mx.array([9.0, 0.0, 0.0]), mx.array(1.0)]
    experts, weights = emulated(scored_kernel(1), inputs)
    assert (experts.item(), weights.item()) == (0, 1.0)


def test_numbers_that_are_none_are_no_reason_to_read_elsewhere() -> None:
    emulated(scored_kernel(3), [mx.full((1, 40), mx.nan), mx.zeros(40), mx.array(1.5)])
