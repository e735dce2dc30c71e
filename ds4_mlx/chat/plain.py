"""A conversation without a cursor to move: in a pipe, with output to a file, in a terminal that is TERM=dumb."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ds4_mlx.chat import clipboard
from ds4_mlx.chat.conversation import Conversation, Progress
from ds4_mlx.engine.generation import Event
from ds4_mlx.terminal import AnswerPrinter, note, prompt_progress, stats_line

QUOTES = '"""'


def can_move_cursor() -> bool:
    """Whether both ends are a terminal, and a capable one."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")


def unquoted(text: str) -> str:
    """A text between triple quotes without them; a space shields it from being taken for a command."""
    if not text.strip().startswith(QUOTES):
        return text
    inner = text.strip()[len(QUOTES) :].removesuffix(QUOTES).strip("\n")
    return f" {inner}" if inner.startswith("/") else inner


def is_open(text: str) -> bool:
    """Whether a text between triple quotes goes on with the next line."""
    text = text.strip()
    return text.startswith(QUOTES) and not (len(text) >= 2 * len(QUOTES) and text.endswith(QUOTES))


class PlainInput:
    """Lines of standard input; several between triple quotes are one message."""

    def __init__(self) -> None:
        self._interactive = sys.stdin.isatty()

    def read(self, draft: str, editing: bool) -> str:
        """The next message. A draft cannot be put on the line: it is shown, to be copied."""
        if draft and self._interactive:
            note(f"(it was: {draft})")
        text = self._line("edit> " if editing else "> ")
        while is_open(text):
            try:
                text += "\n" + self._line(". ")
            except EOFError:  # whoever forgot the closing quotes meant the end
                break
        return unquoted(text)

    def _line(self, prompt: str) -> str:
        if self._interactive:
            print(prompt, end="", file=sys.stderr, flush=True)  # standard output is for answers
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\r\n")


class _View:
    def __init__(self, on_prefill: Progress | None) -> None:
        self.on_prefill = on_prefill
        self._printer = AnswerPrinter()
        self._dumb = sys.stdout.isatty()  # where dim looks like everything else
        self._kind = ""

    def show(self, event: Event) -> None:
        if self._dumb and event.kind not in (self._kind, "done"):
            if event.kind == "reasoning":
                note("(thinking)")
            elif self._kind == "reasoning":
                self._printer.end()
                note("(answer)")
            self._kind = event.kind
        self._printer.show(event)

    def end(self) -> None:
        self._printer.end()


class PlainScreen:
    """Content to standard output as it comes; reasoning and remarks to standard error."""

    def note(self, text: str) -> None:
        """A remark."""
        note(text)

    def reply(self, text: str) -> None:
        """What a command has to say: somebody asked for it, so it is output."""
        print(text)

    @contextmanager
    def answer(self, folded: bool) -> Iterator[_View]:
        """Printed token by token. Reasoning cannot be folded here."""
        with prompt_progress() as on_prefill:
            view = _View(on_prefill)
            try:
                yield view
            finally:
                view.end()

    def ended(self, conversation: Conversation) -> None:
        """Speeds, memory, and how it ended."""
        assert conversation.last is not None
        if conversation.last.finish_reason is None:
            note("(stopped)")
        note(stats_line(conversation.last))

    def past(self, messages: tuple[dict[str, Any], ...]) -> None:
        """Nothing: a pipe knows what it was told."""

    def copy(self, text: str) -> str | None:
        """By a program; a dumb terminal would print the request."""
        return clipboard.copy(text, None)
