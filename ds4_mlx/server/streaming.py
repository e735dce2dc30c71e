"""An answer on its way to a client: server-sent events or one JSON object, heartbeats, and clients that go away.

Knows nothing of any API: an `Adapter` writes the events.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ds4_mlx.engine.request import Done, Failed, Piece
from ds4_mlx.server.errors import ApiError, Dialect
from ds4_mlx.server.exchange import Exchange

STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}
JSON_HEADERS = {"Content-Type": "application/json"}


class Adapter(Protocol):
    """Writes an answer in the words of one API. Methods return the text of the events that are due, maybe none."""

    def begin(self) -> str:
        """The request was accepted."""

    def feed(self, choice: int, piece: Piece) -> str:
        """A piece of answer number `choice`; never `Failed`."""

    def beat(self) -> str:
        """Nothing was sent for a while: an event that shows the client there is life (docs/server.md)."""

    def end(self) -> str:
        """All answers are complete."""

    def fail(self, error: ApiError) -> str:
        """The answer cannot be finished."""

    def result(self) -> dict[str, Any]:
        """All of it as one object, for a request without `stream`."""


class Answer(Response):
    """An ASGI response that works for one request, until it is answered or its client is gone.

    before_done: is called, in a worker thread, with an answer's number and its last piece if that brings tool calls,
    before the client hears of it. on_end: is called once, with how it ended: "done", "gone" or "failed".
    """

    def __init__(
        self,
        exchange: Exchange,
        adapter: Adapter,
        dialect: Dialect,
        *,
        stream: bool,
        heartbeat: float,
        request_id: str,
        before_done: Callable[[int, Done], None],
        on_end: Callable[[str], None],
    ) -> None:
        super().__init__()
        self._exchange = exchange
        self._adapter = adapter
        self._dialect = dialect
        self._stream = stream
        self._heartbeat = heartbeat
        self._request_id = request_id
        self._before_done = before_done
        self._on_end = on_end
        self._outcome = "gone"
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer; whichever ends first, it or the client, ends both."""
        work = asyncio.ensure_future(self._send_events(send) if self._stream else self._send_object(send))
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        except OSError:  # the connection broke while we wrote
            pass
        except asyncio.CancelledError:  # the server stops, and does not wait for this answer any longer
            work.cancel()
            await self._break_off(send)
        finally:
            self._exchange.close()
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
            self._on_end(self._outcome)

    async def _send_events(self, send: Send) -> None:
        adapter, exchange = self._adapter, self._exchange
        await self._start(send, 200, STREAM_HEADERS)
        await _write(send, adapter.begin())
        now = asyncio.get_running_loop().time
        deadline = now() + self._heartbeat
        while not exchange.finished:
            arrivals = await exchange.take(deadline)
            text = ""
            for choice, piece in arrivals:
                if isinstance(piece, Failed):
                    self._outcome = "failed"
                    exchange.close()
                    await _write(send, text + adapter.fail(ApiError("internal", piece.message)))
                    await send({"type": "http.response.body", "body": b""})
                    return
                text += await self._feed(choice, piece)
            if not text and now() >= deadline:
                text = adapter.beat()
                deadline = now() + self._heartbeat
            if text:
                await _write(send, text)
                deadline = now() + self._heartbeat
        await _write(send, adapter.end())
        self._outcome = "done"
        await send({"type": "http.response.body", "body": b""})

    async def _send_object(self, send: Send) -> None:
        """One JSON object. In a long silence its client gets white space, as DeepSeek's own API does it: JSON may begin
        with that. The status is sent by then, so a failure can only break the connection off.
        """
        now = asyncio.get_running_loop().time
        deadline = now() + self._heartbeat
        while not self._exchange.finished:
            for choice, piece in await self._exchange.take(deadline):
                if isinstance(piece, Failed):
                    self._outcome = "failed"
                    await self._send_failure(send, ApiError("internal", piece.message))
                    return
                await self._feed(choice, piece)
            if now() >= deadline:
                if not self._started:
                    await self._start(send, 200, JSON_HEADERS)
                await _write(send, "\n")
                deadline = now() + self._heartbeat
        body = to_json(self._adapter.result()).encode()
        if not self._started:
            await self._start(send, 200, {**JSON_HEADERS, "Content-Length": str(len(body))})
        self._outcome = "done"
        await send({"type": "http.response.body", "body": body})

    async def _feed(self, choice: int, piece: Piece) -> str:
        if isinstance(piece, Done) and piece.calls_text:
            await run_in_threadpool(self._before_done, choice, piece)
        return self._adapter.feed(choice, piece)

    async def _send_failure(self, send: Send, error: ApiError) -> None:
        if self._started:
            raise ConnectionAbortedError(error.message)
        body = to_json(error.body(self._dialect, self._request_id)).encode()
        headers = {**JSON_HEADERS, **error.headers(), "Content-Length": str(len(body))}
        await self._start(send, error.status(self._dialect), headers)
        await send({"type": "http.response.body", "body": body})

    async def _break_off(self, send: Send) -> None:
        """Tells the client that there will be no more. There is no time to wait for anything."""
        error = ApiError("stopping", "The server is shutting down.", retry_after=10)
        self._outcome = "failed"
        if not self._stream or not self._started:
            await self._send_failure(send, error)
            return
        await _write(send, self._adapter.fail(error))
        await send({"type": "http.response.body", "body": b""})

    async def _start(self, send: Send, status: int, headers: dict[str, str]) -> None:
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        self._started = True


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _write(send: Send, text: str) -> None:
    if text:
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


def to_json(value: Any) -> str:
    """JSON as it goes over the wire. Half of a surrogate pair, which a client may have sent, becomes `?`."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def named_event(name: str, data: dict[str, Any]) -> str:
    """A server-sent event with a name."""
    return f"event: {name}\ndata: {to_json(data)}\n\n"


def data_event(data: dict[str, Any]) -> str:
    """A server-sent event without a name."""
    return f"data: {to_json(data)}\n\n"
