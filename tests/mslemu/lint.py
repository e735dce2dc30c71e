"""What can be said of a kernel without knowing types: words that Metal has not, or means otherwise than C++."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ds4_mlx.kernels.metal_on_cuda.signature import Signature
from ds4_mlx.kernels.metal_on_cuda.tokens import (
    ADDRESS_SPACES,
    QUALIFIERS,
    SCALARS,
    VECTORS,
    Token,
    code_tokens,
    declared_name,
    text_at,
    tokenize,
    vector_aliases,
)

_BANNED = {
    "asm": "Metal has no assembly",
    "delete": "Metal has no heap",
    "double": "Metal has no double",
    "dynamic_cast": "Metal has no run-time types",
    "goto": "Metal has no goto",
    "new": "Metal has no heap",
    "printf": "Metal has no printf",
    "std": "Metal has no std::, though the emulator's compiler has",
    "thread_local": "Metal has no thread_local",
    "throw": "Metal has no exceptions",
    "try": "Metal has no exceptions",
    "typeid": "Metal has no run-time types",
    "virtual": "Metal has no virtual functions",
}
_POINTED_AT = (
    VECTORS | {f"packed_{name}" for name in VECTORS} | set(SCALARS) | {"void", "size_t", "float16_t", "bfloat16_t"}
)
_POINTED_AT |= {f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)}


def lint(signature: Signature) -> list[str]:
    """One "FILE:LINE: lint: ..." for every such thing in header and body."""
    text = signature.text
    template_names = {p.name for p in signature.template}
    template_types = {p.name for p in signature.template if p.declaration.startswith("typename")}
    found = []
    for source, file, is_header in (
        (text.header, f"{text.name}.header.metal", True),
        (text.source, f"{text.name}.metal", False),
    ):
        code = code_tokens(source)
        problems = [
            *_banned_words(code),
            *_lambdas(code),
            *_double_literals(code),
            *_pointers_without_space(code, template_types | _type_names(source)),
            *_threadgroup_variables(source, is_header),
            *_template_parameters_in_preprocessor(source, template_names),
        ]
        found += [f"{file}:{line}: lint: {problem}" for line, problem in sorted(problems)]
    return found + [f"{text.name}: lint: {problem}" for problem in _misread_names(signature)]


def _banned_words(code: list[Token]) -> Iterator[tuple[int, str]]:
    for token in code:
        if token.kind == "name" and token.text in _BANNED:
            yield token.line, f"'{token.text}': {_BANNED[token.text]}"


def _lambdas(code: list[Token]) -> Iterator[tuple[int, str]]:
    for before, token, after in zip(code, code[1:], code[2:], strict=False):
        if token.text == "[" and before.text in ("=", "(", ",", "return") and after.text in ("]", "&", "="):
            yield token.line, "a lambda: Metal has none before 3.2"


def _double_literals(code: list[Token]) -> Iterator[tuple[int, str]]:
    for token in code:
        if token.kind == "number" and re.fullmatch(r"(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?", token.text):
            yield token.line, f"{token.text} is a float on Metal and a double elsewhere: write {token.text}f"


def _type_names(source: str) -> set[str]:
    """Names the text itself gives to types: template parameters, vector aliases, structs."""
    return set(re.findall(r"\b(?:typename|class|struct)\s+(\w+)", source)) | vector_aliases(tokenize(source))


def _pointers_without_space(code: list[Token], types: set[str]) -> Iterator[tuple[int, str]]:
    """g++ and clang take `float* p`; Metal wants `thread float* p` or another space."""
    for i, token in enumerate(code[:-2]):
        mark, after = code[i + 1].text, code[i + 2]
        is_pointer = mark in ("*", "&") and (after.kind == "name" or after.text in (")", ",", ">"))
        if token.text not in _POINTED_AT | types or not is_pointer:
            continue
        first = i
        while first > 0 and code[first - 1].text in ADDRESS_SPACES | QUALIFIERS | {"static", "constexpr", "inline"}:
            first -= 1
        begins_type = first == 0 or code[first - 1].text in (";", "{", "}", "(", ",", ">", "<")
        if begins_type and not any(t.text in ADDRESS_SPACES for t in code[first:i]):
            yield token.line, f"'{token.text}{mark} {after.text}' has no address space"


def _threadgroup_variables(source: str, is_header: bool) -> Iterator[tuple[int, str]]:
    tokens, braces, brackets = tokenize(source), 0, 0
    for i, token in enumerate(tokens):
        braces += (token.text == "{") - (token.text == "}")
        brackets += (token.text == "(") - (token.text == ")")
        if token.text != "threadgroup" or brackets > 0:
            continue
        name = declared_name(tokens, i)
        if name is not None and (is_header or braces > 0):
            yield (
                token.line,
                f"threadgroup variable '{text_at(tokens, name)}' must stand at the outermost scope of the body",
            )


def _template_parameters_in_preprocessor(source: str, names: set[str]) -> Iterator[tuple[int, str]]:
    for line, row in enumerate(source.split("\n"), 1):
        match = re.match(r"\s*#\s*(?:if|elif|ifdef|ifndef)\b(.*)", row)
        if match and names & set(re.findall(r"\w+", match[1])):
            yield line, f"a template parameter is nothing (0) to the preprocessor: {row.strip()}"


def _misread_names(signature: Signature) -> Iterator[str]:
    """MLX looks for `x_shape` as plain text: it sees one of input `x` in `max_shape` as well."""
    text = signature.text
    words = {token.text for token in code_tokens(text.source)}
    for name in text.input_names:
        for suffix in ("_shape", "_strides", "_ndim"):
            if f"{name}{suffix}" in text.source and f"{name}{suffix}" not in words:
                yield f"MLX takes part of another word or of a comment for '{name}{suffix}': rename the input '{name}'"
    for name in signature.attributes:
        if name not in words and not any(name in word for word in words):
            yield f"MLX takes the comment's '{name}' for a use of it: write it otherwise"
