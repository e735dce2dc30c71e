"""What an engine has done and holds, for metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class EngineFigures:
    """Counts since the start, and what is there now (queued, prefilling, decoding, bytes)."""

    queued: int = 0
    prefilling: int = 0
    decoding: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    refused: int = 0  # because the queue was full
    prompt_tokens: int = 0  # of requests that left the queue, cached ones included
    cached_tokens: int = 0
    generated_tokens: int = 0
    prefill_seconds: float = 0.0  # of calls that read prompts, whatever else was in them
    decode_seconds: float = 0.0  # of the other calls
    calls: int = 0  # of the model
    saved: int = 0  # sessions
    cache_bytes: int = 0  # pages in use and kept states
    cache_budget: int = 0  # 0: no bound
    store_bytes: int = 0
    store_sessions: int = 0

    @property
    def running(self) -> int:
        """Requests that left the queue and are not done."""
        return self.prefilling + self.decoding
