"""Cuts Metal text into tokens and finds types and declarations among them. Knows nothing of other languages."""

from __future__ import annotations

import re
from typing import NamedTuple

ADDRESS_SPACES = frozenset({"device", "constant", "threadgroup", "thread"})
QUALIFIERS = frozenset({"const", "volatile"})
SCALARS = ("bool", "char", "uchar", "short", "ushort", "int", "uint", "long", "ulong", "half", "float", "bfloat")
VECTORS = frozenset(f"{scalar}{n}" for scalar in SCALARS for n in (2, 3, 4))
_BEFORE_TYPE = ADDRESS_SPACES | QUALIFIERS | {"typename", "constexpr", "static"}
_BUILT_IN = frozenset({"unsigned", "signed", "long", "short", "int", "char"})  # may follow one another in one type

_TOKEN = re.compile(
    r"""
    (?P<blank>\s+|//[^\n]*|/\*.*?\*/|\\\n) |
    (?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*') |
    (?P<number>(?:0[xX][0-9a-fA-F']+|(?:\d[\d']*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)[a-zA-Z]*) |
    (?P<name>[A-Za-z_]\w*) |
    (?P<mark>::|->|\+\+|--|&&|\|\||[-+*/%&|^!=<>]=|.)
    """,
    re.VERBOSE | re.DOTALL,
)


class KernelTextError(ValueError):
    """A kernel text uses something that this package cannot carry over; the message names the line."""


class Token(NamedTuple):
    """`kind` is blank (space or comment), text (a quoted one), number, name or mark; `line` counts from 1."""

    kind: str
    text: str
    line: int


def tokenize(source: str) -> list[Token]:
    """All tokens; joined again they give `source`."""
    tokens, line = [], 1
    for match in _TOKEN.finditer(source):
        text = match.group()
        tokens.append(Token(match.lastgroup or "mark", text, line))
        line += text.count("\n")
    return tokens


def code_tokens(source: str) -> list[Token]:
    """The tokens without space and comments."""
    return [token for token in tokenize(source) if token.kind != "blank"]


def names_in(source: str) -> set[str]:
    """The identifiers, those of the preprocessor included, those in comments not."""
    return {token.text for token in tokenize(source) if token.kind == "name"}


def skip_blank(tokens: list[Token], at: int) -> int:
    """The first index from `at` on that is no space or comment; `len(tokens)` if there is none."""
    while at < len(tokens) and tokens[at].kind == "blank":
        at += 1
    return at


def text_at(tokens: list[Token], at: int | None) -> str:
    """The token's text, "" beyond the end or for None."""
    return tokens[at].text if at is not None and at < len(tokens) else ""


def after_template_arguments(tokens: list[Token], at: int) -> int | None:
    """The index behind the `>` that closes the `<` at `at`; None if that `<` turns out to mean less-than."""
    depth = 0
    while at < len(tokens):
        text = tokens[at].text
        if text in ("{", ";"):
            return None
        depth += (text == "<") - (text == ">")
        at += 1
        if depth == 0:
            return at
    return None


def after_type(tokens: list[Token], at: int) -> int | None:
    """The index behind the type that begins at or after `at`; None if none begins there.

    Address spaces and qualifiers before it are skipped; pointers and references behind it do not belong to it.
    """
    at = skip_blank(tokens, at)
    while text_at(tokens, at) in _BEFORE_TYPE:
        at = skip_blank(tokens, at + 1)
    if at >= len(tokens) or tokens[at].kind != "name":
        return None
    end = at + 1
    if tokens[at].text in _BUILT_IN:
        while text_at(tokens, at := skip_blank(tokens, end)) in _BUILT_IN:
            end = at + 1
        return end
    while True:
        following = skip_blank(tokens, end)
        if text_at(tokens, following) == "<":
            closed = after_template_arguments(tokens, following)
            if closed is None:
                return None
            end, following = closed, skip_blank(tokens, closed)
        if text_at(tokens, following) != "::":
            return end
        end = skip_blank(tokens, following + 1) + 1


def declared_name(tokens: list[Token], at: int) -> int | None:
    """For the address space at `at`: where the name is that a variable *in* this space declares.

    `threadgroup float tile[64];` declares such a variable; `threadgroup float* p` is a pointer into the space and
    gives None, as does everything else.
    """
    end = after_type(tokens, at + 1)
    if end is None:
        return None
    name = skip_blank(tokens, end)
    while text_at(tokens, name) in QUALIFIERS | ADDRESS_SPACES:
        name = skip_blank(tokens, name + 1)
    return name if name < len(tokens) and tokens[name].kind == "name" else None


def vector_aliases(tokens: list[Token]) -> set[str]:
    """Names that the text gives to vector types: `using T4 = vec<T, 4>;`, `using V = float4;`."""
    aliases: set[str] = set()
    code = [token.text for token in tokens if token.kind != "blank"]
    for i, text in enumerate(code[:-3]):
        if text == "using" and code[i + 2] == "=":
            meant = code[i + 5] if code[i + 3 : i + 5] == ["metal", "::"] and i + 5 < len(code) else code[i + 3]
            if meant == "vec" or meant in VECTORS | aliases:
                aliases.add(code[i + 1])
    return aliases
