"""From logits to the next token. Every draw has a key of its own: sessions side by side stay reproducible."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from ds4_mlx.errors import UserError

if TYPE_CHECKING:
    from ds4_mlx.engine.request import Constraint

_GREEDY_BELOW = 1e-5


@dataclass(frozen=True)
class SamplingOptions:
    """How to choose tokens. The defaults are the model card's: temperature 1, nothing cut off.

    temperature 0 takes the most likely token, and so does anything below 1e-5, where float32 leaves no other. top_k
    0, top_p 1 and min_p 0 mean "off". seed None draws one at random. presence_penalty is taken from the logit of every
    token that was generated before, frequency_penalty once for each time it was; logit_bias (token id -> value) is
    added (OpenAI's definitions).
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
            (-2 <= self.presence_penalty <= 2, "presence_penalty", "from -2 to 2"),
            (-2 <= self.frequency_penalty <= 2, "frequency_penalty", "from -2 to 2"),
        ]
        for holds, name, expected in checks:
            if not holds:
                raise UserError(f"{name} is {getattr(self, name)}; expected a value {expected}.")
        for token_id, bias in self.logit_bias.items():
            if token_id < 0 or not -100 <= bias <= 100:
                raise UserError(
                    f"logit_bias has {bias} for token {token_id}; expected token ids with values from -100 to 100."
                )

    def check_vocabulary(self, size: int) -> None:
        """Raises `UserError` for a bias on a token that is not there."""
        beyond = [token_id for token_id in self.logit_bias if token_id >= size]
        if beyond:
            raise UserError(f"logit_bias names token {beyond[0]}, outside the vocabulary (0 to {size - 1}).")


class Draw:
    """A token that is being drawn: arrays to be evaluated, those of several draws with one wait for the device."""

    def __init__(self, token: mx.array, sound: mx.array) -> None:
        self._token, self._sound = token, sound

    def arrays(self) -> list[mx.array]:
        """What must be evaluated before `result`."""
        return [self._token, self._sound]

    @property
    def token(self) -> mx.array:
        """int [], perhaps not evaluated yet."""
        return self._token

    def result(self) -> int:
        """The token. Raises `UserError` if the model did not give numbers."""
        if not self._sound:
            raise UserError(
                "The model's output is not a number. Its weights are damaged: check a converted folder with "
                "`ds4-mlx verify`, download a released one again."
            )
        return int(self._token)


class Sampler:
    """Draws tokens one after the other; the same options and seed give the same draws from the same logits."""

    def __init__(self, options: SamplingOptions) -> None:
        self.options = options
        self.seed = int.from_bytes(os.urandom(4), "little") if options.seed is None else options.seed
        self._key = mx.random.key(self.seed)
        self._generated: Counter[int] = Counter()

    def sample(self, logits: mx.array) -> int:
        """One token from float32 logits [vocab]. Raises `UserError` if the model did not give numbers."""
        draw = self.draw(logits)
        mx.eval(*draw.arrays())  # one wait for the device
        token = draw.result()
        self.accept(token)
        return token

    def draw(self, logits: mx.array, constraint: Constraint | None = None) -> Draw:
        """The same, not evaluated; what comes of it is told with `accept` before the next draw.

        A constraint's mask comes before everything else. Where it wants structure, the likeliest token it allows is
        taken: neither temperature nor penalties have a say. Raises `UserError` if it allows none.
        """
        sound = mx.isfinite(mx.logsumexp(logits))
        mask = None if constraint is None else constraint.mask()
        if mask is not None:
            logits = mx.where(allowed(mask, logits.shape[-1]), logits, -mx.inf)
        logits = self._biased(logits)
        if constraint is not None and constraint.greedy():
            return Draw(mx.argmax(logits), sound)
        logits = self._penalised(logits)
        if self.options.temperature < _GREEDY_BELOW:
            return Draw(mx.argmax(logits), sound)
        self._key, key = mx.random.split(self._key)
        return Draw(mx.random.categorical(self.log_probabilities(logits), key=key), sound)

    @property
    def looks_back(self) -> bool:
        """Whether a draw depends on the tokens before it, so that `accept` must be called in between."""
        return bool(self.options.presence_penalty or self.options.frequency_penalty)

    def accept(self, token_id: int) -> None:
        """Notes that the token was generated."""
        self._generated[token_id] += 1

    def _biased(self, logits: mx.array) -> mx.array:
        bias = self.options.logit_bias
        return logits.at[mx.array(list(bias))].add(mx.array(list(bias.values()))) if bias else logits

    def _penalised(self, logits: mx.array) -> mx.array:
        presence, frequency = self.options.presence_penalty, self.options.frequency_penalty
        if not self._generated or not (presence or frequency):
            return logits
        penalties = [presence + frequency * count for count in self._generated.values()]
        return logits.at[mx.array(list(self._generated))].subtract(mx.array(penalties))

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


def allowed(mask: np.ndarray, vocab: int) -> mx.array:
    """Bits as booleans: uint32 [ceil(n / 32)], lowest bit first -> bool [vocab]. Tokens from n on are not allowed.

    Raises `UserError` if no token is: a grammar that cannot be continued.
    """
    if not mask.any():
        raise UserError("The grammar of the answer allows no token here. Its schema or tools cannot be satisfied.")
    bits = (mx.array(mask.astype(np.uint32))[:, None] >> mx.arange(32, dtype=mx.uint32)) & 1
    flat = bits.flatten()[:vocab] == 1
    return mx.pad(flat, (0, vocab - flat.shape[0])) if flat.shape[0] < vocab else flat
