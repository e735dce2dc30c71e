"""What is served: the model as its front ends see it, under which names, with which options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from ds4_mlx.cache.store import SessionStore
from ds4_mlx.engine.request import Constraint
from ds4_mlx.text import Tokenizer

NAME, CHAT, REASONER = "deepseek-v4-flash", "deepseek-chat", "deepseek-reasoner"
DEFAULT_BODY_LIMIT = 64 << 20


class Constrain(Protocol):
    """`ds4_mlx.engine.constraints.build_constraint`. Raises `UserError` for a schema that cannot be kept to."""

    def __call__(
        self,
        tokenizer: Tokenizer,
        *,
        tools: list[dict[str, Any]],
        tool_choice: Any,
        parallel: bool,
        response_format: dict[str, Any] | None,
        thinking: bool,
        vocab_size: int,
    ) -> Constraint | None:
        """The grammar of one answer; None when anything may be sampled."""


class Replay(Protocol):
    """`ds4_mlx.engine.replay.ReplayBook`: calls go back into prompts byte for byte as they were sampled."""

    def remember(self, ids: Sequence[str], calls_text: str, reasoning: str = "") -> None:
        """Keeps what was sampled for the calls that clients know by these ids."""

    def attach(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The messages, those with calls we know with the text they were sampled as."""


@dataclass(frozen=True)
class ServedModel:
    """A model as the server sees it.

    profile: its prompt encoding (spec 15.7). context: tokens of prompt and answer together. vocab_size: the width of
    its logits. constrain and replay: None where tests do without.
    """

    tokenizer: Tokenizer
    profile: Literal["april", "0731"]
    context: int
    vocab_size: int
    constrain: Constrain | None = None
    replay: Replay | None = None


@dataclass(frozen=True)
class ServerOptions:
    """How to serve.

    aliases: further names, each for one of ours. api_key: None lets everybody in but web pages whose origin `cors` does
    not name. local: whether only this machine can reach the server. heartbeat: seconds of silence after which a client
    is told that its request lives. body_limit: bytes of a request. responses: where /v1/responses keeps what it is
    asked to store; None keeps it in memory. sessions: what GET /sessions lists, a store of its own on the engine's
    folder, as its requests come on other threads. trace: a file for requests and answers. stats: the engine's figures
    by name, for /health and /metrics.
    """

    aliases: dict[str, str] = field(default_factory=dict)
    api_key: str | None = None
    local: bool = False
    cors: tuple[str, ...] = ()
    heartbeat: float = 10.0
    body_limit: int = DEFAULT_BODY_LIMIT
    responses: Path | None = None
    sessions: SessionStore | None = None
    trace: Path | None = None
    stats: Callable[[], dict[str, float]] | None = None

    def names(self) -> list[str]:
        """The names in GET /v1/models."""
        return list(dict.fromkeys([NAME, CHAT, REASONER, *self.aliases]))

    def canonical(self, asked: str) -> str:
        """Which of our names a request means. Any name is accepted: Claude Code and Codex ask for their makers' models
        unless told otherwise, and end the session at a 404.
        """
        name = self.aliases.get(asked, asked)
        return name if name in (CHAT, REASONER) else NAME
