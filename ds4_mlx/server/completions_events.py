"""A completion's answers: chunks of a stream, or one object."""

from __future__ import annotations

import time
from typing import Any

from ds4_mlx.engine.request import Done, Piece, Text
from ds4_mlx.server.chat_events import FINISH_REASONS
from ds4_mlx.server.collected import Collected
from ds4_mlx.server.completions import CompletionRequest
from ds4_mlx.server.errors import ApiError
from ds4_mlx.server.logprobs import completion_logprobs
from ds4_mlx.server.streaming import data_event
from ds4_mlx.text import Tokenizer


class CompletionEvents:
    """Writes `text_completion`s. Answer i is number i % n to prompt i // n."""

    def __init__(
        self, body: CompletionRequest, answers: list[Collected], request_id: str, tokenizer: Tokenizer
    ) -> None:
        self._answers = answers
        self._tokenizer = tokenizer
        self._n = body.n or 1
        self._logprobs = body.logprobs is not None
        self._echo = [self._text(prompt) if body.echo else "" for prompt in body.prompts()]
        self._written = [0] * len(answers)  # characters
        self._usage = bool(body.stream_options and body.stream_options.include_usage)
        self._head: dict[str, Any] = {
            "id": f"cmpl-{request_id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": body.model,
        }

    def begin(self) -> str:
        """The prompts, where they are to be echoed."""
        echoes = [self._echo[choice // self._n] for choice in range(len(self._answers))]
        return "".join(self._chunk(choice, text) for choice, text in enumerate(echoes) if text)

    def feed(self, choice: int, piece: Piece) -> str:
        """A piece as a chunk."""
        self._answers[choice].add(piece)
        if isinstance(piece, Text):
            logprobs = None
            if self._logprobs:
                logprobs = completion_logprobs(piece.tokens, self._tokenizer, self._written[choice])
            self._written[choice] += len(piece.text)
            return self._chunk(choice, piece.text, logprobs=logprobs)
        if isinstance(piece, Done):
            return self._chunk(choice, "", finish=self._finish_reason(choice))
        return ""

    def beat(self) -> str:
        """An empty chunk, and a comment."""
        return ": still working\n\n" + self._chunk(0, "")

    def end(self) -> str:
        """The usage, if it was asked for, and the end."""
        usage = data_event({**self._head, "choices": [], "usage": self._counts()}) if self._usage else ""
        return usage + "data: [DONE]\n\n"

    def fail(self, error: ApiError) -> str:
        """A chunk with an error."""
        return data_event(error.body("openai"))

    def result(self) -> dict[str, Any]:
        """The text_completion."""
        choices = []
        for choice, answer in enumerate(self._answers):
            logprobs = None
            if self._logprobs:
                logprobs = completion_logprobs(answer.content_tokens, self._tokenizer, 0)
            choices.append(
                {
                    "index": choice,
                    "text": self._echo[choice // self._n] + answer.content,
                    "logprobs": logprobs,
                    "finish_reason": self._finish_reason(choice),
                }
            )
        return {**self._head, "choices": choices, "usage": self._counts()}

    def _counts(self) -> dict[str, Any]:
        """A prompt counts once, however many answers it has."""
        firsts = self._answers[:: self._n]
        prompt = sum(answer.prompt_tokens for answer in firsts)
        completion = sum(answer.generated_tokens for answer in self._answers)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": sum(answer.cached_tokens for answer in firsts)},
        }

    def _text(self, prompt: str | list[int]) -> str:
        return prompt if isinstance(prompt, str) else self._tokenizer.decode(prompt)

    def _finish_reason(self, choice: int) -> str:
        stats = self._answers[choice].stats
        return FINISH_REASONS[(stats and stats.finish_reason) or "stop"]

    def _chunk(
        self, choice: int, text: str, *, finish: str | None = None, logprobs: dict[str, Any] | None = None
    ) -> str:
        one = {"index": choice, "text": text, "logprobs": logprobs, "finish_reason": finish}
        return data_event({**self._head, "choices": [one]})
