"""Whole kernels give the right answer in every mode, schedule and order, and are clean for every checker."""

import pytest

from mslemu import MODES, ORDERS, SCHEDULES, check, check_cuda
from mslemu.kernel import EmulatedKernel
from mslemu.sample_kernels import FLOATS, SAMPLES, Sample

CASES = [(name, dtype) for name in SAMPLES for dtype in (FLOATS if name != "histogram" else FLOATS[:1])]
all_samples = pytest.mark.parametrize(("name", "dtype"), CASES, ids=[f"{n}-{str(d)[9:]}" for n, d in CASES])


def run(sample: Sample, **options: object) -> float:
    (output,) = EmulatedKernel(sample.text)(**sample.call, **options)
    return sample.error_of(output)


@all_samples
@pytest.mark.parametrize("mode", MODES)
def test_gives_the_right_answer(name, dtype, mode):
    sample = SAMPLES[name](dtype)
    assert run(sample, mode=mode) <= sample.tolerance


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", SAMPLES)
def test_does_not_depend_on_schedule_and_order(name, schedule, order):
    sample = SAMPLES[name](FLOATS[0])
    assert run(sample, schedule=schedule, order=order, seed=3) <= sample.tolerance


@pytest.mark.parametrize("name", SAMPLES)
def test_stays_right_with_fused_multiply_add(name):
    sample = SAMPLES[name](FLOATS[0])
    assert run(sample, mode="fast", fused=True) <= sample.tolerance


@all_samples
def test_passes_the_metal_type_check(name, dtype):
    sample = SAMPLES[name](dtype)
    assert check(sample.text, **sample.call) == []


@all_samples
def test_has_cuda_text_that_compiles(name, dtype):
    sample = SAMPLES[name](dtype)
    assert check_cuda(sample.text, **sample.call) == []
