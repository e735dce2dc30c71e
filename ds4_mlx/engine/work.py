"""A request on its way through the scheduler."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from ds4_mlx.cache import PAGE
from ds4_mlx.engine.answer import Answer
from ds4_mlx.engine.feeding import Feed
from ds4_mlx.engine.request import Piece, Progress, Request
from ds4_mlx.engine.sampling import Draw, Sampler, log_softmax
from ds4_mlx.engine.stats import Stats, Token

if TYPE_CHECKING:
    from ds4_mlx.engine.language_model import LanguageModel
    from ds4_mlx.engine.restoring import Restoring
    from ds4_mlx.engine.session import Session

_log = logging.getLogger(__name__)


class Work:
    """One request: where it stands, and what was made of it. Belongs to the engine's thread but for `cancel`.

    It waits, is restored from disk where something of it is there, is prefilled, and decodes. In decoding the token
    `next` goes into the next call; the first of them is the prompt's last one.
    """

    def __init__(
        self,
        model: LanguageModel,
        request: Request,
        deliver: Callable[[Piece], None],
        on_cancel: Callable[[], None],
        limit: int,
    ) -> None:
        self.model, self.request = model, request
        self.prompt = np.array(request.prompt, dtype=np.int64)
        self.number = 0  # in order of arrival
        self.passed = 0  # how many that came later left the queue before it
        self.known = 0  # tokens of the prompt that were in memory when it came
        self.session: Session | None = None
        self.restoring: Restoring | None = None
        self.feed: Feed | None = None
        self.next = request.prompt[-1]
        self.sampler = Sampler(request.sampling)
        streaming = request.constraint is not None
        self.answer = Answer(model, raw=request.raw, thinking=request.thinking, stop=request.stop, streaming=streaming)
        self.stats = Stats(prompt_tokens=len(request.prompt), seed=self.sampler.seed)
        self.cancelled = False
        self.came = self._began = self._first = time.perf_counter()
        self._deliver, self._on_cancel, self._limit = deliver, on_cancel, limit
        self._pieces: list[Piece] = []
        self._common: dict[int, int] = {}

    def cancel(self) -> None:
        """The client is gone."""
        self.cancelled = True
        self._on_cancel()

    @property
    def left(self) -> int:
        """Prompt tokens still to be computed, as far as is known."""
        done = self.known if self.session is None else self.session.position
        return max(1, len(self.prompt) - done)

    def pages(self) -> int:
        """Pages that the prompt takes, and one for an answer of a length that nobody knows."""
        return -(-len(self.prompt) // PAGE) + 1

    def shares(self, other: Work) -> int:
        """How many tokens both prompts begin with that a state can be kept after: whole pages, not the last token."""
        if other.number not in self._common:
            n = min(len(self.prompt), len(other.prompt)) - 1
            differs = np.flatnonzero(self.prompt[:n] != other.prompt[:n])
            self._common[other.number] = (int(differs[0]) if differs.size else n) // PAGE * PAGE
        return self._common[other.number]

    def start_over(self) -> None:
        """Lets go of what it holds: it is over, or has to begin again."""
        if self.restoring is not None:
            self.restoring.drop()
        self.session = self.restoring = self.feed = None
        self.known = 0

    def begin(self, session: Session) -> None:
        """Leaves the queue with what memory and disk hold of the prompt."""
        self.session = session
        cached = session.resume(self.request.prompt)
        self.stats.cached_tokens = cached
        self._began = time.perf_counter()
        self.feed = Feed(session, self.prompt[cached:-1]) if cached < len(self.prompt) - 1 else None
        self._pieces.append(Progress(cached, len(self.prompt), cached))

    def fed(self, count: int) -> None:
        """A chunk of the prompt went through the model."""
        assert self.feed is not None
        assert self.session is not None
        self.feed.fed(count)
        if not self.feed.left:
            self.session.keep()  # the next prompt often differs from the last token on: <think> becomes </think>
            self.feed = None
        self._pieces.append(Progress(self.session.position, len(self.prompt), self.stats.cached_tokens))

    def draw(self, logits: mx.array) -> tuple[Draw, mx.array | None]:
        """The next token from float32 logits [vocab], and the log probabilities where they are asked for; neither is
        evaluated.
        """
        logs = None if self.request.top_logprobs is None else log_softmax(logits)
        return self.sampler.draw(logits, self.request.constraint), logs

    def accept(self, draw: Draw, logs: mx.array | None) -> bool:
        """Takes the token that was drawn; whether the answer goes on. Raises `UserError` if it is none."""
        token_id, now, stats = draw.result(), time.perf_counter(), self.stats
        if stats.generated_tokens == 0:
            stats.prefill_seconds, self._first = now - self._began, now
            self._pieces.append(Progress(len(self.prompt), len(self.prompt), stats.cached_tokens))
        self.sampler.accept(token_id)
        if self.request.constraint is not None:
            self.request.constraint.accept(token_id)
        data = self.model.tokenizer.token_bytes(token_id)
        held = None if logs is None else np.array(logs)
        stats.generated_tokens += 1
        stats.decode_seconds = now - self._first
        stats.finish_reason = self.answer.feed(Token.of(token_id, data, held, self.request.top_logprobs or 0))
        stats.finish_reason = stats.finish_reason or stats.limit_reached(self.request.max_tokens, self._limit)
        stats.peak_memory_bytes = mx.get_peak_memory()
        self.next = token_id
        self._pieces += self.answer.take()
        return stats.finish_reason is None

    def finish(self) -> None:
        """No token follows: the last pieces."""
        self._pieces += self.answer.finish()
        self._pieces.append(self.answer.done(self.stats))

    def add(self, piece: Piece) -> None:
        """A piece to be delivered."""
        self._pieces.append(piece)

    def flush(self) -> None:
        """Delivers what there is. A receiver that fails is treated as one that is gone."""
        pieces, self._pieces = self._pieces, []
        for piece in pieces:
            if self.cancelled:
                return
            try:
                self._deliver(piece)
            except Exception:
                _log.exception("The receiver of an answer failed.")
                self.cancelled = True
