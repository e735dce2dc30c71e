"""Losses of a model on a text, a block of rows at a time: memory does not grow with the text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ds4_mlx.engine.language_model import LanguageModel
from ds4_mlx.evaluation.texts import Text

ROWS = 512  # rows of logits held at once: 265 MB with the released vocabulary

OnProgress = Callable[[int, int], None]


def log_probabilities(model: LanguageModel, window: np.ndarray) -> Iterator[tuple[mx.array, mx.array]]:
    """For a window [1 + n]: blocks of rows, float32 [rows, vocab], and the tokens that followed, [rows]."""
    session = model.session()
    for start in range(0, len(window) - 1, ROWS):
        ids = window[start : start + ROWS + 1]
        logits = session.feed(ids[:-1])
        yield logits - mx.logsumexp(logits, axis=-1, keepdims=True), mx.array(ids[1:])


def losses_of(rows: mx.array, targets: mx.array) -> mx.array:
    """float32 [rows]: minus the log-probability of what followed."""
    return -mx.take_along_axis(rows, targets[:, None], axis=-1)[:, 0]


class Losses(NamedTuple):
    """Of one text. losses float32 [n] in nats, positions [n]: how many tokens of its window the model had read."""

    name: str
    losses: np.ndarray
    positions: np.ndarray

    @property
    def perplexity(self) -> float:
        """exp of the mean loss."""
        return math.exp(float(self.losses.mean(dtype=np.float64)))

    @property
    def error(self) -> float:
        """Standard error of the perplexity, tokens taken as independent."""
        if len(self.losses) < 2:
            return math.nan
        return self.perplexity * float(self.losses.std(ddof=1, dtype=np.float64)) / math.sqrt(len(self.losses))


def measure_losses(model: LanguageModel, texts: Sequence[Text], on_progress: OnProgress | None = None) -> list[Losses]:
    """Every text's losses; on_progress(tokens done, tokens in all)."""
    done, total = 0, sum(text.tokens for text in texts)
    results = []
    for text in texts:
        losses = []
        for window in text.windows:
            for rows, targets in log_probabilities(model, window):
                losses.append(np.array(losses_of(rows, targets)))
                done += len(losses[-1])
                if on_progress is not None:
                    on_progress(done, total)
        results.append(Losses(text.name, np.concatenate(losses), positions_of(text)))
    return results


def positions_of(text: Text) -> np.ndarray:
    """int64 [n]: the place of each predicted token in its window, from 1."""
    return np.concatenate([np.arange(1, len(window)) for window in text.windows])


def together(parts: Sequence[Losses]) -> Losses:
    """All texts as one."""
    losses, positions = (np.concatenate([getattr(part, name) for part in parts]) for name in ("losses", "positions"))
    return Losses("together", losses, positions)
