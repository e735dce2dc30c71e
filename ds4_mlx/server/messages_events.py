"""A message's answer in Anthropic's events, or one object.

Blocks come one at a time: thinking, text, a tool_use for each call. A heartbeat is an empty delta of the block that is
open, because Claude Code gives up after 300 s in which it got nothing but pings.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from ds4_mlx.engine.request import CallArguments, CallBegin, CallEnd, Done, Piece, Progress, Text
from ds4_mlx.server.collected import Collected
from ds4_mlx.server.errors import ApiError
from ds4_mlx.server.streaming import named_event

_STOP_REASONS = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens", "context": "max_tokens"}
_DELTAS = {
    "thinking": ("thinking_delta", "thinking"),
    "text": ("text_delta", "text"),
    "tool_use": ("input_json_delta", "partial_json"),
}
# Clients keep it and send it back; nothing is signed, and nothing is checked.
SIGNATURE = "ds4-mlx"

BlockKind = Literal["thinking", "text", "tool_use"]


class MessagesEvents:
    """Writes the events of one message.

    `message_start` carries the counts that Claude Code believes, so it waits until the engine knows how much of the
    prompt is cached, or for the first heartbeat.
    """

    def __init__(self, model: str, answer: Collected, request_id: str, *, thinking: bool) -> None:
        self._model = model
        self._answer = answer
        self._id = f"msg_{request_id}"
        self._thinking = thinking
        self._begun = False
        self._index = -1  # of the block that is open, or was last
        self._open: BlockKind | None = None

    def begin(self) -> str:
        """Nothing yet."""
        return ""

    def feed(self, choice: int, piece: Piece) -> str:
        """A piece as events."""
        self._answer.add(piece)
        text = self._start()
        if isinstance(piece, Text):
            text += self._enter("thinking" if piece.kind == "reasoning" else "text")
            return text + self._delta(piece.text)
        if isinstance(piece, CallBegin):
            call = self._answer.calls[piece.index]
            return text + self._enter("tool_use", id=call.id, name=call.name, input={})
        if isinstance(piece, CallArguments):
            return text + self._delta(piece.text)
        if isinstance(piece, (CallEnd, Done)):
            return text + self._leave()
        return text

    def beat(self) -> str:
        """A ping, which carries the progress, and an empty delta."""
        text = self._start()
        if self._open is None:
            text += self._enter("thinking" if self._thinking and self._index < 0 else "text")
        return text + _ping(self._answer.progress) + self._delta("")

    def end(self) -> str:
        """Why it ended, and the counts."""
        delta = {"stop_reason": stop_reason(self._answer), "stop_sequence": self._answer.stop}
        event = {"type": "message_delta", "delta": delta, "usage": usage_of(self._answer)}
        return named_event("message_delta", event) + named_event("message_stop", {"type": "message_stop"})

    def fail(self, error: ApiError) -> str:
        """An error event."""
        return named_event("error", error.body("anthropic"))

    def result(self) -> dict[str, Any]:
        """The message."""
        answer = self._answer
        content: list[dict[str, Any]] = []
        if answer.reasoning:
            content.append({"type": "thinking", "thinking": answer.reasoning, "signature": SIGNATURE})
        if answer.content or not answer.calls:
            content.append({"type": "text", "text": answer.content})
        content += [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": _object(call.arguments)}
            for call in answer.calls.values()
        ]
        return {**self._message(), "content": content, "stop_reason": stop_reason(answer), "stop_sequence": answer.stop}

    def _message(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_of(self._answer),
        }

    def _start(self) -> str:
        if self._begun:
            return ""
        self._begun = True
        return named_event("message_start", {"type": "message_start", "message": self._message()}) + _ping(None)

    def _enter(self, kind: BlockKind, **fields: Any) -> str:
        """Opens a block of this kind, unless one is open that goes on."""
        if self._open == kind and kind != "tool_use":
            return ""
        text = self._leave()
        self._open = kind
        self._index += 1
        fields = {"thinking": {"thinking": "", "signature": ""}, "text": {"text": ""}}.get(kind, fields)
        block = {"type": kind, **fields}
        event = {"type": "content_block_start", "index": self._index, "content_block": block}
        return text + named_event("content_block_start", event)

    def _leave(self) -> str:
        if self._open is None:
            return ""
        text = ""
        if self._open == "thinking":
            text = self._block_delta({"type": "signature_delta", "signature": SIGNATURE})
        self._open = None
        stop = {"type": "content_block_stop", "index": self._index}
        return text + named_event("content_block_stop", stop)

    def _delta(self, text: str) -> str:
        assert self._open is not None
        kind, name = _DELTAS[self._open]
        return self._block_delta({"type": kind, name: text})

    def _block_delta(self, delta: dict[str, Any]) -> str:
        event = {"type": "content_block_delta", "index": self._index, "delta": delta}
        return named_event("content_block_delta", event)


def _ping(progress: Progress | None) -> str:
    event: dict[str, Any] = {"type": "ping"}
    if progress is not None:
        event["progress"] = {"done": progress.done, "total": progress.total, "cached": progress.cached}
    return named_event("ping", event)


def stop_reason(answer: Collected) -> str:
    """Anthropic's word for why the answer ended."""
    if answer.stop is not None:
        return "stop_sequence"
    reason = _STOP_REASONS[(answer.stats and answer.stats.finish_reason) or "stop"]
    return "tool_use" if answer.calls and reason == "end_turn" else reason


def usage_of(answer: Collected) -> dict[str, Any]:
    """Anthropic's usage: input_tokens are those that were not cached."""
    return {
        "input_tokens": answer.prompt_tokens - answer.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": answer.cached_tokens,
        "output_tokens": answer.generated_tokens,
    }


def _object(arguments: str) -> Any:
    """A call's arguments. Those that the limit cut off are no JSON; the client sees them as they are."""
    try:
        return json.loads(arguments)
    except ValueError:
        return {"arguments": arguments}
