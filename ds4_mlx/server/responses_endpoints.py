"""The endpoints of /v1/responses: making, looking up and deleting responses."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from ds4_mlx.server.errors import ApiError, invalid
from ds4_mlx.server.responses import Continued, ResponsesRequest
from ds4_mlx.server.responses_events import ResponsesEvents
from ds4_mlx.server.responses_store import ResponsesStore, Stored
from ds4_mlx.server.service import Service

Documented = dict[int | str, dict[str, Any]]


def add_responses(app: FastAPI, service: Service, answers: Documented, errors: Documented) -> None:
    """Adds the endpoints. answers, errors: what the OpenAPI page says of their statuses."""
    store = ResponsesStore(service.options.responses)
    service.closing.append(store.close)
    missing: Documented = {**errors, 404: {"description": "There is no such response."}}

    @app.post("/v1/responses", response_model=None, responses=answers, tags=["OpenAI"])
    async def responses(body: ResponsesRequest, http: Request) -> Response:
        """A response."""
        previous = body.previous_response_id
        history = await run_in_threadpool(store.items, previous) if previous is not None else []
        if previous is not None and history is None:
            message = f"Previous response with id {previous[:80]!r} not found; it was not stored, or is long ago."
            raise invalid(message, "previous_response_id", "previous_response_not_found")
        tools = body.tool_set()

        def save(response: dict[str, Any]) -> None:
            if body.store is not False:
                items = [{"role": "user", "content": body.input}] if isinstance(body.input, str) else body.input
                store.put(response["id"], Stored(previous, items, response))

        return await service.answer(
            http,
            Continued(body, history or []),
            lambda asks, collected: ResponsesEvents(
                body, collected[0], http.state.request_id, tools, service.model.tokenizer, save
            ),
            api="responses",
            stream=bool(body.stream),
            call_prefix="call_",
        )

    @app.get("/v1/responses/{response_id}", responses=missing, tags=["OpenAI"])
    def response(response_id: str, stream: bool = False) -> dict[str, Any]:
        """A stored response."""
        if stream:
            raise invalid("stream is not supported here: a stored response comes as it is.", "stream")
        return _found(store, response_id).response

    @app.get("/v1/responses/{response_id}/input_items", responses=missing, tags=["OpenAI"])
    def input_items(response_id: str) -> dict[str, Any]:
        """The input that a stored response answers."""
        items = _found(store, response_id).input
        return {"object": "list", "data": items, "has_more": False}

    @app.delete("/v1/responses/{response_id}", responses=missing, tags=["OpenAI"])
    def delete(response_id: str) -> dict[str, Any]:
        """Forgets a stored response."""
        if not store.delete(response_id):
            raise _missing(response_id)
        return {"id": response_id, "object": "response", "deleted": True}


def _found(store: ResponsesStore, response_id: str) -> Stored:
    stored = store.get(response_id)
    if stored is None:
        raise _missing(response_id)
    return stored


def _missing(response_id: str) -> ApiError:
    return ApiError("not_found", f"Response with id {response_id[:80]!r} not found.", "response_id")
