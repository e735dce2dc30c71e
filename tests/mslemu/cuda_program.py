"""The whole CUDA program that MLX makes of a kernel, and whether it compiles as far as g++ can tell.

NVIDIA's compiler is not at hand where the tests run. `check_cuda` gives the program to g++ with CUDA's names declared
(include/cuda_stub): that finds missing functions, ambiguous calls and whatever else C++ has not, which is nearly
everything that goes wrong. `tests/oracles/nvrtc.py` gives the same program to NVIDIA's compiler.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from ds4_mlx.kernels.metal_on_cuda.cuda_text import cuda_text
from ds4_mlx.kernels.metal_on_cuda.signature import METAL_TYPES, KernelText, Signature, Template, as_arrays

from mslemu.compiler import CompilerError, compile_cpp
from mslemu.kernel import EmulatedKernel

_STUB = Path(__file__).parent / "include" / "cuda_stub"
# MLX's `dtype_to_cuda_type`, where it differs from Metal's names.
_CUDA_TYPES = {mx.float16: "__half", mx.bfloat16: "__nv_bfloat16"}


def check_cuda(
    kernel: EmulatedKernel | KernelText,
    inputs: Sequence[Any],
    output_dtypes: Sequence[mx.Dtype],
    template: Template | None = None,
    **rest_of_call: Any,
) -> list[str]:
    """What a C++ compiler says against the kernel's CUDA text for this signature: lines of g++, [] if all is well.

    Takes what a call takes; grid, shapes and the rest may be given and do not matter.
    """
    text = kernel if isinstance(kernel, KernelText) else kernel.text
    program = cuda_program(text, as_arrays(inputs), output_dtypes, template, '#include "mlx_prelude.h"\n')
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "program.cpp"
        file.write_text(program)
        try:
            compile_cpp("-std=c++17", "-fsyntax-only", f"-I{_STUB}", file)
        except CompilerError as error:
            return str(error).strip().split("\n")
    return []


def cuda_program(
    text: KernelText,
    inputs: Sequence[mx.array],
    output_dtypes: Sequence[mx.Dtype],
    template: Template | None,
    prelude: str,
) -> str:
    """As `build_kernel` in mlx/backend/cuda/custom_kernel.cpp writes it; `prelude` stands for its own headers."""
    header, source = cuda_text(Signature.of_call(text, inputs, output_dtypes, template))
    parameters = []
    for name, array in zip(text.input_names, inputs, strict=True):
        parameters.append(f"const {_cuda_type(array.dtype)}* {name}")
        if array.ndim > 0:
            for suffix, kind in (("shape", "Shape"), ("strides", "Strides"), ("ndim", "int")):
                if f"{name}_{suffix}" in source:
                    parameters.append(f"const __grid_constant__ {kind} {name}_{suffix}")
    parameters += [f"{_cuda_type(d)}* {name}" for name, d in zip(text.output_names, output_dtypes, strict=True)]
    return (
        f"{prelude}{header}namespace mlx::core::cu {{\n"
        f"__global__ void custom_kernel_{text.name}({', '.join(parameters)}) {{\n{source}\n}}\n}}\n"
    )


def _cuda_type(dtype: mx.Dtype) -> str:
    return _CUDA_TYPES.get(dtype, METAL_TYPES[dtype])
