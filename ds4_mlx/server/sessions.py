"""GET /sessions: the conversations on disk, for the page at / to list and to go on with. Not part of any API but ours.

Reads only. Going on needs no endpoint: a chat completion that begins with a session's messages resumes from it.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Query
from pydantic import BaseModel

from ds4_mlx.cache.head import Head
from ds4_mlx.cache.store import SessionStore
from ds4_mlx.errors import UserError
from ds4_mlx.server.errors import ApiError

_KEYS = ("role", "content", "reasoning_content", "tool_calls", "tool_call_id")


class SessionSummary(BaseModel):
    """A session as the list has it. title: its first words; times in seconds since 1970; bytes on disk."""

    id: str
    name: str | None
    title: str
    model: str
    tokens: int
    bytes: int
    created: float
    used: float


class SessionList(BaseModel):
    """The last used first. total: how many there are."""

    object: str = "list"
    data: list[SessionSummary]
    total: int


class Session(SessionSummary):
    """One session.

    messages: as POST /v1/chat/completions takes them; null where the session holds a text and no conversation.
    tools: those that the model was told of; given again, the prompt begins as it did. thinking: whether the last answer
    began with reasoning; null if that is not known.
    """

    messages: list[dict[str, Any]] | None
    tools: list[dict[str, Any]]
    thinking: bool | None


def add_sessions(app: FastAPI, store: SessionStore | None) -> None:
    """Adds the two endpoints. store: None where nothing is kept, and the list is empty."""

    @app.get("/sessions", tags=["server"])
    def sessions(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> SessionList:
        """The sessions on disk."""
        heads = store.heads() if store is not None else []
        return SessionList(data=[SessionSummary(**_summary(head)) for head in heads[:limit]], total=len(heads))

    @app.get("/sessions/{reference}", tags=["server"], responses={404: {"description": "There is no such session."}})
    def session(reference: str) -> Session:
        """One of them, by name, id or the beginning of its id, with its conversation."""
        missing = f"There is no session {reference[:80]!r}; it may have been removed to keep the budget of the disk."
        try:
            if store is None:
                raise UserError(missing)
            head = store.find(reference)
        except UserError:
            raise ApiError("not_found", missing, "reference") from None
        messages, tools = _conversation(head.messages)
        thinking = head.options.get("thinking")
        return Session(
            **_summary(head),
            messages=messages,
            tools=tools,
            thinking=thinking if isinstance(thinking, bool) else None,
        )


def _summary(head: Head) -> dict[str, Any]:
    return {
        "id": head.id,
        "name": head.name,
        "title": head.title,
        "model": head.model,
        "tokens": head.tokens,
        "bytes": head.nbytes,
        "created": head.created,
        "used": head.used,
    }


def _conversation(
    messages: list[dict[str, Any]] | None,
) -> tuple[list[dict[str, Any]] | None, list[dict[str, Any]]]:
    """(messages as a chat completion takes them, tools), from the form of `encode_messages`, which has the tools in the
    system message.
    """
    if messages is None:
        return None, []
    tools = [tool for message in messages for tool in message.get("tools") or ()]
    shown = [{key: message[key] for key in _KEYS if message.get(key) is not None} for message in messages]
    # A system message that only brought the tools has nothing to say.
    return [message for message in shown if message.get("role") != "system" or message.get("content")], tools
