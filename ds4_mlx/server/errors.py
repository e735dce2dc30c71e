"""What can go wrong with a request, and how each API says it.

Clients act on these: they retry a 5xx and a 429, compact a conversation that is too long only when the wording is one
they know (docs/server.md), and give up at a 400. So a client's mistake is never a 5xx.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Dialect = Literal["openai", "anthropic"]

# Our word for it -> (HTTP status, OpenAI's type, Anthropic's type)
_KINDS: dict[str, tuple[int, str, str]] = {
    "invalid_request": (400, "invalid_request_error", "invalid_request_error"),
    "authentication": (401, "authentication_error", "authentication_error"),
    "forbidden": (403, "permission_error", "permission_error"),
    "not_found": (404, "not_found_error", "not_found_error"),
    "method": (405, "invalid_request_error", "invalid_request_error"),
    "too_large": (413, "invalid_request_error", "request_too_large"),
    "queue_full": (429, "rate_limit_error", "rate_limit_error"),
    "internal": (500, "server_error", "api_error"),
    "stopping": (503, "server_error", "overloaded_error"),
}
_ANTHROPIC_OVERLOADED = 529  # where others say 503

Kind = Literal[
    "invalid_request",
    "authentication",
    "forbidden",
    "not_found",
    "method",
    "too_large",
    "queue_full",
    "internal",
    "stopping",
]


@dataclass
class ApiError(Exception):
    """A request that gets no answer.

    param: the parameter to blame, such as "temperature" or "messages[2].content". code: OpenAI's word for programs.
    retry_after: seconds; without it, Codex does not retry a 429.
    """

    kind: Kind
    message: str
    param: str | None = None
    code: str | None = None
    retry_after: int | None = None

    def __str__(self) -> str:
        return self.message

    def status(self, dialect: Dialect) -> int:
        """The HTTP status."""
        if self.kind == "stopping" and dialect == "anthropic":
            return _ANTHROPIC_OVERLOADED
        return _KINDS[self.kind][0]

    def type(self, dialect: Dialect) -> str:
        """The API's word for this kind of error."""
        _, openai, anthropic = _KINDS[self.kind]
        return openai if dialect == "openai" else anthropic

    def text(self, dialect: Dialect) -> str:
        """The sentence, naming the parameter where the API has no field for it."""
        if dialect == "anthropic" and self.param and not self.message.startswith(self.param):
            return f"{self.param}: {self.message}"
        return self.message

    def headers(self) -> dict[str, str]:
        """Headers to go with the status."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    def body(self, dialect: Dialect, request_id: str = "") -> dict[str, Any]:
        """The JSON of the error."""
        if dialect == "anthropic":
            anthropic = {"type": self.type(dialect), "message": self.text(dialect)}
            return {"type": "error", "error": anthropic, "request_id": request_id}
        error = {"message": self.text(dialect), "type": self.type(dialect), "param": self.param, "code": self.code}
        return {"error": error}


@dataclass
class ContextOverflowError(ApiError):
    """The prompt has more tokens than fit. Each API's clients look for their own words."""

    tokens: int = 0
    limit: int = 0

    def text(self, dialect: Dialect) -> str:
        """The sentence that makes the API's clients compact their conversation."""
        if dialect == "anthropic":
            return f"prompt is too long: {self.tokens} tokens > {self.limit} maximum"
        return (
            f"This model's maximum context length is {self.limit} tokens. However, your messages resulted in "
            f"{self.tokens} tokens. Please reduce the length of the messages."
        )


def context_overflow(tokens: int, limit: int) -> ContextOverflowError:
    """The error for a prompt of `tokens` tokens where `limit` are allowed."""
    return ContextOverflowError(
        "invalid_request", "", param="messages", code="context_length_exceeded", tokens=tokens, limit=limit
    )


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A 400 that names the parameter."""
    return ApiError("invalid_request", message, param, code)


def unsupported(param: str, why: str) -> ApiError:
    """A 400 for a parameter of the API that this server does not honour."""
    return ApiError("invalid_request", f"{param} is not supported here: {why}", param, "unsupported_parameter")


def dialect_of(path: str) -> Dialect:
    """Which API's shapes a path speaks."""
    return "anthropic" if path.startswith("/v1/messages") else "openai"
