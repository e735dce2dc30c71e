"""What every request passes first: a request id, the key, limits on the body, and the count of what was answered.

Plain ASGI: Starlette's own middleware class would hide from an answer that its client is gone.
"""

from __future__ import annotations

import asyncio
import logging
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ds4_mlx.server.auth import PUBLIC, allowed, stranger
from ds4_mlx.server.errors import ApiError, dialect_of
from ds4_mlx.server.metrics import Metrics
from ds4_mlx.server.served import ServerOptions
from ds4_mlx.server.streaming import to_json

log = logging.getLogger("ds4_mlx.server")

BODY_SILENCE = 60.0  # seconds for which a body may make no progress


class Gate:
    """An ASGI application around another."""

    def __init__(self, app: ASGIApp, options: ServerOptions, metrics: Metrics) -> None:
        self._app = app
        self._options = options
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(12)
        scope.setdefault("state", {})["request_id"] = request_id
        path, headers = scope["path"], Headers(scope=scope)

        started = False

        async def counted(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._metrics.responded(path, message["status"])
                # Anthropic's name for it and OpenAI's; their clients show it with errors.
                named = [(name, request_id.encode()) for name in (b"request-id", b"x-request-id")]
                message = {**message, "headers": [*message.get("headers", []), *named]}
            await send(message)

        async def respond(error: ApiError) -> None:
            dialect = dialect_of(path)
            body = to_json(error.body(dialect, request_id))
            response = Response(body, error.status(dialect), error.headers(), "application/json")
            await response(scope, receive, counted)

        error = self._refusal(path, headers)
        if error is not None:
            await respond(error)
            return
        if scope["method"] == "POST" and path.startswith("/v1/"):
            # `curl -d` calls it a form; it is JSON all the same.
            scope["headers"] = list(scope["headers"])
            MutableHeaders(scope=scope)["content-type"] = "application/json"
        try:
            await self._app(scope, _limited(receive, self._options.body_limit), counted)
        except Exception:
            if started:
                raise  # all that is left is to break the connection off
            log.exception("A request failed: %s %s", scope["method"], path)
            await respond(ApiError("internal", "The server made a mistake; its log has the details."))

    def _refusal(self, path: str, headers: Headers) -> ApiError | None:
        if path not in PUBLIC and not allowed(headers, self._options.api_key):
            message = "The API key is missing or wrong; send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'."
            return ApiError("authentication", message, code="invalid_api_key")
        if self._options.api_key is None:
            site = stranger(headers, self._options.cors, local=self._options.local)
            if site is not None:
                message = f"Requests from or to {site[:80]!r} are let in with an API key only; --cors names web pages."
                return ApiError("forbidden", message)
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length[:20]) > self._options.body_limit:
            return ApiError("too_large", _too_large(self._options.body_limit))
        return None


def _too_large(limit: int) -> str:
    return f"The request is larger than {limit} bytes."


def _limited(receive: Receive, limit: int) -> Receive:
    """`receive` for a body of at most `limit` bytes, none of whose parts lets wait for long."""
    received, complete = 0, False

    async def limited() -> Message:
        nonlocal received, complete
        if complete:
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), BODY_SILENCE)
        except asyncio.TimeoutError:
            raise HTTPException(408, "The request's body did not arrive.") from None
        received += len(message.get("body", b""))
        complete = message["type"] != "http.request" or not message.get("more_body", False)
        if received > limit:
            raise HTTPException(413, _too_large(limit))
        return message

    return limited
