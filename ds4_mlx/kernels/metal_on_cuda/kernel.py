"""`cuda_kernel`: `mx.fast.metal_kernel` for NVIDIA GPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import mlx.core as mx

from ds4_mlx.kernels.metal_on_cuda.cuda_text import cuda_text
from ds4_mlx.kernels.metal_on_cuda.included import included
from ds4_mlx.kernels.metal_on_cuda.signature import KernelText, Signature, Template, as_arrays

SIMDGROUP = 32  # threads


class CudaKernel:
    """A Metal kernel text that is called like a kernel of `mx.fast.metal_kernel` and runs through CUDA.

    Nothing is built before the first call, for MLX without CUDA refuses to build. Then there is one
    `mx.fast.cuda_kernel` for every combination of dtypes, numbers of dimensions and template arguments.
    """

    def __init__(self, text: KernelText) -> None:
        self.text = text
        self._built: dict[Any, Any] = {}

    def __call__(
        self,
        *,
        inputs: Sequence[Any],
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence[mx.Dtype],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        template: Template | None = None,
        init_value: float | None = None,
        verbose: bool = False,
        stream: Any = None,
    ) -> list[mx.array]:
        """Runs the kernel over `grid` threads in groups of `threadgroup`; returns one array per output.

        `inputs` are arrays or scalars. Each side of the grid must be a multiple of the threadgroup's, and the threads
        of a threadgroup a multiple of 32: CUDA would start the missing threads. ValueError otherwise; RuntimeError
        from MLX if it has no CUDA.
        """
        arrays = as_arrays(inputs)
        call = self.prepared(
            arrays,
            output_shapes=output_shapes,
            output_dtypes=output_dtypes,
            grid=grid,
            threadgroup=threadgroup,
            template=template,
        )
        return call(inputs=arrays, init_value=init_value, verbose=verbose, stream=stream)

    def prepared(
        self,
        inputs: Sequence[mx.array],
        *,
        output_shapes: Sequence[Sequence[int]],
        output_dtypes: Sequence[mx.Dtype],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
        template: Template | None = None,
    ) -> Callable[..., list[mx.array]]:
        """The call without its inputs, to be made again with `inputs=` of the same dtypes and numbers of dimensions."""
        threadgroup = _checked_threadgroup(self.text.name, grid, threadgroup)
        # type(value), for True and 1 are equal keys but different template arguments
        key = (
            tuple([(x.dtype, x.ndim) for x in inputs]),
            tuple(output_dtypes),
            tuple([(name, type(value), value) for name, value in template or ()]),
        )
        kernel = self._built.get(key)
        if kernel is None:
            kernel = self._built[key] = self._build(list(inputs), output_dtypes, template)
        return partial(
            kernel, output_shapes=output_shapes, output_dtypes=output_dtypes, grid=grid, threadgroup=threadgroup
        )

    def _build(self, arrays: list[mx.array], output_dtypes: Sequence[mx.Dtype], template: Template | None) -> Any:
        text = self.text
        header, source = cuda_text(Signature.of_call(text, arrays, output_dtypes, template))
        return mx.fast.cuda_kernel(
            name=text.name,
            input_names=list(text.input_names),
            output_names=list(text.output_names),
            source=source,
            header=included(header),
            ensure_row_contiguous=text.ensure_row_contiguous,
        )


def cuda_kernel(
    name: str,
    input_names: Sequence[str],
    output_names: Sequence[str],
    source: str,
    header: str = "",
    ensure_row_contiguous: bool = True,
    atomic_outputs: bool = False,
) -> CudaKernel:
    """Takes what `mx.fast.metal_kernel` takes, and gives a kernel with the same call for NVIDIA GPUs."""
    return CudaKernel(
        KernelText(name, tuple(input_names), tuple(output_names), source, header, ensure_row_contiguous, atomic_outputs)
    )


def _checked_threadgroup(name: str, grid: Sequence[int], threadgroup: Sequence[int]) -> tuple[int, int, int]:
    """The threadgroup, no larger than the grid on any side, as both MLX's calls make it."""
    (x, y, z), (gx, gy, gz) = threadgroup, grid
    x, y, z = min(x, gx), min(y, gy), min(z, gz)
    if gx % x or gy % y or gz % z or x * y * z % SIMDGROUP:
        raise ValueError(
            f"kernel {name}: on CUDA each side of the grid {tuple(grid)} must be a multiple of the threadgroup's "
            f"{tuple(threadgroup)}, and the threadgroup a multiple of {SIMDGROUP} threads; "
            "pad the grid and guard with `if`"
        )
    return x, y, z
