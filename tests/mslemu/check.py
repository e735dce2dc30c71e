"""Checks a kernel's types in Metal's own terms, without a Mac: clang reads it against declarations of Metal's library.

Metal is C++14 with address spaces, and so is what clang is given: `device`, `constant` and `threadgroup` become
address spaces of clang, vectors clang's vectors. clang then reports what Apple's compiler, a clang itself, would
report: a pointer into the wrong space, an ambiguous overload, a missing conversion. Casts between address spaces, which
clang allows in C++, are looked for in its syntax tree; what needs no types is `lint`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
from clang import cindex

from ds4_mlx.kernels.metal_on_cuda.rewrite import Dialect, ThreadgroupVariable
from ds4_mlx.kernels.metal_on_cuda.signature import ATTRIBUTES, KernelText, Signature, Template, as_arrays

from mslemu.cpu_text import PACKAGE_HEADERS
from mslemu.kernel import EmulatedKernel
from mslemu.lint import lint

_FILE = "kernel.cpp"
_ARGUMENTS = (
    # One target everywhere; this one has _Float16 and __bf16.
    *(
        "-x",
        "c++",
        "-std=c++14",
        "--target=x86_64-unknown-linux-gnu",
        "-march=x86-64-v3",
        "-nostdinc",
        "-ffreestanding",
    ),
    *(f"-I{Path(__file__).parent / 'include'}", f"-I{PACKAGE_HEADERS}"),
    *("-Wno-everything", "-Wc++17-extensions", "-Wc++20-extensions"),
    *("-Wuninitialized", "-Warray-bounds", "-Wreturn-type", "-Wdivision-by-zero"),
    *("-Wshift-count-overflow", "-Wshift-count-negative"),
)
_CASTS = frozenset(
    {
        cindex.CursorKind.CSTYLE_CAST_EXPR,
        cindex.CursorKind.CXX_REINTERPRET_CAST_EXPR,
        cindex.CursorKind.CXX_STATIC_CAST_EXPR,
        cindex.CursorKind.CXX_FUNCTIONAL_CAST_EXPR,
    }
)


class _Clang(Dialect):
    """clang's C++ with include/metal_declarations.h before it."""

    def address_space(self, space: str) -> str:
        return space

    def constant(self, words: set[str], declares_variable: bool) -> str:
        return "constant"

    def threadgroup_variable(self, variable: ThreadgroupVariable) -> str:
        return f"extern threadgroup {variable.element} {variable.name}{variable.dimensions};"

    def swizzle(self, components: str) -> str:
        return components

    def constructor(self, vector_type: str) -> str:
        return f"msl_construct<{vector_type}>"


def check(
    kernel: EmulatedKernel | KernelText,
    inputs: Sequence[Any],
    output_dtypes: Sequence[mx.Dtype],
    template: Template | None = None,
    **rest_of_call: Any,
) -> list[str]:
    """What Apple's compiler would not take, or takes but means otherwise than CUDA: a text each, [] if all is well.

    Takes what a call takes; grid, shapes and the rest may be given and do not matter. The inputs' sizes do: an input
    with fewer than 8 elements has another address space, one without dimensions is a reference. So check every
    signature that is used.
    """
    text = kernel if isinstance(kernel, KernelText) else kernel.text
    signature = Signature.of_call(text, as_arrays(inputs), output_dtypes, template)
    return [*_problems(_check_text(signature)), *lint(signature)]


def _check_text(signature: Signature) -> str:
    """The kernel as clang is given it. A template is checked for the call's arguments."""
    instantiation = ""
    if signature.template:
        types = [p.type for p in signature.parameters] + [ATTRIBUTES[name] for name in signature.attributes]
        chosen = ", ".join(p.argument for p in signature.template)
        instantiation = f'#line 1 "instantiation"\ntemplate void msl_kernel<{chosen}>({", ".join(types)});\n'
    return f'#include "metal_declarations.h"\n{signature.function(_Clang(), "static void")}{instantiation}'


def _problems(text: str) -> Iterator[str]:
    unit = _index().parse(_FILE, args=list(_ARGUMENTS), unsaved_files=[(_FILE, text)])
    failed = False
    for diagnostic in unit.diagnostics:
        if diagnostic.severity >= cindex.Diagnostic.Warning:
            is_error = diagnostic.severity >= cindex.Diagnostic.Error
            failed = failed or is_error
            yield f"{_culprit(text, diagnostic)}: {'error' if is_error else 'warning'}: {diagnostic.spelling}"
    if failed:
        return  # the tree of a text with errors has holes
    for cursor in unit.cursor.get_children():
        if cursor.location.file is not None and cursor.location.file.name == _FILE:
            yield from _casts_between_spaces(text, cursor)


def _casts_between_spaces(text: str, cursor: cindex.Cursor) -> Iterator[str]:
    children = list(cursor.get_children())
    if cursor.kind in _CASTS and children:
        # A type without pointee has "" there. Not by `kind`: the Python binding does not know those of half and bfloat.
        to, source = cursor.type.get_canonical().get_pointee(), children[-1].type.get_canonical().get_pointee()
        if to.spelling and source.spelling and to.get_address_space() != source.get_address_space():
            names = f"from '{children[-1].type.spelling}' to '{cursor.type.spelling}'"
            yield f"{_place(text, cursor.location)}: error: cast {names} changes the address space"
    for child in children:
        yield from _casts_between_spaces(text, child)


def _culprit(text: str, diagnostic: cindex.Diagnostic) -> str:
    """Where the kernel's text is to blame: for a static_assert in a header, where its template is used."""
    places = [diagnostic.location, *(note.location for note in diagnostic.children)]
    # Line 1 is the #include through which the header came in.
    ours = [at for at in places if at.file is not None and at.file.name == _FILE and at.line > 1]
    return _place(text, ours[0] if ours else diagnostic.location)


def _place(text: str, location: cindex.SourceLocation) -> str:
    """FILE:LINE:COLUMN as the kernel's author counts; libclang counts lines of the whole text and ignores `#line`."""
    if location.file is None or location.file.name != _FILE:
        return f"{location.file}:{location.line}:{location.column}"
    file, first = _FILE, 1
    for number, row in enumerate(text.split("\n")[: location.line], 1):
        if match := re.match(r'#line (\d+) "(.*)"', row):
            file, first = match[2], number + 2 - int(match[1])
    return f"{file}:{location.line - first + 1}:{location.column}"


@cache
def _index() -> cindex.Index:
    return cindex.Index.create()
