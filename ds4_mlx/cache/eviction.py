"""What goes first when a directory of sessions passes its budget. Knows heads, no files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from ds4_mlx.cache.head import Head
from ds4_mlx.cache.tree import value


def alone(head: Head, users: Counter[str]) -> int:
    """Bytes that go with a session: those of segments that no other one needs. users: sessions by segment."""
    return sum(link.nbytes for link in head.chain if users[link.name] == 1)


def to_drop(heads: Sequence[Head], budget: int, now: float, protected: Collection[str] = ()) -> list[Head]:
    """The sessions to drop until what is left keeps the budget, least valuable first.

    A session is worth the tokens it spares over the bytes that go with it, by how lately (a half-life of six hours) and
    how often it was used. Those whose id is protected stay, even if the budget cannot be kept then.
    """
    left, dropped = list(heads), []
    users = Counter(link.name for head in left for link in head.chain)
    total = sum({link.name: link.nbytes for head in left for link in head.chain}.values())
    while total > budget:
        candidates = [head for head in left if head.id not in protected and alone(head, users)]
        if not candidates:
            break
        worst = min(
            candidates, key=lambda head: value(head.tokens, alone(head, users), head.hits, max(0.0, now - head.used))
        )
        total -= alone(worst, users)
        users.subtract(link.name for link in worst.chain)
        left.remove(worst)
        dropped.append(worst)
    return dropped
