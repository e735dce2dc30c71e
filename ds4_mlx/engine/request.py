"""What a front end asks of an engine, and the pieces of the answer that come back.

The scheduler answers from the model; the tests' scripted engine answers from a list. Both keep to this page, and so do
all four APIs of the server.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from ds4_mlx.engine.sampling import SamplingOptions
from ds4_mlx.engine.stats import Stats, Token


class Constraint(Protocol):
    """Which tokens may come next, by a grammar; one object per answer, made by `engine.constraints`."""

    def mask(self) -> np.ndarray | None:
        """Allowed tokens as bits, uint32 [ceil(vocab / 32)], lowest bit first; None when all are."""

    def greedy(self) -> bool:
        """Whether this position is structure: the likeliest allowed token is taken, whatever the temperature."""

    def accept(self, token_id: int) -> None:
        """Tells what was sampled."""


@dataclass(frozen=True)
class Keeping:
    """What is kept with the session when the answer is complete: the conversation before the answer, in the form of
    `encode_messages`, and how it was held.
    """

    messages: list[dict[str, Any]]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """One answer to be made.

    prompt: token ids. thinking: whether the prompt ends inside `<think>`. raw: a plain continuation, all of it content.
    max_tokens None: until the context is full. stop strings end the content, not the reasoning. top_logprobs: how many
    alternatives each token carries; None for no logprobs at all.
    """

    prompt: list[int]
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    raw: bool = False
    thinking: bool = False
    constraint: Constraint | None = None
    keeping: Keeping | None = None


@dataclass(frozen=True)
class Progress:
    """The prompt is being read: `done` of `total` tokens, of which `cached` were in memory or on disk.

    The first one comes when the request leaves the queue.
    """

    done: int
    total: int
    cached: int


@dataclass(frozen=True)
class Text:
    """More of the reasoning or of the content. `tokens` are those sampled since the piece before."""

    kind: Literal["reasoning", "content"]
    text: str
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class CallBegin:
    """A tool call begins: number `index` of this answer, to the tool `name`."""

    index: int
    name: str
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class CallArguments:
    """More of the JSON text of a call's arguments. The pieces of one call joined are an object."""

    index: int
    text: str
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class CallEnd:
    """A tool call is complete."""

    index: int
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class Done:
    """The last piece of an answer. `stats.finish_reason` says why it ended; `stop` which stop string it was.

    calls_text: the tool calls exactly as sampled, from the two newlines before the block to its closing tag; a later
    prompt that holds this text, and not one rendered anew, is the same token for token. "" without calls.
    """

    stats: Stats
    stop: str | None = None
    calls_text: str = ""
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class Failed:
    """The last piece when no answer could be made or finished: a sentence for the user."""

    message: str


Piece = Progress | Text | CallBegin | CallArguments | CallEnd | Done | Failed


class QueueFullError(Exception):
    """The engine has as many requests waiting as it accepts. retry_after: seconds after which to try again."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"The queue is full; try again in {retry_after} s.")
        self.retry_after = retry_after


class Ticket(Protocol):
    """A request on its way."""

    def cancel(self) -> None:
        """The client is gone: the work stops within one chunk or token, and no more pieces come. May be called from
        any thread, at any time, more than once.
        """


class Engine(Protocol):
    """Makes answers, several at a time. The one thread of an engine owns the model and the GPU."""

    def submit(self, request: Request, deliver: Callable[[Piece], None]) -> Ticket:
        """Takes a request. `deliver` gets the pieces in order, on the engine's thread: it must be quick and not raise.

        Raises `QueueFullError`, and `UserError` for a request that can never be answered (a prompt that leaves no room
        in the context).
        """
