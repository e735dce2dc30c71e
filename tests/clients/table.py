"""The table that the scripts print."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """What a client did. second: cached tokens of the prompt of its second turn, of how many; fresh: the same for the
    first prompt of a new conversation.
    """

    client: str
    version: str
    engine: str
    turns: int
    executed: int
    second: str
    fresh: str
    verdict: str


HEAD = (
    "client",
    "version",
    "engine",
    "turns",
    "calls executed",
    "cached, turn 2",
    "cached, new conversation",
    "verdict",
)


def show(rows: list[Row]) -> None:
    """Markdown."""
    print("| " + " | ".join(HEAD) + " |")
    print("|---" * len(HEAD) + "|")
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |", flush=True)
