"""Carries Metal text over to another compiler, token by token; line numbers stay as they are.

`rewrite` walks over the text and asks a `Dialect` about the few things that Metal says differently: address spaces,
variables in threadgroup memory, swizzles, literals, vector constructors. The base class answers for plain C++; `Cuda`
is the one the package needs, the emulator in `tests/mslemu` adds two of its own.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ds4_mlx.kernels.metal_on_cuda.tokens import (
    ADDRESS_SPACES,
    QUALIFIERS,
    VECTORS,
    KernelTextError,
    Token,
    after_template_arguments,
    after_type,
    declared_name,
    skip_blank,
    text_at,
    tokenize,
    vector_aliases,
)

_METAL_INCLUDE = re.compile(r"^([ \t]*)#[ \t]*include[ \t]*<metal_\w+>", re.MULTILINE)
_SWIZZLE = re.compile(r"[xyzw]{2,4}$")
_DECIMAL = re.compile(r"([\d'.]+(?:[eE][+-]?\d+)?)([a-zA-Z]*)$")


class ThreadgroupVariable(NamedTuple):
    """One name of `threadgroup ELEMENT NAME DIMENSIONS;`; `number` counts them within a text."""

    element: str
    name: str
    dimensions: str
    number: int


class Dialect:
    """What a compiler wants to read instead of Metal's own words. These answers suit a C++ without address spaces."""

    def address_space(self, space: str) -> str:
        """Instead of `device`, `thread` or `threadgroup` at a pointer or reference."""
        return ""

    def constant(self, words: set[str], declares_variable: bool) -> str:
        """Instead of `constant`, of a variable there or of a pointer to it; `words` are the type's other words.

        Nothing in that space can be written, whether Metal's text says `const` or not.
        """
        return "" if words & {"const", "constexpr"} else "const"

    def threadgroup_variable(self, variable: ThreadgroupVariable) -> str:
        """A declaration of a variable that all threads of a threadgroup share."""
        raise NotImplementedError

    def position(self) -> str:
        """The type of `thread_position_in_grid` and its like, in Metal `uint3`."""
        return "uint3"

    def swizzle(self, components: str) -> str:
        """Instead of `xy` in `v.xy`."""
        return f"template swizzle<{','.join(str('xyzw'.index(c)) for c in components)}>()"

    def constructor(self, vector_type: str) -> str:
        """Instead of `float4` in `float4(a, b)`."""
        return vector_type


class Cuda(Dialect):
    """CUDA C++, with `headers/` before it. Without `vectors`, positions are plain structs with x, y and z."""

    def __init__(self, vectors: bool = True) -> None:
        self.vectors = vectors

    def position(self) -> str:
        """See `Dialect.position`."""
        return "uint3" if self.vectors else "msl_position"

    def threadgroup_variable(self, variable: ThreadgroupVariable) -> str:
        """Shared memory; aligned for vector loads as Metal's is."""
        return f"__shared__ __align__(16) {variable.element} {variable.name}{variable.dimensions};"


def rewrite(source: str, dialect: Dialect) -> str:
    """The text for `dialect`'s compiler. Raises KernelTextError at what cannot be carried over."""
    tokens = tokenize(_METAL_INCLUDE.sub(r"\1", source))
    vectors = VECTORS | vector_aliases(tokens)
    output: list[str] = []
    at, parentheses, variables = 0, 0, 0
    previous = ""  # the last token that is no space
    while at < len(tokens):
        token = tokens[at]
        parentheses += (token.text == "(") - (token.text == ")")
        end = at + 1
        if token.kind == "number":
            output.append(_number(token.text))
        elif token.text in ADDRESS_SPACES:
            name = declared_name(tokens, at) if parentheses == 0 else None
            if name is not None and token.text == "threadgroup":
                declared, end = _threadgroup_variables(tokens, at, name, variables)
                variables += len(declared)
                lines = sum(t.text.count("\n") for t in tokens[at:end])
                output.append(" ".join(map(dialect.threadgroup_variable, declared)) + "\n" * lines)
            elif token.text == "constant":
                output.append(dialect.constant(_words_of_type(tokens, at), name is not None))
            else:
                output.append(dialect.address_space(token.text))
        elif token.kind == "name" and previous == "." and _SWIZZLE.match(token.text):
            output.append(dialect.swizzle(token.text))
        elif token.text == "vec" or token.text in vectors:
            end = _after_vector_type(tokens, at)
            written = "".join(t.text for t in tokens[at:end])
            constructs = text_at(tokens, skip_blank(tokens, end)) == "(" and written != "vec"
            output.append(dialect.constructor(written) if constructs else written)
        else:
            output.append(token.text)
        if token.kind != "blank":
            previous = token.text
        at = end
    return "".join(output)


def _number(text: str) -> str:
    """Metal has no double: `1.0` is a float there, and `1.0h` is a half."""
    match = _DECIMAL.match(text)
    if text[:2].lower() == "0x" or match is None:
        return text
    digits, suffix = match.groups()
    floating = "." in digits or "e" in digits.lower()
    if suffix.lower() in ("h", "bf"):
        return f"{'half' if suffix.lower() == 'h' else 'bfloat'}({digits if floating else digits + '.0'}f)"
    return f"{digits}f" if floating and not suffix else text


def _after_vector_type(tokens: list[Token], at: int) -> int:
    """The index behind `float4`, or behind `vec<T, 4>`."""
    if tokens[at].text != "vec":
        return at + 1
    following = skip_blank(tokens, at + 1)
    if text_at(tokens, following) != "<":
        return at + 1
    return after_template_arguments(tokens, following) or at + 1


def _words_of_type(tokens: list[Token], at: int) -> set[str]:
    """The words of the type around the address space at `at`, both qualifiers of `const constant int volatile*` too."""
    qualifiers = QUALIFIERS | {"constexpr", "static"}
    first, end = at, after_type(tokens, at + 1) or at
    while first > 0 and (tokens[first - 1].kind == "blank" or tokens[first - 1].text in qualifiers):
        first -= 1
    while end < len(tokens) and (tokens[end].kind == "blank" or tokens[end].text in qualifiers):
        end += 1
    return {t.text for t in tokens[first:end] if t.kind == "name"} - {"constant"}


def _threadgroup_variables(
    tokens: list[Token], at: int, name: int, number: int
) -> tuple[list[ThreadgroupVariable], int]:
    """The variables that the statement at `at` declares, the first of them named at `name`, and the index behind it."""
    element = "".join(_spaced(t) for t in tokens[at:name] if t.text not in ADDRESS_SPACES).strip()
    parts, depth, end = [""], 0, name
    while (text := text_at(tokens, end)) != ";":
        if text == "" or (text == "=" and depth == 0):
            problem = "has an initializer" if text else "is not ended by ';'"
            raise KernelTextError(f"line {tokens[at].line}: the threadgroup variable '{tokens[name].text}' {problem}")
        depth += (text in "([{") - (text in ")]}")
        if text == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += _spaced(tokens[end])
        end += 1
    variables = []
    for i, part in enumerate(parts):
        declared, bracket, dimensions = part.strip().partition("[")
        variables.append(ThreadgroupVariable(element, declared.strip(), bracket + dimensions, number + i))
    return variables, end + 1


def _spaced(token: Token) -> str:
    """The token on one line: space and comments become one blank."""
    return " " if token.kind == "blank" else token.text
