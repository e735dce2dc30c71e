"""The HTTP application: every endpoint, and errors in the shape of the API that was asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException

from ds4_mlx import __version__
from ds4_mlx.engine.request import Engine
from ds4_mlx.server.catalog import add_catalog
from ds4_mlx.server.chat import ChatRequest
from ds4_mlx.server.chat_events import ChatEvents
from ds4_mlx.server.completions import CompletionRequest
from ds4_mlx.server.completions_events import CompletionEvents
from ds4_mlx.server.errors import ApiError, Kind, dialect_of
from ds4_mlx.server.gate import Gate
from ds4_mlx.server.messages import CountRequest, MessagesRequest
from ds4_mlx.server.messages_events import MessagesEvents
from ds4_mlx.server.metrics import CONTENT_TYPE
from ds4_mlx.server.prompt import count_tokens
from ds4_mlx.server.responses_endpoints import add_responses
from ds4_mlx.server.served import ServedModel, ServerOptions
from ds4_mlx.server.service import Service
from ds4_mlx.server.sessions import add_sessions
from ds4_mlx.server.streaming import to_json

PAGE = Path(__file__).with_name("page.html")
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request cannot be used; the message names the parameter."},
    401: {"description": "The API key is missing or wrong."},
    413: {"description": "The body is too large."},
    422: {"description": "Never sent; a wrong request is a 400."},
    429: {"description": "Too many requests are waiting; Retry-After says when to try again."},
    500: {"description": "The answer could not be made."},
}
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer: an object, or events where the request says stream.",
        "content": {"application/json": {}, "text/event-stream": {}},
    },
    **_ERRORS,
}


def create_app(engine: Engine, model: ServedModel, options: ServerOptions | None = None) -> FastAPI:
    """The application that answers for this engine. Raises `UserError` if a file it needs cannot be written."""
    options = options or ServerOptions()
    service = Service(engine, model, options)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(title="ds4-mlx", version=__version__, lifespan=lifespan)
    app.state.service = service
    app.add_middleware(Gate, options=options, metrics=service.metrics)
    if options.cors:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(options.cors), allow_methods=["*"], allow_headers=["*"]
        )  # outermost: a browser's preflight brings no key
    _add_errors(app, service)
    _add_pages(app, service)
    add_catalog(app, options, model)
    _add_chat(app, service)
    _add_completions(app, service)
    _add_messages(app, service)
    add_responses(app, service, _STREAM, _ERRORS)
    add_sessions(app, options.sessions)
    return app


def _add_chat(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions", response_model=None, responses=_STREAM, tags=["OpenAI"])
    async def chat_completions(body: ChatRequest, http: Request) -> Response:
        """A chat completion."""
        return await service.answer(
            http,
            body,
            lambda asks, answers: ChatEvents(body, answers, http.state.request_id, service.model.tokenizer),
            api="chat",
            stream=bool(body.stream),
            call_prefix="call_",
        )


def _add_completions(app: FastAPI, service: Service) -> None:
    @app.post("/v1/completions", response_model=None, responses=_STREAM, tags=["OpenAI"])
    async def completions(body: CompletionRequest, http: Request) -> Response:
        """A text, continued."""
        return await service.answer(
            http,
            body,
            lambda asks, answers: CompletionEvents(body, answers, http.state.request_id, service.model.tokenizer),
            api="completions",
            stream=bool(body.stream),
            call_prefix="",
        )


def _add_messages(app: FastAPI, service: Service) -> None:
    @app.post("/v1/messages", response_model=None, responses=_STREAM, tags=["Anthropic"])
    async def messages(body: MessagesRequest, http: Request) -> Response:
        """A message."""
        return await service.answer(
            http,
            body,
            lambda asks, answers: MessagesEvents(
                body.model, answers[0], http.state.request_id, thinking=asks[0].thinking.on
            ),
            api="messages",
            stream=bool(body.stream),
            call_prefix="toolu_",
        )

    @app.post("/v1/messages/count_tokens", responses=_ERRORS, tags=["Anthropic"])
    def count(body: CountRequest) -> dict[str, int]:
        """How many tokens a message's prompt has. Runs in a worker thread."""
        return {"input_tokens": count_tokens(body.ask(service.model, service.options), service.model)}


def _add_pages(app: FastAPI, service: Service) -> None:
    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    def page() -> Response:
        if PAGE.is_file():
            return Response(PAGE.read_bytes(), media_type="text/html", headers={"Cache-Control": "no-cache"})
        return Response("ds4-mlx is running. The API is described at /docs.\n", media_type="text/plain")

    @app.get("/health", tags=["server"])
    def health() -> dict[str, Any]:
        """Whether the server answers, and how busy it is."""
        figures = service.options.stats() if service.options.stats else {}
        return {"status": "ok", "version": __version__, "active_requests": service.metrics.active, **figures}

    @app.get("/metrics", tags=["server"], response_class=Response)
    def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(service.metrics.page(), media_type=CONTENT_TYPE)


def _add_errors(app: FastAPI, service: Service) -> None:
    def respond(request: Request, error: ApiError, status: int | None = None) -> Response:
        dialect = dialect_of(request.url.path)
        body = to_json(error.body(dialect, getattr(request.state, "request_id", "")))
        return Response(body, status or error.status(dialect), error.headers(), "application/json")

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return respond(request, error)

    @app.exception_handler(RequestValidationError)
    async def wrong_body(request: Request, error: RequestValidationError) -> Response:
        wrong = _validation_error(error)
        service.refused(request.state.request_id, request.url.path, error.body, wrong)
        return respond(request, wrong)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        kinds: dict[int, Kind] = {404: "not_found", 405: "method", 413: "too_large"}
        message = (
            f"{request.method} {request.url.path} is not served here." if error.status_code == 404 else error.detail
        )
        response = respond(
            request, ApiError(kinds.get(error.status_code, "invalid_request"), message), error.status_code
        )
        response.headers.update(error.headers or {})
        return response


def _validation_error(error: RequestValidationError) -> ApiError:
    """The first thing that is wrong with a body, by the name its sender gave it."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return ApiError("invalid_request", f"The body is not JSON: {first.get('ctx', {}).get('error', '')}.")
    param = ""
    for part in first["loc"][1:]:
        if isinstance(part, int):
            param += f"[{part}]"
        elif part.isidentifier() and part not in ("str", "int", "float", "bool", "list", "dict"):
            param += f".{part}" if param else part
    return ApiError("invalid_request", f"{param or 'The body'}: {first['msg']}.", param or None)
