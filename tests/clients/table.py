"""The table that the scripts print."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """What a client did. second: cached tokens of the prompt of its second turn, of how many."""

    client: str
    version: str
    engine: str
    turns: int
    executed: int
    second: str
    verdict: str


HEAD = Row("client", "version", "engine", "turns", "calls executed", "cached, 2nd turn", "verdict")  # type: ignore[arg-type]


def show(rows: list[Row]) -> None:
    """Markdown."""
    print("| " + " | ".join(str(cell) for cell in HEAD) + " |")
    print("|---" * len(HEAD) + "|")
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |", flush=True)
