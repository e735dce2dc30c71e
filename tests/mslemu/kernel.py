"""`metal_kernel`: what `mx.fast.metal_kernel` is on a Mac, run and checked on the CPU."""

from __future__ import annotations

import ctypes
import math
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import numpy as np

from ds4_mlx.kernels.metal_on_cuda.signature import KernelText, Parameter, Signature, Template, as_arrays

from mslemu.arrays import HostArray, array_of, host_array
from mslemu.cpu_text import compiled
from mslemu.findings import EmulationError, Finding, read_findings
from mslemu.runtime import Buffer, Launch, launch, runtime

MODES = ("checked", "fast")
SCHEDULES = ("forward", "reverse", "rotated")
ORDERS = ("tree", "ascending", "descending")
MAX_THREADS = 1024  # of a threadgroup
MAX_BUFFERS = 31
_STACK_SIZE = 256 << 10
_UNWRITTEN = b"\xcd"  # what outputs hold before the kernel runs


@dataclass(frozen=True)
class Options:
    """How a kernel is run.

    mode: "checked" finds mistakes, on one core; "fast" finds only accesses far outside of an array, on all cores.
    schedule: which threads, simdgroups and threadgroups run first. order: in which simd reductions add up.
    strict: operations of a simdgroup without all its 32 lanes are findings.
    fused: let the compiler make a * b + c one operation with one rounding, as GPUs may.
    seed: another rotation of the "rotated" schedule. workers: CPU threads of the fast mode, all cores if None.
    time_limit: seconds after which the kernel is stopped, with a finding.
    """

    mode: Literal["checked", "fast"] = "checked"
    schedule: Literal["forward", "reverse", "rotated"] = "forward"
    order: Literal["tree", "ascending", "descending"] = "tree"
    strict: bool = True
    fused: bool = False
    seed: int = 0
    workers: int | None = None
    time_limit: float = 120.0

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("mode", self.mode, MODES),
            ("schedule", self.schedule, SCHEDULES),
            ("order", self.order, ORDERS),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")


@dataclass(frozen=True)
class Run:
    """What is known after a run. `accesses` to shared memory are counted in checked mode only."""

    outputs: list[mx.array]
    findings: list[Finding]
    seconds: float
    threadgroup_bytes: int
    collectives: int
    barriers: int
    accesses: int


class EmulatedKernel:
    """A kernel on the CPU; made by `metal_kernel`, called like MLX's."""

    def __init__(self, text: KernelText, options: Options | None = None) -> None:
        self.text = text
        self.options = options or Options()

    def __call__(self, **call: Any) -> list[mx.array]:
        """Takes what `run` takes; returns the outputs. Raises EmulationError if there are findings."""
        run = self.run(**call)
        if run.findings:
            raise EmulationError(self.text.name, run.findings)
        return run.outputs

    def run(
        self,
        *,
        inputs: Sequence[Any],
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence[mx.Dtype],
        grid: Sequence[int],
        threadgroup: Sequence[int],
        template: Template | None = None,
        init_value: float | None = None,
        verbose: bool = False,
        stream: Any = None,
        **options: Any,
    ) -> Run:
        """Runs the kernel as MLX would; `options` replace single fields of the kernel's `Options` for this run.

        `inputs` are mx.arrays, numpy arrays or scalars. `verbose` prints the text that MLX would compile; `stream` has
        no meaning here. Raises KernelTextError if the text cannot be compiled, ValueError for arguments that MLX or
        Metal would refuse.
        """
        chosen = replace(self.options, **options)
        arrays = as_arrays(inputs)
        signature = Signature.of_call(self.text, arrays, output_dtypes, template)
        self._check_limits(signature, output_shapes, grid, threadgroup)
        if verbose:
            print(signature.metal())
        library = compiled(signature, chosen.mode, chosen.fused)
        settings = _settings(library, grid, threadgroup, chosen)
        results = list(zip(self.text.output_names, output_shapes, output_dtypes, strict=True))
        with ExitStack() as stack:
            buffers = [stack.enter_context(b) for b in self._input_buffers(signature, arrays)]
            for name, shape, dtype in results:
                content = _initial_content(shape, dtype, init_value)
                buffers.append(stack.enter_context(Buffer(name, content, True, init_value is not None)))
            start = time.perf_counter()
            rows = launch(settings, buffers)
            seconds = time.perf_counter() - start
            written = buffers[-len(results) :]
            outputs = [array_of(b.read(), *result[1:]) for b, result in zip(written, results, strict=True)]
        return Run(
            outputs,
            read_findings(rows, library),
            seconds,
            settings.threadgroup_bytes,
            settings.collectives,
            settings.barriers,
            settings.accesses,
        )

    def _check_limits(
        self, signature: Signature, output_shapes: Sequence[Any], grid: Sequence[int], threadgroup: Sequence[int]
    ) -> None:
        name = self.text.name
        if len(output_shapes) != len(self.text.output_names):
            raise ValueError(
                f"kernel {name}: output_shapes must be {len(self.text.output_names)}, not {len(output_shapes)}"
            )
        if len(grid) != 3 or len(threadgroup) != 3 or min(*grid, *threadgroup) < 1:
            raise ValueError(f"kernel {name}: grid {grid} and threadgroup {threadgroup} must be three positive numbers")
        if math.prod(threadgroup) > MAX_THREADS:
            raise ValueError(
                f"kernel {name}: a threadgroup has at most {MAX_THREADS} threads, not {tuple(threadgroup)}"
            )
        if len(signature.parameters) > MAX_BUFFERS:
            raise ValueError(f"kernel {name}: {len(signature.parameters)} buffers, Metal takes {MAX_BUFFERS}")

    def _input_buffers(self, signature: Signature, arrays: Sequence[mx.array]) -> list[Buffer]:
        """One per parameter before the outputs, in their order."""
        host = {
            name: host_array(array, self.text.ensure_row_contiguous)
            for name, array in zip(self.text.input_names, arrays, strict=True)
        }
        inputs = [p for p in signature.parameters if p.role != "output"]
        return [Buffer(p.name, _content(p, host)) for p in inputs]


def metal_kernel(
    name: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    source: str,
    header: str = "",
    ensure_row_contiguous: bool = True,
    atomic_outputs: bool = False,
    compile_options: dict[str, str] | None = None,
    **options: Any,
) -> EmulatedKernel:
    """`mx.fast.metal_kernel`, plus the fields of `Options` by name.

    Arithmetic is always that of math_mode "safe", which `compile_options` may only loosen.
    """
    text = KernelText(
        name, tuple(input_names), tuple(output_names), source, header, ensure_row_contiguous, atomic_outputs
    )
    return EmulatedKernel(text, Options(**options))


@cache
def _entry(library: Path) -> int | None:
    runtime()  # whose symbols the kernel needs
    return ctypes.cast(ctypes.CDLL(str(library)).msl_entry, ctypes.c_void_p).value


def _settings(library: Path, grid: Sequence[int], threadgroup: Sequence[int], options: Options) -> Launch:
    checked = options.mode == "checked"
    return Launch(
        kernel=_entry(library),
        grid=tuple(grid),
        threadgroup=tuple(threadgroup),
        checked=checked,
        schedule=SCHEDULES.index(options.schedule),
        order=ORDERS.index(options.order),
        strict=options.strict,
        # What the checks remember of memory is not made for several CPU threads.
        workers=1 if checked else options.workers or len(os.sched_getaffinity(0)),
        seed=options.seed,
        time_limit=int(options.time_limit * 1000),
        stack_size=_STACK_SIZE,
        library=str(library).encode(),
    )


def _content(parameter: Parameter, host: dict[str, HostArray]) -> bytes:
    """The bytes of an input, or of what belongs to it."""
    if parameter.role == "input":
        return host[parameter.name].content
    array = host[parameter.name.removesuffix(f"_{parameter.role}")]
    if parameter.role == "shape":
        return np.array(array.shape, np.int32).tobytes()
    if parameter.role == "strides":
        return np.array(array.strides, np.int64).tobytes()
    return np.int32(len(array.shape)).tobytes()


def _initial_content(shape: Sequence[int], dtype: mx.Dtype, init_value: float | None) -> bytes:
    if init_value is not None:
        return host_array(mx.full(tuple(shape), init_value, dtype), row_contiguous=True).content
    return _UNWRITTEN * (math.prod(shape) * dtype.size)
