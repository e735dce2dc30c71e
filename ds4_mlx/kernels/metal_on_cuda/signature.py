"""What MLX makes of a kernel text and the arrays it is called with: parameters, positions, template arguments.

Follows `mlx/backend/common/metal_kernel.cpp`, where the types of a kernel's parameters are decided:

- an input is `const device T*`, but `const constant T*` if it has fewer than 8 elements, and a reference if it has no
  dimension; the same body can compile for one array and not for another;
- `x_shape`, `x_strides`, `x_ndim` and the thread's position exist if the body mentions them, as part of a word or in a
  comment too; helpers in the header are not searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import mlx.core as mx

from ds4_mlx.kernels.metal_on_cuda.rewrite import Dialect, rewrite

METAL_TYPES = {
    mx.bool_: "bool",
    mx.uint8: "uint8_t",
    mx.uint16: "uint16_t",
    mx.uint32: "uint32_t",
    mx.uint64: "uint64_t",
    mx.int8: "int8_t",
    mx.int16: "int16_t",
    mx.int32: "int32_t",
    mx.int64: "int64_t",
    mx.float16: "float16_t",
    mx.bfloat16: "bfloat16_t",
    mx.float32: "float",
}
ATTRIBUTES = {
    "dispatch_quadgroups_per_threadgroup": "uint",
    "dispatch_simdgroups_per_threadgroup": "uint",
    "dispatch_threads_per_threadgroup": "uint3",
    "grid_origin": "uint3",
    "grid_size": "uint3",
    "quadgroup_index_in_threadgroup": "uint",
    "quadgroups_per_threadgroup": "uint",
    "simdgroup_index_in_threadgroup": "uint",
    "simdgroups_per_threadgroup": "uint",
    "thread_execution_width": "uint",
    "thread_index_in_quadgroup": "uint",
    "thread_index_in_simdgroup": "uint",
    "thread_index_in_threadgroup": "uint",
    "thread_position_in_grid": "uint3",
    "thread_position_in_threadgroup": "uint3",
    "threadgroup_position_in_grid": "uint3",
    "threadgroups_per_grid": "uint3",
    "threads_per_grid": "uint3",
    "threads_per_simdgroup": "uint",
    "threads_per_threadgroup": "uint3",
}
CONSTANT_BELOW = 8  # elements; smaller inputs are in the address space `constant`

TemplateValue = bool | int | mx.Dtype
Template = Sequence[tuple[str, TemplateValue]]


@dataclass(frozen=True)
class KernelText:
    """What `mx.fast.metal_kernel` is given: names, the body (`source`) and the helpers before it (`header`)."""

    name: str
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    source: str
    header: str = ""
    ensure_row_contiguous: bool = True
    atomic_outputs: bool = False

    def __post_init__(self) -> None:
        # Lists are what mx.fast takes and callers have at hand.
        object.__setattr__(self, "input_names", tuple(self.input_names))
        object.__setattr__(self, "output_names", tuple(self.output_names))
        if not self.name.isidentifier():
            raise ValueError(f"a kernel's name becomes a C++ name; {self.name!r} is none")
        if not self.output_names:
            raise ValueError(f"kernel {self.name}: must have at least one output")


class ArrayType(NamedTuple):
    """What the text depends on of an input."""

    dtype: mx.Dtype
    ndim: int
    size: int


@dataclass(frozen=True)
class Parameter:
    """One parameter of the Metal function. `element` is its Metal type without `const`, `*` and `&`."""

    role: Literal["input", "shape", "strides", "ndim", "output"]
    name: str
    element: str
    space: Literal["device", "constant"]
    is_reference: bool = False

    @property
    def type(self) -> str:
        """The full Metal type: `const device float*`."""
        const = "" if self.role == "output" else "const "
        return f"{const}{self.space} {self.element}{'&' if self.is_reference else '*'}"


class TemplateParameter(NamedTuple):
    """`declaration` is `typename T` or `int N`, `argument` what it is set to: `float16_t` or `64`."""

    name: str
    declaration: str
    argument: str


class Signature:
    """The Metal function that one call of a kernel stands for."""

    def __init__(
        self, text: KernelText, inputs: Sequence[ArrayType], output_dtypes: Sequence[mx.Dtype], template: Template = ()
    ) -> None:
        """Raises ValueError if there are not as many inputs or outputs as names, or a dtype that Metal has not."""
        for given, names, what in (
            (len(inputs), text.input_names, "inputs"),
            (len(output_dtypes), text.output_names, "output_dtypes"),
        ):
            if given != len(names):
                raise ValueError(f"kernel {text.name}: {what} must be {len(names)} ({', '.join(names)}), not {given}")
        self.text = text
        self.parameters: list[Parameter] = []
        for name, array in zip(text.input_names, inputs, strict=True):
            self.parameters += _input_parameters(text, name, array)
        for name, dtype in zip(text.output_names, output_dtypes, strict=True):
            element = metal_type(dtype)
            self.parameters.append(
                Parameter("output", name, f"atomic<{element}>" if text.atomic_outputs else element, "device")
            )
        self.attributes = [name for name in ATTRIBUTES if name in text.source]
        self.template = [_template_parameter(name, value) for name, value in template]

    @classmethod
    def of_call(
        cls, text: KernelText, inputs: Sequence[mx.array], output_dtypes: Sequence[mx.Dtype], template: Template | None
    ) -> Signature:
        """That of a call with these arguments."""
        types = [ArrayType(x.dtype, x.ndim, x.size) for x in inputs]
        return cls(text, types, output_dtypes, template or ())

    @property
    def template_head(self) -> str:
        """`template <typename T, int N>` and a line end, or nothing."""
        return f"template <{', '.join(p.declaration for p in self.template)}>\n" if self.template else ""

    def function(self, dialect: Dialect, qualifiers: str) -> str:
        """Helpers and body as `QUALIFIERS msl_kernel(...) {...}` for `dialect`'s compiler.

        `#line` makes that compiler count as the kernel's author does: in NAME.header.metal and NAME.metal.
        """
        text = self.text
        parameters = [f"{rewrite(p.type, dialect)} {p.name}" for p in self.parameters]
        types = {"uint": "uint", "uint3": dialect.position()}
        parameters += [f"{types[ATTRIBUTES[name]]} {name}" for name in self.attributes]
        return (
            f'#line 1 "{text.name}.header.metal"\n{rewrite(text.header, dialect)}\n'
            f"{self.template_head}{qualifiers} msl_kernel({', '.join(parameters)}) {{\n"
            f'#line 1 "{text.name}.metal"\n{rewrite(text.source, dialect)}\n}}\n'
        )

    def metal(self) -> str:
        """What MLX gives Apple's compiler, without MLX's own helpers: for people to read."""
        text = self.text
        parameters = [f"{p.type} {p.name} [[buffer({i})]]" for i, p in enumerate(self.parameters)]
        parameters += [f"{ATTRIBUTES[name]} {name} [[{name}]]" for name in self.attributes]
        separator = ",\n  "
        return (
            f"{text.header}{self.template_head}[[kernel]] void custom_kernel_{text.name}(\n"
            f"  {separator.join(parameters)}) {{\n{text.source}\n}}\n"
        )


def as_arrays(inputs: Sequence[Any]) -> list[mx.array]:
    """Inputs of a call, which may be scalars and numpy arrays too, as MLX takes them."""
    return [x if isinstance(x, mx.array) else mx.array(x) for x in inputs]


def metal_type(dtype: mx.Dtype) -> str:
    """The name MLX's kernels use for a dtype. Raises ValueError for those that Metal has not."""
    if dtype not in METAL_TYPES:
        raise ValueError(f"{dtype} has no Metal type; kernels take {', '.join(METAL_TYPES.values())}")
    return METAL_TYPES[dtype]


def _input_parameters(text: KernelText, name: str, array: ArrayType) -> list[Parameter]:
    space: Literal["device", "constant"] = "constant" if array.size < CONSTANT_BELOW else "device"
    parameters = [Parameter("input", name, metal_type(array.dtype), space, is_reference=array.ndim == 0)]
    if array.ndim > 0:
        if f"{name}_shape" in text.source:
            parameters.append(Parameter("shape", f"{name}_shape", "int", "constant"))
        if f"{name}_strides" in text.source:
            parameters.append(Parameter("strides", f"{name}_strides", "int64_t", "constant"))
        if f"{name}_ndim" in text.source:
            parameters.append(Parameter("ndim", f"{name}_ndim", "int", "constant", is_reference=True))
    return parameters


def _template_parameter(name: str, value: TemplateValue) -> TemplateParameter:
    if isinstance(value, bool):
        return TemplateParameter(name, f"bool {name}", "true" if value else "false")
    if isinstance(value, int):
        return TemplateParameter(name, f"int {name}", str(value))
    return TemplateParameter(name, f"typename {name}", metal_type(value))
