"""A kernel as C++ for the CPU: the body as a function, and an entry that the runtime calls once per GPU thread."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path

from ds4_mlx.kernels.metal_on_cuda.rewrite import Dialect, ThreadgroupVariable
from ds4_mlx.kernels.metal_on_cuda.signature import ATTRIBUTES, Parameter, Signature
from ds4_mlx.kernels.metal_on_cuda.tokens import KernelTextError

from mslemu.compiler import CompilerError, cached_library, compile_cpp

HERE = Path(__file__).parent
PACKAGE_HEADERS = Path(str(files("ds4_mlx.kernels.metal_on_cuda") / "headers"))

# The attributes from msl_thread (include/abi.h).
_VALUES = {
    "dispatch_quadgroups_per_threadgroup": "thread->simdgroups * 8",
    "dispatch_simdgroups_per_threadgroup": "thread->simdgroups",
    "dispatch_threads_per_threadgroup": "thread->dispatch_threads_per_threadgroup",
    "grid_size": "thread->threads_per_grid",
    "quadgroup_index_in_threadgroup": "thread->index / 4",
    "quadgroups_per_threadgroup": "thread->simdgroups * 8",
    "simdgroup_index_in_threadgroup": "thread->simdgroup",
    "simdgroups_per_threadgroup": "thread->simdgroups",
    "thread_execution_width": "32u",
    "thread_index_in_quadgroup": "thread->lane % 4",
    "thread_index_in_simdgroup": "thread->lane",
    "thread_index_in_threadgroup": "thread->index",
    "thread_position_in_grid": "thread->position_in_grid",
    "thread_position_in_threadgroup": "thread->position_in_threadgroup",
    "threadgroup_position_in_grid": "thread->threadgroup_position",
    "threadgroups_per_grid": "thread->threadgroups_per_grid",
    "threads_per_grid": "thread->threads_per_grid",
    "threads_per_simdgroup": "32u",
    "threads_per_threadgroup": "thread->threads_per_threadgroup",
}
# _Float16 rounds after every operation only with excess precision 16.
_FLAGS = ("-std=c++17", "-fPIC", "-fvisibility=hidden", "-march=native", "-fno-math-errno", "-fexcess-precision=16")
_MODE_FLAGS = {
    "fast": ("-O3",),
    # The hooks of -fsanitize are the runtime's own: neither libtsan nor libubsan is linked.
    "checked": (
        "-O1",
        "-g",
        "-fsanitize=thread",
        "-fsanitize=bounds,shift,integer-divide-by-zero,signed-integer-overflow,alignment,float-cast-overflow,bool",
        "-ftrivial-auto-var-init=pattern",
    ),
}
_LARGEST_FRAME = 64 << 10  # bytes of local variables; a quarter of a thread's stack


class _Cpu(Dialect):
    """g++'s C++17 with include/cpu.h before it."""

    def constant(self, words: set[str], declares_variable: bool) -> str:
        const = super().constant(words, declares_variable)
        return f"static {const}" if declares_variable and "static" not in words else const

    def threadgroup_variable(self, variable: ThreadgroupVariable) -> str:
        kind, name = f"msl_type_of_{variable.name}", variable.name
        return (
            f"typedef {variable.element} {kind}{variable.dimensions}; "
            f"{kind}& {name} = "
            f"*({kind}*)msl_rt_threadgroup_variable({variable.number}, sizeof({kind}), alignof({kind}));"
        )


def cpu_text(signature: Signature) -> str:
    """The C++ text. Inside metal, Metal's names are found before C's."""
    arguments = [_argument(i, parameter) for i, parameter in enumerate(signature.parameters)]
    arguments += [_attribute(name) for name in signature.attributes]
    chosen = f"<{', '.join(p.argument for p in signature.template)}>" if signature.template else ""
    return (
        '#include "cpu.h"\nnamespace metal { namespace user {\n'
        f"{signature.function(_Cpu(), 'static inline __attribute__((always_inline)) void')}"
        '#line 1 "entry"\n'
        'extern "C" __attribute__((visibility("default"))) void msl_entry(void* const* a, const msl_thread* thread) {\n'
        f"  msl_kernel{chosen}({', '.join(arguments)});\n}}\n}} }}\n"
    )


def compiled(signature: Signature, mode: str, fused: bool) -> Path:
    """The library with the kernel's `msl_entry`. Raises KernelTextError if g++ does not accept the text."""
    text, name = cpu_text(signature), signature.text.name
    contraction = f"-ffp-contract={'fast' if fused else 'off'}"
    flags = [*_FLAGS, *_MODE_FLAGS[mode], contraction, f"-Werror=frame-larger-than={_LARGEST_FRAME}"]

    def build(scratch: Path) -> Path:
        source, compiled_object, library = (scratch / f"kernel.{ending}" for ending in ("cpp", "o", "so"))
        source.write_text(text)
        includes = (f"-I{HERE / 'include'}", f"-I{PACKAGE_HEADERS}")
        try:
            compile_cpp(*flags, *includes, "-c", source, "-o", compiled_object)
        except CompilerError as error:
            raise KernelTextError(f"kernel {name}: g++ does not accept the text\n{error}") from None
        compile_cpp("-shared", compiled_object, "-o", library)  # apart, for -fsanitize would ask for its own library
        return library

    return cached_library(f"{name}-{mode}", "\n".join([*flags, _headers(), text]), build)


def _argument(index: int, parameter: Parameter) -> str:
    const = "" if parameter.role == "output" else "const "
    return f"{'*' if parameter.is_reference else ''}({const}{parameter.element}*)a[{index}]"


def _attribute(name: str) -> str:
    if name == "grid_origin":
        return "uint3(0u)"
    value = _VALUES[name]
    return f"uint3({value}[0], {value}[1], {value}[2])" if ATTRIBUTES[name] == "uint3" else value


@cache
def _headers() -> str:
    used = [*sorted((HERE / "include").glob("*.h")), *sorted((PACKAGE_HEADERS / "msl").glob("*.h"))]
    return "\n".join(path.read_text() for path in used)
