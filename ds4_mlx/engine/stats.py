"""A sampled token, and the counts and seconds of one answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

FinishReason = Literal["stop", "tool_calls", "length", "context"]


@dataclass(frozen=True)
class Token:
    """One sampled token. Logprobs are natural logs under the model's own distribution (temperature 1, nothing cut)."""

    id: int
    data: bytes
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()  # the most likely tokens, (id, logprob), best first

    @classmethod
    def of(cls, token_id: int, data: bytes, logs: np.ndarray | None, top: int) -> Token:
        """With its logprob and the `top` best out of `logs`, the log probabilities of all tokens [vocab], if given."""
        if logs is None:
            return cls(token_id, data)
        best = np.argpartition(-logs, top - 1)[:top] if 0 < top < len(logs) else np.arange(len(logs) if top else 0)
        best = best[np.lexsort((best, -logs[best]))]
        return cls(token_id, data, float(logs[token_id]), tuple((int(i), float(logs[i])) for i in best))


@dataclass
class Stats:
    """Counts and seconds of one generation."""

    prompt_tokens: int = 0
    cached_tokens: int = 0  # of those, how many were in the cache
    generated_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    peak_memory_bytes: int = 0
    seed: int = 0
    finish_reason: FinishReason | None = None

    def limit_reached(self, max_tokens: int | None, context: int, *, more: int = 0) -> FinishReason | None:
        """Why no further token may follow once there are `more`: as many as were asked for, or as prompt and answer
        have room for.
        """
        generated = self.generated_tokens + more
        if generated == max_tokens:
            return "length"
        return "context" if self.prompt_tokens + generated >= context else None

    @property
    def prefill_tps(self) -> float:
        """Prompt tokens computed per second."""
        return (self.prompt_tokens - self.cached_tokens) / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_tps(self) -> float:
        """Generated tokens per second, the first excluded: it comes with the prefill."""
        return (self.generated_tokens - 1) / self.decode_seconds if self.decode_seconds else 0.0
