"""Anthropic's `budget_tokens`: reasoning ends after so many tokens."""

from __future__ import annotations

import numpy as np

from ds4_mlx.engine.request import Constraint


class ThinkingBudget:
    """A constraint around another: once the budget is spent, the only token is `</think>`."""

    def __init__(self, inner: Constraint | None, think_end: int, budget: int, vocab_size: int) -> None:
        """think_end: the id of `</think>`. vocab_size: the width of the logits."""
        self._inner = inner
        self._think_end = think_end
        self._left: int | None = budget  # None once the reasoning is over
        self._only_end = np.zeros(-(-vocab_size // 32), np.uint32)
        self._only_end[think_end // 32] = np.uint32(1 << think_end % 32)

    def mask(self) -> np.ndarray | None:
        """Allowed tokens as bits, uint32 [ceil(vocab / 32)]; None when all are."""
        if self._left == 0:
            return self._only_end
        return self._inner.mask() if self._inner is not None else None

    def greedy(self) -> bool:
        """Whether the likeliest allowed token is taken."""
        return self._inner.greedy() if self._inner is not None else False

    def accept(self, token_id: int) -> None:
        """Tells what was sampled."""
        if token_id == self._think_end:
            self._left = None
        elif self._left:
            self._left -= 1
        if self._inner is not None:
            self._inner.accept(token_id)
