"""Markdown as a terminal shows it, and where a text that is still being written may be cut."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, MarkdownElement
from rich.syntax import Syntax
from rich.text import Text

# HTML is shown as it was written: a terminal has no use for it, and what the model said must not vanish.
_PARSER = MarkdownIt("commonmark", {"html": False}).enable("strikethrough").enable("table")


class _LeftHeading(Heading):
    """Bold, at the left."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self.text.plain, style="bold underline" if self.tag == "h1" else "bold")


class _Code(CodeBlock):
    """In the terminal's own colours, set in from the left: what is copied has no blanks at its ends."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = self.text.plain.rstrip()
        yield Syntax(
            code, self.lexer_name, theme="ansi_dark", background_color="default", word_wrap=True, padding=(0, 2)
        )


class AnswerMarkdown(Markdown):
    """Line breaks stay where the model wrote them."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _LeftHeading,
        "fence": _Code,
        "code_block": _Code,
    }

    def __init__(self, text: str) -> None:
        super().__init__("")
        self.markup, self.parsed = text, _PARSER.parse(text)
        for token in self.parsed:
            for child in token.children or ():
                if child.type == "softbreak":
                    child.type = "hardbreak"


def split_finished(text: str) -> tuple[list[str], str]:
    """The blocks (paragraphs, lists, code) that no further text can change, and the rest: the block being written."""
    starts = [token.map[0] for token in _PARSER.parse(text) if _is_block(token) and token.map]
    lines = text.splitlines(keepends=True)
    blocks = ["".join(lines[a:b]) for a, b in pairwise(starts)]
    return blocks, "".join(lines[starts[-1] :]) if starts else text


def _is_block(token: Token) -> bool:
    return token.level == 0 and token.nesting >= 0
