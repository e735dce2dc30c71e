"""A chat completion's answer: chunks of a stream, or one object."""

from __future__ import annotations

import time
from typing import Any

from ds4_mlx.engine.request import CallArguments, CallBegin, Done, Piece, Progress, Text
from ds4_mlx.server.chat import ChatRequest
from ds4_mlx.server.collected import Collected
from ds4_mlx.server.errors import ApiError
from ds4_mlx.server.logprobs import chat_logprobs
from ds4_mlx.server.streaming import data_event
from ds4_mlx.text import Tokenizer

FINISH_REASONS = {"stop": "stop", "tool_calls": "tool_calls", "length": "length", "context": "length"}


class ChatEvents:
    """Writes `chat.completion.chunk`s. Every choice gets its role first and a finish_reason last: without one, opencode
    asks again for ever.
    """

    def __init__(self, body: ChatRequest, answers: list[Collected], request_id: str, tokenizer: Tokenizer) -> None:
        self._answers = answers
        self._tokenizer = tokenizer
        self._logprobs = bool(body.logprobs)
        options = body.stream_options
        self._usage = bool(options and options.include_usage)
        self._progress = bool(options and options.include_progress)
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{request_id}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": body.model,
        }

    def begin(self) -> str:
        """The role."""
        role = {"role": "assistant", "content": ""}
        return "".join(self._chunk(choice, role) for choice in range(len(self._answers)))

    def feed(self, choice: int, piece: Piece) -> str:
        """A piece as a chunk."""
        self._answers[choice].add(piece)
        if isinstance(piece, Text):
            name = "content" if piece.kind == "content" else "reasoning_content"
            logprobs = chat_logprobs(piece.tokens, self._tokenizer, name) if self._logprobs else None
            return self._chunk(choice, {name: piece.text}, logprobs=logprobs)
        if isinstance(piece, CallBegin):
            call = self._answers[choice].calls[piece.index]
            function = {"name": call.name, "arguments": ""}
            return self._call(choice, {"index": piece.index, "id": call.id, "type": "function", "function": function})
        if isinstance(piece, CallArguments):
            return self._call(choice, {"index": piece.index, "function": {"arguments": piece.text}})
        if isinstance(piece, Done):
            return self._chunk(choice, {}, finish=self._finish_reason(choice))
        if isinstance(piece, Progress) and self._progress:
            return self._beat(choice)
        return ""

    def beat(self) -> str:
        """A chunk with an empty delta, and a comment: clients differ in which of them they count."""
        return ": still working\n\n" + self._beat(0)

    def end(self) -> str:
        """The usage, if it was asked for, and the end."""
        usage = data_event({**self._head, "choices": [], "usage": usage_of(self._answers)}) if self._usage else ""
        return usage + "data: [DONE]\n\n"

    def fail(self, error: ApiError) -> str:
        """A chunk with an error."""
        return data_event(error.body("openai"))

    def result(self) -> dict[str, Any]:
        """The chat.completion."""
        choices = [self._choice(choice) for choice in range(len(self._answers))]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage_of(self._answers)}

    def _choice(self, choice: int) -> dict[str, Any]:
        answer = self._answers[choice]
        message: dict[str, Any] = {"role": "assistant", "content": answer.content or (None if answer.calls else "")}
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        if answer.calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in answer.calls.values()
            ]
        logprobs = None
        if self._logprobs:
            logprobs = {
                **chat_logprobs(answer.content_tokens, self._tokenizer, "content"),
                **chat_logprobs(answer.reasoning_tokens, self._tokenizer, "reasoning_content"),
            }
        return {
            "index": choice,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": self._finish_reason(choice),
        }

    def _finish_reason(self, choice: int) -> str:
        answer = self._answers[choice]
        reason = FINISH_REASONS[(answer.stats and answer.stats.finish_reason) or "stop"]
        return "tool_calls" if answer.calls and reason == "stop" else reason

    def _beat(self, choice: int) -> str:
        progress = self._answers[choice].progress
        if progress is None:
            return self._chunk(choice, {})
        done = {"done": progress.done, "total": progress.total, "cached": progress.cached}
        return self._chunk(choice, {}, extra={"progress": done})

    def _call(self, choice: int, call: dict[str, Any]) -> str:
        return self._chunk(choice, {"tool_calls": [call]})

    def _chunk(
        self,
        choice: int,
        delta: dict[str, Any],
        *,
        finish: str | None = None,
        logprobs: dict[str, Any] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> str:
        one = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return data_event({**self._head, "choices": [one], **(extra or {})})


def usage_of(answers: list[Collected]) -> dict[str, Any]:
    """OpenAI's usage, with DeepSeek's names for cached tokens beside OpenAI's. The prompt counts once."""
    prompt, cached = answers[0].prompt_tokens, answers[0].cached_tokens
    completion = sum(answer.generated_tokens for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": sum(len(answer.reasoning_tokens) for answer in answers)},
        "prompt_cache_hit_tokens": cached,
        "prompt_cache_miss_tokens": prompt - cached,
    }
