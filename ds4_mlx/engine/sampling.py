"""From logits to the next token. Every draw has a key of its own: sessions side by side stay reproducible."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import mlx.core as mx

from ds4_mlx.errors import UserError

_GREEDY_BELOW = 1e-5


@dataclass(frozen=True)
class SamplingOptions:
    """How to choose tokens. The defaults are the model card's: temperature 1, nothing cut off.

    temperature 0 takes the most likely token, and so does anything below 1e-5, where float32 leaves no other. top_k
    0, top_p 1 and min_p 0 mean "off". seed None draws one at random.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises `UserError` for values outside their range."""
        checks = [
            (math.isfinite(self.temperature) and 0 <= self.temperature <= 100, "temperature", "from 0 to 100"),
            (0 < self.top_p <= 1, "top_p", "above 0 and at most 1"),
            (self.top_k >= 0, "top_k", "0 (off) or more"),
            (0 <= self.min_p <= 1, "min_p", "from 0 to 1"),
            (self.seed is None or 0 <= self.seed < 2**64, "seed", "from 0 to 2^64 - 1"),
        ]
        for holds, name, expected in checks:
            if not holds:
                raise UserError(f"{name} is {getattr(self, name)}; expected a value {expected}.")


class Sampler:
    """Draws tokens one after the other; the same options and seed give the same draws from the same logits."""

    def __init__(self, options: SamplingOptions) -> None:
        self.options = options
        self.seed = int.from_bytes(os.urandom(4), "little") if options.seed is None else options.seed
        self._key = mx.random.key(self.seed)

    def sample(self, logits: mx.array) -> int:
        """One token from float32 logits [vocab]. Raises `UserError` if the model did not give numbers."""
        if self.options.temperature < _GREEDY_BELOW:
            token = mx.argmax(logits)
        else:
            self._key, key = mx.random.split(self._key)
            token = mx.random.categorical(self.log_probabilities(logits), key=key)
        sound = mx.isfinite(mx.logsumexp(logits))
        mx.eval(token, sound)  # one wait for the device
        if not sound:
            raise UserError(
                "The model's output is not a number. Its weights are damaged: check a converted folder with "
                "`ds4-mlx verify`, download a released one again."
            )
        return int(token)

    def log_probabilities(self, logits: mx.array) -> mx.array:
        """The distribution that `sample` draws from (temperature > 0), in logs: temperature, top-k, top-p, min-p."""
        options = self.options
        logs = log_softmax(logits / options.temperature)[None]
        if options.top_k or options.top_p < 1 or options.min_p:
            # Costs a second to import, so only where a filter is asked for.
            from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p

            if 0 < options.top_k < logs.shape[-1]:
                logs = log_softmax(apply_top_k(logs, options.top_k))
            if options.top_p < 1:
                logs = log_softmax(apply_top_p(logs, options.top_p))
            if options.min_p:
                logs = apply_min_p(logs, options.min_p)
        return log_softmax(logs[0])


def log_softmax(logits: mx.array) -> mx.array:
    """Natural logs of the probabilities over the last axis."""
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)
