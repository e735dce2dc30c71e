"""An answer as it is sampled: token ids in, the pieces of `engine.request` out.

The one place where tokens become reasoning, content and tool calls, for the command line and all APIs alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from ds4_mlx.engine.request import CallArguments, CallBegin, CallEnd, Done, Piece, Text
from ds4_mlx.engine.stats import FinishReason, Stats, Token
from ds4_mlx.text import CompletionPiece, CompletionReader, StopMatcher, TextStream

if TYPE_CHECKING:
    from ds4_mlx.engine.language_model import LanguageModel

_Made = Text | CallBegin | CallArguments | CallEnd


@dataclass
class Answer:
    """Reads the tokens of one answer.

    raw: a plain continuation, all of it content. thinking: whether it begins inside the reasoning. stop: strings that
    end the content and are not part of it. streaming: whether calls come out while they are sampled, for answers that a
    constraint keeps well formed, or each when it is complete (see `CompletionReader`).
    """

    model: LanguageModel
    raw: bool = False
    thinking: bool = False
    stop: Sequence[str] = ()
    streaming: bool = False
    reasoning: str = field(default="", init=False)
    content: str = field(default="", init=False)
    calls: list[dict[str, str]] = field(default_factory=list, init=False)  # complete ones: {"name", "arguments": JSON}

    def __post_init__(self) -> None:
        """Raises `UserError` for an empty stop string."""
        self._eos = {self.model.config.eos_token_id, self.model.tokenizer.eos_id}
        self._text = TextStream(self.model.tokenizer)
        mode = "thinking" if self.thinking else "chat"
        self._reader = None if self.raw else CompletionReader(mode, streaming=self.streaming)
        self._call = {"name": "", "arguments": ""}  # the one being sampled
        self._stop = StopMatcher(list(self.stop))
        self._pieces: list[_Made] = []
        self._tokens: list[Token] = []  # since the last piece

    def feed(self, token: Token) -> FinishReason | None:
        """Takes a token; says whether it ends the answer."""
        self._tokens.append(token)
        if token.id in self._eos:
            return "stop"
        self._split(self._text.feed(token.id))
        return "stop" if self._stopped else None

    def take(self) -> list[Piece]:
        """The pieces since the last call; the first of them has the tokens."""
        pieces, self._pieces = self._pieces, []
        if pieces:
            pieces[0], self._tokens = replace(pieces[0], tokens=tuple(self._tokens)), []
        return list(pieces)

    def finish(self) -> list[Piece]:
        """What was held back, once no token follows."""
        if not self._stopped:
            self._split(self._text.finish())
        if not self._stopped and self._reader is not None:
            self._add(self._reader.finish())
        if not self._stopped:
            self._put("content", self._stop.finish())
        return self.take()

    def done(self, stats: Stats) -> Done:
        """The last piece. `stats.finish_reason` becomes "tool_calls" where there are some."""
        if self.calls and stats.finish_reason == "stop":
            stats.finish_reason = "tool_calls"
        return Done(replace(stats), self._stop.found, self.calls_text, tuple(self._tokens))

    @property
    def calls_text(self) -> str:
        """The tool calls exactly as sampled, from the two newlines before the block to its closing tag."""
        return self._reader.calls_text if self._reader is not None else ""

    def message(self) -> dict[str, Any]:
        """The answer so far as a message of the conversation."""
        message = {"role": "assistant", "content": self.content, "reasoning_content": self.reasoning}
        if not self.calls:
            return message
        calls = [{"type": "function", "function": dict(call)} for call in self.calls]
        return {**message, "tool_calls": calls, "calls_text": self.calls_text}

    @property
    def _stopped(self) -> bool:
        return self._stop.found is not None

    def _split(self, text: str) -> None:
        if self._reader is None:
            self._add([CompletionPiece("content", text)])
        else:
            self._add(self._reader.feed(text))

    def _add(self, pieces: list[CompletionPiece]) -> None:
        for piece in pieces:
            if self._stopped:
                return
            if piece.kind == "reasoning":
                self._put("reasoning", piece.text)
            elif piece.kind == "content":
                self._put("content", self._stop.feed(piece.text)[0])
            else:
                self._add_to_call(piece)

    def _add_to_call(self, piece: CompletionPiece) -> None:
        if piece.kind == "call_begin":
            self._put("content", self._stop.finish())  # text held back before a call comes before it
            self._call = {"name": piece.text, "arguments": ""}
            self._pieces.append(CallBegin(piece.call, piece.text))
        elif piece.kind == "arguments":
            self._call["arguments"] += piece.text
            self._pieces.append(CallArguments(piece.call, piece.text))
        else:
            self.calls.append(self._call)
            self._pieces.append(CallEnd(piece.call))

    def _put(self, kind: Literal["reasoning", "content"], text: str) -> None:
        if not text:
            return
        if kind == "content":
            self.content += text
        else:
            self.reasoning += text
        self._pieces.append(Text(kind, text))
