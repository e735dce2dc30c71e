"""Kernels of the package on the emulator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx

from ds4_mlx.kernels.kernel import Kernel, relative_error

from mslemu import EmulatedKernel, Options, barriers, without_barrier


def emulated(kernel: Kernel, inputs: list[mx.array], **options: Any) -> list[mx.array]:
    """The kernel's outputs. Raises EmulationError if the checked mode finds anything."""
    launch = kernel.launch(*inputs)._asdict()
    return EmulatedKernel(kernel.text, Options(**options))(inputs=inputs, **launch)


def assert_is_twin(kernel: Kernel, inputs: list[mx.array], **options: Any) -> None:
    """One run, in checked mode unless an option says otherwise."""
    found, expected = emulated(kernel, inputs, **options), kernel.twin(*inputs)
    assert [y.dtype for y in found] == [y.dtype for y in expected]
    assert relative_error(found, expected) <= kernel.tolerance(inputs)


def without_each_barrier(kernel: Kernel) -> list[Kernel]:
    """The kernel as often as its body has barriers, each time without one of them."""
    source = kernel.text.source
    count = len(barriers(source))
    return [replace(kernel, text=replace(kernel.text, source=without_barrier(source, i))) for i in range(count)]
