"""Draws the tokens of one answer and feeds them, on a GPU one ahead of those who read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx

from ds4_mlx.cache import SequenceMark
from ds4_mlx.engine.sampling import Draw, Sampler
from ds4_mlx.model.linear import on_cpu

if TYPE_CHECKING:
    from ds4_mlx.engine.session import Session


class Drawing:
    """Tokens one after the other. After `close` the session holds all of them but the last.

    A device of its own goes on with a token while the host reads it, unless the next draw depends on what is read.
    That wastes a step where an answer ends, which is taken back; so the CPU, which has nothing beside it, waits.

    logits: float32 [vocab], of the token to be drawn; later those that the last one was drawn from.
    """

    def __init__(self, session: Session, sampler: Sampler, logits: mx.array) -> None:
        self.logits = logits
        self._session, self._sampler = session, sampler
        self._looks_ahead = not on_cpu() and not sampler.looks_back
        self._token: int | None = None  # drawn, known, and not fed
        self._following: tuple[Draw, mx.array] | None = None  # after a token that was fed unknown, and its logits
        self._mark: SequenceMark | None = None  # before that token was fed

    def next(self, *, is_last: bool = False) -> int:
        """The next token; is_last if none can follow, whatever it is. Raises `UserError` if the model did not give
        numbers.
        """
        if self._following is not None:
            draw, self.logits = self._following
        else:
            if self._token is not None:
                self.logits = self._session.feed([self._token], last_only=True)[-1]
            draw = self._sampler.draw(self.logits)
        self._token = self._following = self._mark = None
        if self._looks_ahead and not is_last:
            self._feed(draw)
        mx.eval(*draw.arrays())  # one wait for the device
        token = draw.result()
        self._sampler.accept(token)
        if self._following is None:
            self._token = token
        return token

    def _feed(self, draw: Draw) -> None:
        """Has the device go on behind a token that is not known yet."""
        mark = self._session.sequence.mark()
        logits = self._session.feed_drawn(draw.token)
        self._mark = mark
        following = self._sampler.draw(logits)
        mx.async_eval(*following.arrays())
        self._following = following, logits

    def close(self) -> None:
        """Takes back what was fed ahead. Nothing is drawn afterwards."""
        if self._mark is not None:
            self._session.sequence.go_back(self._mark)
            self._mark = None
