"""A kernel: a Metal text, the plain operations that define it, and how it is launched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ds4_mlx.kernels.metal_on_cuda import CudaKernel, KernelText, cuda_kernel
from ds4_mlx.kernels.metal_on_cuda.signature import Template

_MOST_CALLS = 1024  # kept ready per kernel; each is for other shapes


class Launch(NamedTuple):
    """What a call needs beside its inputs: template arguments, threads in all and in a group, and the outputs."""

    template: Template
    grid: tuple[int, int, int]
    threadgroup: tuple[int, int, int]
    output_shapes: list[tuple[int, ...]]
    output_dtypes: list[mx.Dtype]


@dataclass(frozen=True)
class Kernel:
    """One text for three executors: Metal, CUDA, and the emulator of the tests.

    text: names and body, under the dialect rules of docs/kernels.md. twin: the same function in plain operations, which
    defines what the kernel computes, and computes it where there is no GPU. launch: from the inputs' shapes and dtypes
    to a `Launch`.
    samples: inputs for the self-test, the same ones every time. exact: whether kernel and twin are equal bit for bit;
    otherwise `relative_error` is bounded by the dtypes of the first input and of the outputs (`tolerance`).
    """

    text: KernelText
    twin: Callable[..., list[mx.array]]
    launch: Callable[..., Launch]
    samples: Callable[[], Iterable[list[mx.array]]]
    exact: bool = False

    def tolerance(self, inputs: Sequence[mx.array]) -> float:
        """How large `relative_error` may be for these inputs."""
        dtypes = inputs[0].dtype, *self.launch(*inputs).output_dtypes
        return 0.0 if self.exact else max(tolerance(dtype) for dtype in dtypes if mx.issubdtype(dtype, mx.floating))

    def __call__(self, *inputs: mx.array) -> list[mx.array]:
        """One array per output of the text, computed on the default device."""
        if not runs_kernels():
            return self.twin(*inputs)
        # What follows from shapes and dtypes is made once: a token is hundreds of calls.
        key = tuple([(x.shape, x.dtype) for x in inputs])
        call = self._calls.get(key)
        if call is None:
            if len(self._calls) >= _MOST_CALLS:
                self._calls.clear()
            call = self._calls[key] = self._prepared(inputs)
        return call(inputs=list(inputs))

    @cached_property
    def _calls(self) -> dict[Any, Callable[..., list[mx.array]]]:
        return {}

    def _prepared(self, inputs: Sequence[mx.array]) -> Callable[..., list[mx.array]]:
        launch, compiled = self.launch(*inputs)._asdict(), self._compiled
        return compiled.prepared(inputs, **launch) if isinstance(compiled, CudaKernel) else partial(compiled, **launch)

    @cached_property
    def _compiled(self) -> CudaKernel | Callable[..., list[mx.array]]:
        text = self.text
        arguments: dict[str, Any] = {
            "name": text.name,
            "input_names": list(text.input_names),
            "output_names": list(text.output_names),
            "source": text.source,
            "header": text.header,
        }
        make: Any = mx.fast.metal_kernel if mx.metal.is_available() else cuda_kernel
        compiled: CudaKernel | Callable[..., list[mx.array]] = make(**arguments)
        return compiled


@cache
def scalar(value: float) -> mx.array:
    """A float32 [] that kernels read from the device's own memory, made once.

    MLX keeps arrays of up to 8 bytes in memory that host and device share. On NVIDIA that may lie on the host's side,
    where every threadgroup would fetch its copy over the bus; a part of a larger array does not.
    """
    view = mx.full((64,), value, dtype=mx.float32)[:1].reshape(())
    mx.eval(view)  # now: not in every call of a function that is being compiled, nor on another thread
    return view


def runs_kernels() -> bool:
    """Whether the default device is a GPU, so that kernels run rather than their twins."""
    return bool(mx.default_device() == mx.Device(mx.gpu))


def tolerance(dtype: mx.Dtype) -> float:
    """How large `relative_error` of a kernel may be for activations of `dtype`."""
    return 1e-5 if dtype == mx.float32 else 2e-3


def relative_error(found: list[mx.array], expected: list[mx.array]) -> float:
    """The worst output's max |found - expected| / max |expected|; infinite where a number is not one.

    Sums in another order may round another way, and one step of bfloat16 is up to 8e-3 of a value: it alone would pass
    every useful bound. So where no number of a 16-bit output is off by more than one step of the largest, what counts
    is |found - expected| / |expected| over the whole output, which a few such steps hardly change and a wrong row does.
    """
    return max((_error(output, wanted) for output, wanted in zip(found, expected, strict=True)), default=0.0)


def _error(output: mx.array, wanted: mx.array) -> float:
    a, b = np.array(output.astype(mx.float32)), np.array(wanted.astype(mx.float32))
    if a.shape != b.shape or not np.isfinite(a).all():
        return float("inf")
    if not a.size:
        return 0.0
    worst = float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))
    if output.dtype in (mx.float16, mx.bfloat16) and worst <= mx.finfo(output.dtype).eps:
        return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30))
    return worst
