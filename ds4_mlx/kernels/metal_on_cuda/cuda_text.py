"""One call's CUDA text: what `mx.fast.cuda_kernel` is given as header and as source.

MLX puts the header at file scope and wraps the source into a `__global__` function of its own, with its own idea of the
parameters: CUDA's half types, shapes by value, template arguments as local names. So the kernel stands in the header,
as the function Metal would see, and the source is a single call of it that translates each argument.
"""

from __future__ import annotations

from typing import NamedTuple

from ds4_mlx.kernels.metal_on_cuda.rewrite import Cuda
from ds4_mlx.kernels.metal_on_cuda.shim import VECTOR_OPERATORS, computes_with_vectors, shim, without_comments
from ds4_mlx.kernels.metal_on_cuda.signature import ATTRIBUTES, Parameter, Signature
from ds4_mlx.kernels.metal_on_cuda.tokens import names_in

_DECLARED_IN_METAL = {"float16_t", "bfloat16_t"}  # all other element types are C++'s own


class CudaText(NamedTuple):
    """The arguments `header` and `source` of `mx.fast.cuda_kernel`."""

    header: str
    source: str


def cuda_text(signature: Signature) -> CudaText:
    """The CUDA text of the kernel for one signature; the address spaces of its inputs do not matter here."""
    text = signature.text
    positions = {name for name in signature.attributes if ATTRIBUTES[name] == "uint3"}
    vectors = computes_with_vectors(f"{text.header}\n{text.source}", positions)
    function = without_comments(signature.function(Cuda(vectors), "__device__ __forceinline__ void"))

    arguments = [_argument(parameter) for parameter in signature.parameters]
    for name in signature.attributes:
        value = f"metal::msl_{name}()"
        arguments.append(f"metal::msl_vector({value})" if vectors and name in positions else value)
    template = [_qualified(p.argument) for p in signature.template]
    chosen = f"<{', '.join(template)}>" if template else ""
    source = f"metal::user::msl_kernel{chosen}({', '.join(arguments)});"

    used = names_in(function) | names_in(source) | ({VECTOR_OPERATORS} if vectors else set())
    # Inside metal, Metal's float4, min and exp are found before CUDA's.
    return CudaText(f"{shim(used)}namespace metal {{ namespace user {{\n{function}}} }}\n", source)


def _argument(parameter: Parameter) -> str:
    """What the call passes for a parameter, from MLX's CUDA parameter of the same name."""
    name, element = parameter.name, _qualified(parameter.element)
    match parameter.role:
        case "input":  # a pointer also where Metal has a reference
            return f"{'*' if parameter.is_reference else ''}(const {element}*){name}"
        case "output":
            return f"({element}*){name}"
        case "ndim":
            return name
        case _:  # shape and strides come as arrays by value
            return f"{name}.data()"


def _qualified(element: str) -> str:
    return f"metal::{element}" if element in _DECLARED_IN_METAL or element.startswith("atomic<") else element
