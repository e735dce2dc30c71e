"""Who may ask: those with the key, in either of the headers that clients use; where there is none, not any web page.

A page on the internet can make its reader's browser send requests to this machine, and, by pointing its own name here,
read the answers. So without a key, a browser's requests must come from our own page or an origin that --cors names.
"""

from __future__ import annotations

import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers

# Without the key, these still answer: the page asks for one, and a load balancer has none.
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


def stranger(headers: Headers, origins: tuple[str, ...], *, local: bool) -> str | None:
    """The web site that a request comes from, or came to, if it is none of ours.

    origins: those that --cors names. local: whether only this machine can reach us; then no other site has our address.
    """
    if "*" in origins:
        return None
    host, origin = headers.get("host", ""), headers.get("origin")
    if origin is not None and origin not in origins and origin.partition("://")[2] != host:
        return origin
    known = [origin.partition("://")[2] for origin in origins]
    return host if local and host not in known and not _names_this_machine(host) else None


def _names_this_machine(host: str) -> bool:
    """Whether a Host header has an address or localhost. An attacker's name may point here, but stays his name."""
    try:
        name = urlsplit(f"//{host}").hostname
        if name is None or name == "localhost" or name.endswith(".localhost"):
            return True
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
