"""A session's head: what it is called, whose memory it is, which segments it consists of, and its conversation.

Knows nothing of directories but the bytes of one file: JSON with a checksum.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from ds4_mlx.cache.files import checksum
from ds4_mlx.cache.segment_file import DamagedError, Link, ModelMark

FORMAT = "ds4-mlx session 1"
_HASH, _ID = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True)
class Head:
    """Times are seconds since 1970. `revision` counts the saves; `hits` how often the session was restored."""

    id: str
    name: str | None
    model: str  # what a person calls it
    mark: ModelMark
    chain: tuple[Link, ...]
    created: float
    used: float
    saved: float
    revision: int = 0
    hits: int = 0
    messages: list[dict[str, Any]] | None = None  # the conversation as it was given and answered
    title: str = ""  # its first words
    options: dict[str, Any] = field(default_factory=dict)  # how it was held: thinking or not, say

    @property
    def tokens(self) -> int:
        """How many the session has seen."""
        return self.chain[-1].stop if self.chain else 0

    @property
    def nbytes(self) -> int:
        """Bytes of its segments, those shared with other sessions included."""
        return sum(link.nbytes for link in self.chain)

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"{self.id} ({self.name})" if self.name else self.id

    def without_messages(self) -> Head:
        """For the index."""
        return replace(self, messages=None)


def new_id() -> str:
    """Eight hexadecimal digits."""
    return secrets.token_hex(4)


def to_dict(head: Head) -> dict[str, Any]:
    """As JSON holds it."""
    return {**asdict(head), "mark": head.mark._asdict()}


def from_dict(value: dict[str, Any]) -> Head:
    """Back again. Raises `DamagedError` if it is none."""
    try:
        known = {f.name for f in fields(Head)}
        rest = {key: entry for key, entry in value.items() if key in known}
        chain = tuple(Link(**entry) for entry in rest.pop("chain"))
        if not all(_HASH.fullmatch(link.name) for link in chain) or not _ID.fullmatch(rest["id"]):
            raise DamagedError("it names files that are no segments")
        return Head(chain=chain, mark=ModelMark(**rest.pop("mark")), **rest)
    except (KeyError, TypeError, AttributeError):
        raise DamagedError("it is not the head of a session") from None


def encode(head: Head) -> bytes:
    """The file's bytes."""
    body = json.dumps(to_dict(head), ensure_ascii=False, separators=(",", ":"))
    seal = checksum(body.encode("utf-8", "surrogatepass"))
    return f'{{"format":"{FORMAT}","checksum":"{seal}","session":{body}}}\n'.encode("utf-8", "surrogatepass")


def decode(data: bytes) -> Head:
    """Reads a head. Raises `DamagedError` unless every byte is as it was written."""
    try:
        outer = json.loads(data.decode("utf-8", "surrogatepass"))
        if outer["format"] != FORMAT:
            raise DamagedError(f"it has the format {outer['format']!r}; this version reads {FORMAT!r}")
        head = from_dict(outer["session"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DamagedError("it is no whole JSON file") from None
    if encode(head) != data:
        raise DamagedError("its checksum does not match")
    return head
