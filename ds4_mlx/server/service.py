"""From an accepted body to an answer on its way: the steps that all APIs have in common."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest

from ds4_mlx.engine.request import Done, Engine, QueueFullError, Request
from ds4_mlx.errors import UserError
from ds4_mlx.server.ask import Ask
from ds4_mlx.server.collected import Collected
from ds4_mlx.server.errors import ApiError, dialect_of, invalid
from ds4_mlx.server.exchange import Exchange
from ds4_mlx.server.metrics import Metrics
from ds4_mlx.server.prompt import engine_requests
from ds4_mlx.server.served import ServedModel, ServerOptions
from ds4_mlx.server.streaming import Adapter, Answer
from ds4_mlx.server.trace import Trace, answer_fields

log = logging.getLogger("ds4_mlx.server")


class Asks(Protocol):
    """A request's body."""

    def asks(self, model: ServedModel, options: ServerOptions) -> list[Ask]:
        """The request in the server's own terms: one for each prompt, most have one."""


class Service:
    """What the endpoints share."""

    def __init__(self, engine: Engine, model: ServedModel, options: ServerOptions) -> None:
        self.engine = engine
        self.model = model
        self.options = options
        self.metrics = Metrics(options.stats)
        self._trace = Trace(options.trace) if options.trace else None
        self.closing: list[Callable[[], None]] = []
        if self._trace is not None:
            self.closing.append(self._trace.close)

    def close(self) -> None:
        """Writes what is still to be written, and closes files."""
        for close in self.closing:
            close()

    async def answer(
        self,
        http: HttpRequest,
        body: Asks,
        make: Callable[[list[Ask], list[Collected]], Adapter],
        *,
        api: str,
        stream: bool,
        call_prefix: str,
        on_end: Callable[[str], None] = lambda outcome: None,
    ) -> Answer:
        """Checks, encodes and submits a request, then answers it through the adapter that `make` gives.

        Raises `ApiError` when there will be no answer; nothing has been sent then.
        """
        begun = time.perf_counter()
        traced = await http.json() if self._trace is not None else None
        exchange = Exchange()

        def accept() -> tuple[list[Ask], list[Request]]:
            asks = body.asks(self.model, self.options)
            requests = [one for ask in asks for one in engine_requests(ask, self.model)]
            exchange.submit(self.engine, requests)
            return asks, requests

        request_id = http.state.request_id
        try:
            asks, requests = await run_in_threadpool(accept)
        except BaseException as error:
            exchange.close()  # be it that the server stops
            self.refused(request_id, api, traced, error)
            if isinstance(error, QueueFullError):
                raise ApiError(
                    "queue_full", str(error), code="rate_limit_exceeded", retry_after=error.retry_after
                ) from None
            if isinstance(error, UserError):
                raise invalid(str(error)) from None
            raise
        answers = [Collected(call_prefix, len(request.prompt)) for request in requests]
        self.metrics.began()

        def end(outcome: str) -> None:
            self.metrics.ended(api, outcome, begun, answers)
            log.info("%s %s: %s", api, request_id, _line(asks[0], outcome, answers[0]))
            if self._trace is not None:
                fields = [answer_fields(answer) for answer in answers]
                self._trace.write(id=request_id, api=api, request=traced, outcome=outcome, answers=fields)
            on_end(outcome)

        return Answer(
            exchange,
            make(asks, answers),
            dialect_of(http.url.path),
            stream=stream,
            heartbeat=self.options.heartbeat,
            request_id=request_id,
            before_done=lambda choice, done: self._remember(answers[choice], done),
            on_end=end,
        )

    def refused(self, request_id: str, api: str, body: Any, error: BaseException) -> None:
        """Logs and traces a request that gets no answer."""
        log.info("%s %s: refused: %s", api, request_id, str(error)[:200])
        if self._trace is not None:
            self._trace.write(id=request_id, api=api, request=body, outcome="refused", error=str(error))

    def _remember(self, answer: Collected, done: Done) -> None:
        """Before the client hears that its calls are complete, so that its next request finds them."""
        if self.model.replay is not None:
            ids = [call.id for call in answer.calls.values()]
            self.model.replay.remember(ids, done.calls_text, answer.reasoning)


def _line(ask: Ask, outcome: str, answer: Collected) -> str:
    counts = f"{answer.prompt_tokens} tokens of prompt, {answer.cached_tokens} cached"
    reason: Any = answer.stats.finish_reason if answer.stats else answer.failed or outcome
    return f"{ask.model[:60]}, {counts}, {answer.generated_tokens} generated, {reason}"
