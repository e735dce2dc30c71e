"""NVIDIA's own compiler on the CUDA text of Metal kernels: do the programs that MLX would make compile?

    python tests/oracles/nvrtc.py [--arch sm_90a] [--mlx MLX_SOURCE]

A script and no pytest module, because it needs NVRTC and CUDA's headers (README.md beside this file), though no GPU.
Compiles the package's kernels and the emulator's samples for every dtype and one kernel for each function of Metal's
library, each as MLX would, and ends with status 1 if one does not compile.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

from ds4_mlx.kernels import KERNELS  # noqa: E402
from ds4_mlx.kernels.metal_on_cuda.signature import KernelText, as_arrays  # noqa: E402

from mslemu.cuda_program import cuda_program  # noqa: E402 - the tests are no package
from mslemu.sample_kernels import FLOATS, SAMPLES  # noqa: E402
from mslemu.test_collectives import EXPECTED as COLLECTIVES  # noqa: E402
from mslemu.test_grid import EXPECTED as POSITIONS  # noqa: E402
from mslemu.test_library import FLOAT_FUNCTIONS, WORD_FUNCTIONS  # noqa: E402

# What MLX's header gives a kernel, for those without MLX's source.
PRELUDE = """
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda/std/array>
#include <cuda/std/cstdint>
namespace mlx::core::cu {
using Shape = cuda::std::array<cuda::std::int32_t, 10>;
using Strides = cuda::std::array<cuda::std::int64_t, 10>;
}
"""
MLX_PRELUDE = '#include "mlx/backend/cuda/device/utils.cuh"\n#include <cooperative_groups.h>\n'


class Nvrtc:
    """libnvrtc from the wheel nvidia-cuda-nvrtc, with the headers of nvidia-cuda-runtime and nvidia-cuda-cccl."""

    def __init__(self, arch: str, includes: list[Path]) -> None:
        import nvidia

        roots = [Path(p) for p in nvidia.__path__]
        found = sorted(path for root in roots for path in root.rglob("libnvrtc.so.*"))
        headers = [path.parent for root in roots for path in root.rglob("cuda_fp16.h")]
        cccl = [path.parents[2] for root in roots for path in root.rglob("cuda/std/array")]
        if not (found and headers and cccl):
            sys.exit("install nvidia-cuda-nvrtc, nvidia-cuda-runtime and nvidia-cuda-cccl (tests/oracles/README.md)")
        for builtins in found[0].parent.glob("libnvrtc-builtins.so.*"):
            ctypes.CDLL(str(builtins))  # NVRTC looks for it by name, where only a loaded one is found
        self.library = ctypes.CDLL(str(found[0]))
        self.options = ["--device-as-default-execution-space", f"--gpu-architecture={arch}"]
        self.options += [f"--include-path={path}" for path in [*headers[:1], *cccl[:1], *includes]]

    def version(self) -> str:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        return f"{major.value}.{minor.value}"

    def errors(self, program: str) -> str:
        """What the compiler says, "" if it takes the program."""
        handle = ctypes.c_void_p()
        options = (ctypes.c_char_p * len(self.options))(*[o.encode() for o in self.options])
        self.library.nvrtcCreateProgram(ctypes.byref(handle), program.encode(), b"kernel.cu", 0, None, None)
        failed = self.library.nvrtcCompileProgram(handle, len(options), options)
        size = ctypes.c_size_t()
        self.library.nvrtcGetProgramLogSize(handle, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        self.library.nvrtcGetProgramLog(handle, log)
        self.library.nvrtcDestroyProgram(ctypes.byref(handle))
        return log.value.decode() if failed else ""


def kernels() -> Iterator[tuple[str, KernelText, dict[str, Any]]]:
    """Name, text and call (inputs, output_dtypes, template) of every kernel."""
    for kernel in KERNELS:
        for inputs in kernel.samples():
            name = f"{kernel.text.name} {str(inputs[0].dtype)[9:]} {inputs[0].shape}"
            yield name, kernel.text, {"inputs": inputs, **kernel.launch(*inputs)._asdict()}
    for name, make in SAMPLES.items():
        for dtype in FLOATS if name != "histogram" else FLOATS[:1]:
            sample = make(dtype)
            yield f"{name} {str(dtype)[9:]}", sample.text, sample.call
    for head, expressions, dtype in (
        ("float x = xs[0]", FLOAT_FUNCTIONS, mx.float32),
        ("uint x = xs[0]", WORD_FUNCTIONS, mx.uint32),
        ("uint lane = thread_index_in_simdgroup; int v = xs[lane]", COLLECTIVES, mx.int32),
        ("uint x = xs[0]", POSITIONS, mx.uint32),
    ):
        for expression in expressions:
            text = KernelText("function", ("xs",), ("o",), f"{head}; o[0] = {expression};")
            yield expression, text, {"inputs": [mx.zeros(64, dtype)], "output_dtypes": [dtype]}
    for name in ("add", "sub", "max", "min", "or", "and", "xor"):
        source = f"atomic_fetch_{name}_explicit(&o[0], xs[0], memory_order_relaxed);"
        text = KernelText("atomic", ("xs",), ("o",), source, atomic_outputs=True)
        yield f"atomic {name}", text, {"inputs": [mx.zeros(64, mx.int32)], "output_dtypes": [mx.int32]}


def main() -> int:
    """Prints the errors and the count."""
    parser = argparse.ArgumentParser(description="Compile the CUDA text of Metal kernels with NVRTC.")
    parser.add_argument("--arch", default="sm_90a", help="as MLX would choose it for the GPU (default %(default)s)")
    parser.add_argument("--mlx", type=Path, help="MLX's source, to use its own device headers")
    options = parser.parse_args()
    nvrtc = Nvrtc(options.arch, [options.mlx] if options.mlx else [])
    count = failed = 0
    for name, text, call in kernels():
        prelude = MLX_PRELUDE if options.mlx else PRELUDE
        inputs, template = as_arrays(call["inputs"]), call.get("template")
        errors = nvrtc.errors(cuda_program(text, inputs, call["output_dtypes"], template, prelude))
        count, failed = count + 1, failed + bool(errors)
        if errors:
            print(f"FAILED {name}\n{errors}")
    print(f"NVRTC {nvrtc.version()}, {options.arch}: {count - failed} of {count} kernels compile")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
