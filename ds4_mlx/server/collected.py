"""An answer as it has come so far. Every API's final object is made of it, streaming or not."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field

from ds4_mlx.engine.request import CallArguments, CallBegin, CallEnd, Done, Failed, Piece, Progress, Text
from ds4_mlx.engine.stats import Stats, Token


@dataclass
class Call:
    """A tool call. `id` is what the client knows it by; `done` once its arguments are complete."""

    id: str
    name: str
    done: bool = False
    parts: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        """JSON text."""
        return "".join(self.parts) or ("{}" if self.done else "")


class Collected:
    """One answer, piece by piece.

    progress: the last one; None while the request waits. stats: the engine's, once it is done. content_tokens and
    reasoning_tokens: what was sampled for either. calls_text: see `Done`. first_at: when the first token came, by
    `time.perf_counter`.
    """

    def __init__(self, call_prefix: str, asked_tokens: int) -> None:
        """call_prefix: what ids of calls begin with. asked_tokens: the length of the prompt."""
        self._call_prefix = call_prefix
        self._asked_tokens = asked_tokens
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self.calls: dict[int, Call] = {}
        self.content_tokens: list[Token] = []
        self.reasoning_tokens: list[Token] = []
        self.progress: Progress | None = None
        self.stats: Stats | None = None
        self.stop: str | None = None
        self.calls_text = ""
        self.failed: str | None = None
        self.first_at: float | None = None

    @property
    def content(self) -> str:
        """The answer's text."""
        return "".join(self._content)

    @property
    def reasoning(self) -> str:
        """What was thought before it."""
        return "".join(self._reasoning)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return self._asked_tokens if self.stats is None else self.stats.prompt_tokens

    @property
    def cached_tokens(self) -> int:
        """Those of the prompt that were in memory or on disk."""
        if self.stats is not None:
            return self.stats.cached_tokens
        return self.progress.cached if self.progress is not None else 0

    @property
    def generated_tokens(self) -> int:
        """Tokens sampled, reasoning and calls included."""
        return self.stats.generated_tokens if self.stats is not None else 0

    def add(self, piece: Piece) -> None:
        """Takes the next piece."""
        if self.first_at is None and isinstance(piece, (Text, CallBegin)):
            self.first_at = time.perf_counter()
        if isinstance(piece, Text):
            if piece.kind == "content":
                self._content.append(piece.text)
                self.content_tokens.extend(piece.tokens)
            else:
                self._reasoning.append(piece.text)
                self.reasoning_tokens.extend(piece.tokens)
        elif isinstance(piece, Progress):
            self.progress = piece
        elif isinstance(piece, CallBegin):
            self.calls[piece.index] = Call(self._call_prefix + secrets.token_hex(12), piece.name)
        elif isinstance(piece, CallArguments):
            self.calls[piece.index].parts.append(piece.text)
        elif isinstance(piece, CallEnd):
            self.calls[piece.index].done = True
        elif isinstance(piece, Done):
            self.stats, self.stop, self.calls_text = piece.stats, piece.stop, piece.calls_text
        elif isinstance(piece, Failed):
            self.failed = piece.message
