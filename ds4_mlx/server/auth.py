"""Who may ask: one key, in either of the headers that clients use."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers

# Without a key, these still answer: the page asks for one, and a load balancer has none.
PUBLIC = ("/", "/health", "/favicon.ico")


def allowed(headers: Headers, key: str | None) -> bool:
    """Whether the headers bring the key, as `Authorization: Bearer` or `x-api-key`. Without a key, everybody's do."""
    if key is None:
        return True
    given = headers.get("x-api-key") or ""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    offered = [given, token.strip() if scheme.lower() == "bearer" else ""]
    # Compared in a time that does not tell how much of it is right.
    matches = [hmac.compare_digest(one.encode(), key.encode()) for one in offered]
    return any(matches)
