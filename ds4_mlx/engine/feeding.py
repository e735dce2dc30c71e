"""How tokens go into a session: in chunks that pause wherever a state is to be kept (docs/cache.md).

One definition for a session that is fed alone and for one that shares its calls with others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from ds4_mlx.cache import PAGE
from ds4_mlx.model.linear import on_cpu

if TYPE_CHECKING:
    from ds4_mlx.engine.session import Session


class Feed:
    """A message on its way into a session: what goes into the next call, and what is kept when it went.

    Several tokens count as a message: the state at the last page boundary before their end is kept.
    """

    def __init__(self, session: Session, token_ids: np.ndarray) -> None:
        self.session = session
        self.token_ids = token_ids  # int64 [n]
        self.done = 0
        self._start = session.position
        self._stops = session.sequence.stops(len(token_ids))
        self._kept: set[int] = set()  # stops whose state others wait for
        session.state.pool.reserve(-(-len(token_ids) // PAGE))

    @property
    def left(self) -> int:
        """Tokens that are still to be fed."""
        return len(self.token_ids) - self.done

    def keep_at(self, positions: Iterable[int]) -> None:
        """Keeps the states at these page boundaries too, as far as the feed has yet to pass them."""
        for position in positions:
            stop = position - self._start
            if position % PAGE == 0 and self.done < stop < len(self.token_ids):
                self._kept.add(stop)
                self._stops = sorted({*self._stops, stop})

    def next(self, chunk: int) -> np.ndarray:
        """The tokens of the next call, `chunk` at most."""
        stop = next(stop for stop in self._stops if stop > self.done)
        return self.token_ids[self.done : min(self.done + chunk, stop)]

    def fed(self, count: int) -> None:
        """To be called when `count` tokens went through the model."""
        self.done += count
        sequence = self.session.sequence
        if self.done in self._kept:
            sequence.keep_boundary()
        if not self.left and len(self.token_ids) > 1:
            sequence.keep_boundary()
            sequence.cache.evict()


def default_chunk() -> int:
    """Tokens per call when a prompt is fed: many where reading weights costs, few where a call takes long."""
    return 256 if on_cpu() else 2048
