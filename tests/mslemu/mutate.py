"""Removes barriers from a kernel's text: a test that still passes without one of them tests too little."""

from __future__ import annotations

from typing import NamedTuple

from ds4_mlx.kernels.metal_on_cuda.tokens import Token, text_at, tokenize

_BARRIERS = frozenset({"threadgroup_barrier", "simdgroup_barrier"})


class Barrier(NamedTuple):
    """A barrier call as it stands in the text, from its line on."""

    line: int
    text: str


def barriers(source: str) -> list[Barrier]:
    """All barrier calls of a body or header, in order; those in comments are none."""
    tokens = tokenize(source)
    return [Barrier(tokens[a].line, "".join(t.text for t in tokens[a:b])) for a, b in _spans(tokens)]


def without_barrier(source: str, index: int) -> str:
    """The text without the barrier call number `index`; its `;` and all lines stay."""
    tokens = tokenize(source)
    begin, end = _spans(tokens)[index]
    lines = sum(t.text.count("\n") for t in tokens[begin:end])
    return "".join(t.text for t in tokens[:begin]) + "\n" * lines + "".join(t.text for t in tokens[end:])


def _spans(tokens: list[Token]) -> list[tuple[int, int]]:
    """Where each call begins, `metal::` before it included, and where its closing bracket ends."""
    spans = []
    for i, token in enumerate(tokens):
        if token.kind != "name" or token.text not in _BARRIERS:
            continue
        begin = i - 2 if text_at(tokens, i - 1) == "::" else i
        depth, end = 0, i + 1
        while end < len(tokens):
            depth += (tokens[end].text == "(") - (tokens[end].text == ")")
            end += 1
            if depth == 0 and tokens[end - 1].text == ")":
                break
        spans.append((begin, end))
    return spans
