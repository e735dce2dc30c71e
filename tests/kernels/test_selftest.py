"""The self-test notices a kernel that is wrong, and one that does not run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

import mlx.core as mx
import pytest
from kernels.emulate import emulated

from ds4_mlx.kernels import KERNELS, selftest
from ds4_mlx.kernels.expert_rows import down_kernel
from ds4_mlx.kernels.kernel import Kernel


class Emulated(Kernel):
    """A kernel that runs on the emulator whatever the device."""

    def __call__(self, *inputs: mx.array) -> list[mx.array]:
        return emulated(self, list(inputs), mode="fast")


def on_emulator(kernel: Kernel) -> Kernel:
    return Emulated(kernel.text, kernel.twin, kernel.launch, kernel.samples, kernel.exact)


def dtypes(kernel: Kernel) -> set[mx.Dtype]:
    """Those of activations that the samples of `kernel` take or give."""
    arrays = [array for inputs in kernel.samples() for array in (*inputs, *kernel.twin(*inputs))]
    return {array.dtype for array in arrays if mx.issubdtype(array.dtype, mx.floating)}


def test_every_operation_has_samples_of_the_dtypes_that_models_run_in() -> None:
    # Where the inputs do not say what comes out, there is a kernel for each dtype, named by it.
    sampled: dict[str, set[mx.Dtype]] = {}
    for kernel in KERNELS:
        operation = re.sub("_(float32|bfloat16)$", "", kernel.text.name)
        sampled.setdefault(operation, set()).update(dtypes(kernel))
    for operation in ("route", "route_hashed"):  # float32 whatever the model runs in
        assert sampled.pop(operation) == {mx.float32}
    for operation, found in sampled.items():
        # Scores and the compressors' projections are always float32.
        always_float32 = operation.startswith(("best_", "keep_"))
        assert found >= ({mx.float32} if always_float32 else {mx.float32, mx.bfloat16}), operation


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.text.name)
def test_every_kernel_agrees_with_its_twin(kernel: Kernel) -> None:
    outcomes = list(selftest([on_emulator(kernel)]))
    assert outcomes
    assert all(outcome.good for outcome in outcomes)


def broken(kernel: Kernel, old: str, new: str) -> Kernel:
    assert old in kernel.text.source
    return on_emulator(replace(kernel, text=replace(kernel.text, source=kernel.text.source.replace(old, new))))


def outcomes_of(kernel: Kernel) -> Iterable[bool]:
    return [outcome.good for outcome in selftest([kernel])]


def test_a_wrong_kernel_is_found() -> None:
    assert not any(outcomes_of(broken(down_kernel("mxfp4"), "sum += products", "sum -= products")))


def test_a_kernel_that_does_not_compile_is_reported() -> None:
    (outcome,) = selftest([broken(down_kernel("mxfp4"), "float sum = 0.0f;", "floaty sum = 0.0f;")])
    assert not outcome.good
    assert "floaty" in outcome.problem


def test_a_kernel_that_is_nearly_right_is_wrong_where_bits_count() -> None:
    kernel = replace(down_kernel("mxfp4"), exact=True)
    assert not all(outcomes_of(on_emulator(kernel)))
