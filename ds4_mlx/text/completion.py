"""A completion read as it is sampled: text in, reasoning, content and tool calls out.

The lenient twin of `parse_completion`: whatever that accepts gives the same parts here, and what it refuses comes out
as text. Knows nothing of tokens, stop strings or any API's events.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from ds4_mlx.text.dsml import TOOLS_OPEN, ToolBlockReader
from ds4_mlx.text.errors import DSMLError, check_thinking_mode
from ds4_mlx.text.special import EOS, THINK_END
from ds4_mlx.text.stream import open_suffix


class CompletionEvent(NamedTuple):
    """A piece of the answer: `text` of its reasoning or content, or one whole `tool_call` {"name", "arguments"}."""

    kind: Literal["reasoning", "content", "tool_call"]
    text: str = ""
    tool_call: dict[str, str] | None = None


class CompletionStream:
    """Splits the text after the generation prompt into events (spec 15.6).

    In thinking mode the text begins inside the reasoning, which lasts until `</think>`; what looks like a tool block in
    there is reasoning. In the content, a block of tool calls is held back until it is complete and then gives one event
    per call. A block that is malformed or never finished is content, character by character as sampled. EOS is removed
    wherever it stands. Only the beginning of a possible marker is held back otherwise.

    The joined texts and the calls do not depend on how the completion was cut into pieces.
    """

    def __init__(self, thinking_mode: str) -> None:
        """Begin a completion; "thinking" if its prompt ended with `<think>`, "chat" if not. EncodingError otherwise."""
        check_thinking_mode(thinking_mode)
        self._kind: Literal["reasoning", "content"] = "reasoning" if thinking_mode == "thinking" else "content"
        self._held = ""  # text not yet read as reasoning or content
        self._block: ToolBlockReader | None = None  # while inside a tool block

    def feed(self, text: str) -> list[CompletionEvent]:
        """Take a piece of the completion, of any length; the events that became certain with it."""
        return list(self._events(text))

    def finish(self) -> list[CompletionEvent]:
        """The events left when nothing more is coming."""
        text, self._held = self._held, ""
        if self._block is not None:
            text = TOOLS_OPEN + self._block.read + self._block.rest
            self._block = None
        return list(self._text_event(text))

    def _events(self, text: str) -> Iterator[CompletionEvent]:
        while True:
            if self._block is None:
                yield from self._read_text(text)
                if self._block is None:
                    return
                text, self._held = self._held, ""
            yield from self._read_block(self._block, text)
            if self._block is not None:
                return
            text, self._held = self._held, ""

    def _read_text(self, text: str) -> Iterator[CompletionEvent]:
        """Read reasoning and content up to where a tool block begins, or as far as the text is certain."""
        text = self._held + text
        while True:
            markers = (THINK_END, EOS) if self._kind == "reasoning" else (TOOLS_OPEN, EOS)
            found = [(at, marker) for marker in markers if (at := text.find(marker)) >= 0]
            if not found:
                break
            at, marker = min(found)
            yield from self._text_event(text[:at])
            text = text[at + len(marker) :]
            if marker == THINK_END:
                self._kind = "content"
            elif marker == TOOLS_OPEN:
                self._block, self._held = ToolBlockReader(), text
                return
        certain = len(text) - open_suffix(text, markers)
        self._held = text[certain:]
        yield from self._text_event(text[:certain])

    def _read_block(self, block: ToolBlockReader, text: str) -> Iterator[CompletionEvent]:
        """Read on inside a tool block; what lies behind its end, or its first mistake, is held for `_read_text`."""
        try:
            if not block.feed(text):
                return
        except DSMLError:
            yield from self._text_event(TOOLS_OPEN + block.read)
        else:
            for call in block.calls:
                yield CompletionEvent("tool_call", tool_call=call)
        self._block, self._held = None, block.rest

    def _text_event(self, text: str) -> Iterator[CompletionEvent]:
        text = text.replace(EOS, "")
        if text:
            yield CompletionEvent(self._kind, text)
