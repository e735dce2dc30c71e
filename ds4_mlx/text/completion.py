"""A completion read as it is sampled: text in, reasoning, content and tool calls out.

The lenient twin of `parse_completion`: whatever that accepts gives the same parts here, and what it refuses comes out
as text. Knows nothing of tokens, stop strings or any API's events.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from ds4_mlx.text.errors import check_thinking_mode
from ds4_mlx.text.special import EOS, THINK_END
from ds4_mlx.text.stream import open_suffix
from ds4_mlx.text.tool_block import TOOLS_OPEN, CallPiece, ToolBlockReader


class CompletionPiece(NamedTuple):
    """A piece of the answer.

    kind:  "reasoning" and "content" carry `text`; "call_begin" carries the tool's name, "arguments" more of the JSON
           text of its arguments, "call_end" nothing
    call:  which call of this answer it is about, from 0
    """

    kind: Literal["reasoning", "content", "call_begin", "arguments", "call_end"]
    text: str = ""
    call: int = 0


_KINDS: dict[str, Literal["call_begin", "arguments", "call_end"]] = {
    "begin": "call_begin",
    "arguments": "arguments",
    "end": "call_end",
}


class CompletionReader:
    """Splits the text after the generation prompt into pieces (spec 15.6).

    In thinking mode the text begins inside the reasoning, which lasts until `</think>`; what looks like a tool block in
    there is reasoning. EOS is removed wherever it stands outside of a block. Of text that is neither, only the
    beginning of a possible marker is held back. The joined texts and the calls do not depend on how the completion was
    cut.

    What has been given out cannot be recalled, so there are two ways to read a block:

    - streaming=False: it is held back until it is complete and then gives the pieces of all its calls. A block that is
      malformed or never finished is content, character by character as sampled.
    - streaming=True, for answers whose blocks a constraint keeps well formed: its pieces come out as soon as they are
      known, the arguments while they are sampled. A call that is not finished when the completion is (the limit of
      tokens), or that becomes malformed, gets no "call_end" and its arguments stay incomplete: closed for it, they
      could be executed, and half a command is another command. What follows the mistake is content. A block in which
      no call had begun is content if malformed, nothing if cut off.

    calls_text:  the complete blocks exactly as sampled, each from the two newlines before it to its closing tag
    unfinished:  whether a call has begun and not ended
    """

    def __init__(self, thinking_mode: str, *, streaming: bool) -> None:
        """Begin a completion; "thinking" if its prompt ended with `<think>`, "chat" if not. EncodingError otherwise."""
        check_thinking_mode(thinking_mode)
        self.calls_text = ""
        self.unfinished = False
        self._kind: Literal["reasoning", "content"] = "reasoning" if thinking_mode == "thinking" else "content"
        self._streaming = streaming
        self._held = ""  # text not yet read as reasoning or content
        self._block: ToolBlockReader | None = None  # while inside a tool block
        self._block_pieces: list[CallPiece] = []  # of that block, where it is held back
        self._calls = 0  # begun so far
        self._calls_before = 0  # of those, how many in earlier blocks

    def feed(self, text: str) -> list[CompletionPiece]:
        """Take a piece of the completion, of any length; what became certain with it."""
        return list(self._pieces(text))

    def finish(self) -> list[CompletionPiece]:
        """What is left when nothing more is coming."""
        text, self._held = self._held, ""
        if self._block is not None:
            text = "" if self._streaming else TOOLS_OPEN + self._block.read + self._block.rest
            self._block, self._block_pieces = None, []
        return list(self._text_piece(text))

    def _pieces(self, text: str) -> Iterator[CompletionPiece]:
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

    def _read_text(self, text: str) -> Iterator[CompletionPiece]:
        """Read reasoning and content up to where a tool block begins, or as far as the text is certain."""
        text = self._held + text
        while True:
            markers = (THINK_END, EOS) if self._kind == "reasoning" else (TOOLS_OPEN, EOS)
            found = [(at, marker) for marker in markers if (at := text.find(marker)) >= 0]
            if not found:
                break
            at, marker = min(found)
            yield from self._text_piece(text[:at])
            text = text[at + len(marker) :]
            if marker == THINK_END:
                self._kind = "content"
            elif marker == TOOLS_OPEN:
                self._block, self._held = ToolBlockReader(), text
                self._calls_before = self._calls
                return
        certain = len(text) - open_suffix(text, markers)
        self._held = text[certain:]
        yield from self._text_piece(text[:certain])

    def _read_block(self, block: ToolBlockReader, text: str) -> Iterator[CompletionPiece]:
        """Read on inside a tool block; what lies behind its end, or its first mistake, is held for `_read_text`."""
        self._block_pieces += block.feed(text)
        if self._streaming or block.complete:
            yield from self._call_pieces()
        if block.complete:
            self.calls_text += TOOLS_OPEN + block.read
        elif block.error is None:
            return
        elif self._calls == self._calls_before:
            yield from self._text_piece(TOOLS_OPEN + block.read)
        self._block, self._block_pieces, self._held = None, [], block.rest

    def _call_pieces(self) -> Iterator[CompletionPiece]:
        for piece in self._block_pieces:
            if piece.kind == "begin":
                self._calls += 1
                self.unfinished = True
            elif piece.kind == "end":
                self.unfinished = False
            yield CompletionPiece(_KINDS[piece.kind], piece.text, self._calls - 1)
        self._block_pieces = []

    def _text_piece(self, text: str) -> Iterator[CompletionPiece]:
        text = text.replace(EOS, "")
        if text:
            yield CompletionPiece(self._kind, text)


class CompletionEvent(NamedTuple):
    """A piece of the answer: `text` of its reasoning or content, or one whole `tool_call` {"name", "arguments"}."""

    kind: Literal["reasoning", "content", "tool_call"]
    text: str = ""
    tool_call: dict[str, str] | None = None


class CompletionStream:
    """A `CompletionReader` that holds blocks back, for who wants calls whole: one event per call."""

    def __init__(self, thinking_mode: str) -> None:
        """Begin a completion; "thinking" if its prompt ended with `<think>`, "chat" if not. EncodingError otherwise."""
        self._reader = CompletionReader(thinking_mode, streaming=False)
        self._call = {"name": "", "arguments": ""}

    @property
    def calls_text(self) -> str:
        """The complete tool blocks exactly as sampled."""
        return self._reader.calls_text

    def feed(self, text: str) -> list[CompletionEvent]:
        """Take a piece of the completion, of any length; the events that became certain with it."""
        return list(self._events(self._reader.feed(text)))

    def finish(self) -> list[CompletionEvent]:
        """The events left when nothing more is coming."""
        return list(self._events(self._reader.finish()))

    def _events(self, pieces: list[CompletionPiece]) -> Iterator[CompletionEvent]:
        for piece in pieces:
            if piece.kind in ("reasoning", "content"):
                yield CompletionEvent(piece.kind, piece.text)
            elif piece.kind == "call_begin":
                self._call = {"name": piece.text, "arguments": ""}
            elif piece.kind == "arguments":
                self._call["arguments"] += piece.text
            else:
                yield CompletionEvent("tool_call", tool_call=self._call)
