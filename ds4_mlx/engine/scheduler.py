"""The engine of a server: one thread that owns the model and answers several requests at a time.

Every turn of the thread makes one call of the model. In it every decoding request has its one token, and one or more
prompts have a chunk between them; so a long prompt keeps the others waiting for one chunk at most, and weights are read
once for all. While the device works on a call, the pieces of the call before are delivered.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import mlx.core as mx
import numpy as np

from ds4_mlx.engine import threads
from ds4_mlx.engine.fairness import Pace
from ds4_mlx.engine.figures import EngineFigures
from ds4_mlx.engine.generation import DEFAULT_CONTEXT, check_amounts, check_prompt
from ds4_mlx.engine.keeper import Keeper
from ds4_mlx.engine.line import Line
from ds4_mlx.engine.request import Failed, Piece, QueueFullError, Request
from ds4_mlx.engine.restoring import Restoring
from ds4_mlx.engine.sampling import Draw
from ds4_mlx.engine.saving import SavePolicy
from ds4_mlx.engine.work import Work
from ds4_mlx.errors import UserError

if TYPE_CHECKING:
    from ds4_mlx.engine.language_model import LanguageModel
    from ds4_mlx.engine.session import Session

_log = logging.getLogger(__name__)
_CLOSED = "The server is shutting down."
_Drawn = tuple[Work, Draw, mx.array | None]


class Scheduler:
    """Answers requests with a model, several at a time (`engine.request.Engine`).

    max_batch: requests that decode together. max_queue: requests that may wait beyond those. context: the longest
    prompt and answer together. chunk: prompt tokens in a call, busy_chunk: the same while others decode; by default
    what pays off and what keeps the others live. saving: which sessions are saved, all by default.

    Begins at once and goes on until `close`. Nobody else may use the model meanwhile.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        max_batch: int = 8,
        max_queue: int = 64,
        context: int = DEFAULT_CONTEXT,
        chunk: int | None = None,
        busy_chunk: int | None = None,
        saving: SavePolicy | None = None,
    ) -> None:
        for name, value, least in (("max_batch", max_batch, 1), ("max_queue", max_queue, 0), ("context", context, 2)):
            if value < least:
                raise UserError(f"{name} is {value}; expected at least {least}.")
        model.fill()
        self.model = model
        self.max_batch, self.max_queue = max_batch, max_queue
        self.context = min(context, model.config.max_position_embeddings)
        self._figures = EngineFigures(cache_budget=model.cache.budget or 0)
        self._pace = Pace(chunk, busy_chunk)
        # Shared with other threads, under the lock.
        self._lock = threading.Condition()
        self._new: list[Work] = []
        self._jobs: list[tuple[Callable[[], Any], Future[Any]]] = []
        self._wakes = 0
        self._open = 0  # requests that are neither done nor failed
        self._number = 0
        self._closing: float | None = None  # when what still runs is cut
        # The engine's own.
        self._line = Line(model.cache, max_batch)
        self._ended: list[Work] = []  # with pieces to be delivered
        self._answer_seconds = 1.0  # how long requests took of late
        self._keeper = Keeper(model, saving or SavePolicy("all"), self._on_engine, self._figures)
        self._done = threads.start(self._run)

    # From any thread

    def submit(self, request: Request, deliver: Callable[[Piece], None]) -> Work:
        """Takes a request; see `engine.request.Engine`."""
        self._check(request)
        work = Work(self.model, request, deliver, self._wake, self.context)
        with self._lock:
            if self._closing is not None:
                raise QueueFullError(retry_after=5)
            if self._open >= self.max_batch + self.max_queue:
                self._figures.refused += 1
                raise QueueFullError(retry_after=self._retry_after())
            self._open += 1
            self._number += 1
            work.number = self._number
            self._new.append(work)
            self._lock.notify()
        return work

    def figures(self) -> EngineFigures:
        """What was done and what is there."""
        return replace(
            self._figures,
            queued=len(self._new) + len(self._line.waiting),
            prefilling=len(self._line.restoring) + len(self._line.prefilling),
            decoding=len(self._line.decoding),
        )

    def close(self, timeout: float = 30.0) -> None:
        """Takes no more requests, lets those that run end, cuts them after `timeout` seconds, and saves all sessions.

        Requests that still wait fail at once. Returns when everything is saved. May be called more than once.
        """
        with self._lock:
            cut = time.monotonic() + timeout
            self._closing = cut if self._closing is None else min(cut, self._closing)
            self._lock.notify()
        self._done.result()

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self, request: Request) -> None:
        check_prompt(request.prompt, self.context)
        self.model.check_ids(request.prompt)
        request.sampling.check_vocabulary(self.model.config.vocab_size)
        check_amounts(self.model, request.max_tokens, request.top_logprobs)

    def _retry_after(self) -> int:
        """Seconds until about one in four of those that wait has begun."""
        waiting = max(1, self._open - self.max_batch)
        return min(60, max(1, math.ceil(self._answer_seconds * waiting / self.max_batch / 4)))

    def _wake(self) -> None:
        with self._lock:
            self._wakes += 1
            self._lock.notify()

    def _on_engine(self, job: Callable[[], Any]) -> Future[Any]:
        """Runs `job` on the engine's thread between two calls of the model."""
        future: Future[Any] = Future()
        with self._lock:
            self._jobs.append((job, future))
            self._lock.notify()
        return future

    # The engine's thread

    def _run(self) -> None:
        while True:
            try:
                if not self._turn():
                    return
            except Exception as error:  # a mistake of ours: those that run pay for it, the engine goes on
                _log.exception("The engine failed in a turn.")
                self._fail(self._line.all(), error)

    def _turn(self) -> bool:
        """One call of the model and what goes with it; whether there is another turn."""
        self._take_in()
        for work in [work for work in self._line.all() if work.cancelled]:
            self._cut(work)
        for work in list(self._line.restoring):
            self._restore(work)
        prefills = self._read_next()
        if prefills or self._line.decoding:
            self._call(prefills)
        else:
            self._deliver()
            self._rest()
        return not self._is_over()

    def _rest(self) -> None:
        """Nothing to compute: sleeps until something comes."""
        mx.clear_cache()
        with self._lock:
            while not (self._new or self._jobs or self._wakes or self._is_read()):
                if self._closing is not None:
                    self._lock.wait(0.05)  # for the keeper to end
                    return
                self._lock.wait()

    def _is_read(self) -> bool:
        """Whether something of a session came from disk."""
        return any(work.restoring is not None and work.restoring.ready for work in self._line.restoring)

    def _take_in(self) -> None:
        """What other threads left: requests and jobs."""
        with self._lock:
            new, self._new = self._new, []
            jobs, self._jobs = self._jobs, []
            self._wakes = 0
            closing = self._closing
        for job, future in jobs:
            try:
                future.set_result(job())
            except Exception as error:
                future.set_exception(error)
        for work in new:
            self._line.join(work)
        if closing is not None:
            late = time.monotonic() >= closing
            for work in self._line.all() if late else list(self._line.waiting):
                work.add(Failed(_CLOSED))
                self._cut(work, "failed")

    def _is_over(self) -> bool:
        with self._lock:
            if self._closing is None or self._new or self._jobs or self._line.all() or self._ended:
                return False
        self._keeper.close()
        return self._keeper.is_done

    # Reading prompts

    def _read_next(self) -> list[tuple[Work, int]]:
        """The prompts that have a part in the next call, and the most tokens of each."""
        left = self._pace.chunk(busy=bool(self._line.decoding))
        chosen: list[tuple[Work, int]] = []
        while left > 0:
            work = self._line.next(left, [taken for taken, _ in chosen])
            if work is None:
                break
            try:
                if work.session is None and not self._begin(work):
                    continue  # it is coming from disk
            except Exception as error:  # no memory for its pages, say
                self._fail([work], error)
                continue
            if work.feed is None:  # all but its last token is there
                self._line.decode(work)
                continue
            count = len(work.feed.next(left))
            chosen.append((work, count))
            left -= count
        return chosen

    def _begin(self, work: Work) -> bool:
        """Takes a request out of the queue; whether it has its session now, or it is still coming from disk."""
        self._line.begin(work)
        stored = self.model.stored_prefix(work.request.prompt)
        if stored is None:
            self._start(work, self.model.session())
            return True
        work.restoring = Restoring(self.model, stored.chain, self._wake)
        self._line.restoring.append(work)
        return False

    def _restore(self, work: Work) -> None:
        """Takes the next segment of a session that comes from disk, if it is there."""
        assert work.restoring is not None
        try:
            if work.restoring.step():
                return
            session = work.restoring.finish()
        except UserError as error:  # nothing a user could do about: it is computed again
            _log.warning("%s", error)
            session = self.model.session()
        except Exception as error:
            self._fail([work], error)
            return
        self._line.restoring.remove(work)
        work.restoring = None
        self._start(work, session)

    def _start(self, work: Work, session: Session) -> None:
        """Begins to read a prompt behind what the session, or the cache, holds of it."""
        work.begin(session)
        self._line.read(work)
        self._figures.prompt_tokens += work.stats.prompt_tokens
        self._figures.cached_tokens += work.stats.cached_tokens

    # The call

    def _call(self, prefills: Sequence[tuple[Work, int]]) -> None:
        """One token of each decoding request and a part of some prompts."""
        decoding, begin = list(self._line.decoding), time.perf_counter()
        parts = [(work, np.array([work.next])) for work in decoding]
        parts += [(work, work.feed.next(count)) for work, count in prefills if work.feed is not None]
        works, wrong = [work for work, _ in parts], dict[Work, Exception]()
        try:
            rows = self.model.forward([(work.session, ids) for work, ids in parts if work.session], last_only=True)
        except Exception as error:
            self._fail(works, error)
            self._line.start_over()
            return
        drawn: list[_Drawn] = []
        for work, row in zip(decoding, rows, strict=False):
            try:
                drawn.append((work, *work.draw(row[0])))
            except Exception as error:  # its grammar has no way on, or a mistake of ours in it
                wrong[work] = error
        arrays = [array for _, draw, logs in drawn for array in (*draw.arrays(), *([] if logs is None else [logs]))]
        try:
            mx.async_eval(*arrays)
            self._deliver()  # while the device works
            mx.eval(*arrays, *rows)  # the one wait for it
        except Exception as error:
            self.model.cache.lose()
            self._fail(works, error)
            self._line.start_over()
            return
        self._note(prefills, time.perf_counter() - begin)
        for work, count in prefills:
            work.fed(count)
            if work.feed is None:
                mx.clear_cache()  # what chunks were computed with is large
                self._line.decode(work)
        for work, draw, logs in drawn:
            try:
                if not work.accept(draw, logs):
                    self._finish(work)
            except Exception as error:
                wrong[work] = error
            self._figures.generated_tokens += 1
        for work, mistake in wrong.items():
            self._fail([work], mistake)

    def _note(self, prefills: Sequence[tuple[Work, int]], seconds: float) -> None:
        """Counts a call."""
        self._figures.calls += 1
        if prefills:
            self._figures.prefill_seconds += seconds
            self._pace.note(sum(count for _, count in prefills), seconds)
        else:
            self._figures.decode_seconds += seconds

    # Ends

    def _finish(self, work: Work) -> None:
        """The answer is complete."""
        assert work.session is not None
        work.session.sequence.keep()
        work.finish()
        self._keep(work)
        self._figures.finished += 1
        self._end(work)

    def _cut(self, work: Work, how: Literal["cancelled", "failed"] = "cancelled") -> None:
        """Ends a request where it is. What was computed stays in memory, and on disk if an answer had begun."""
        if work.session is not None:
            work.session.sequence.keep()
            if work.stats.generated_tokens or how == "failed":
                self._keep(work)
        setattr(self._figures, how, getattr(self._figures, how) + 1)
        self._end(work)

    def _fail(self, works: Sequence[Work], error: Exception) -> None:
        """Tells those who wait that there will be no answer."""
        if not isinstance(error, UserError):
            _log.error("A call of the model failed.", exc_info=error)
        for work in works:
            work.add(Failed(str(error) if isinstance(error, UserError) else f"The engine failed: {error}"))
            self._figures.failed += 1
            self._end(work)

    def _keep(self, work: Work) -> None:
        """Has the session saved, with as much of the answer as there is."""
        keeping, session = work.request.keeping, work.session
        if keeping is not None and session is not None:
            answer = [work.answer.message()] if work.stats.generated_tokens else []
            self._keeper.keep(session, [*keeping.messages, *answer], keeping.options)

    def _end(self, work: Work) -> None:
        self._line.leave(work)
        work.start_over()  # pages are let go on this thread
        self._answer_seconds += 0.2 * (time.perf_counter() - work.came - self._answer_seconds)
        self._figures.cache_bytes = self.model.cache.nbytes
        self._ended.append(work)
        with self._lock:
            self._open -= 1

    def _deliver(self) -> None:
        """Hands out the pieces."""
        ended, self._ended = self._ended, []
        for work in [*self._line.begun(), *ended]:
            work.flush()
