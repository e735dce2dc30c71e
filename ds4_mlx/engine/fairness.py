"""Whose prompt is read next, and how much of it at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from ds4_mlx.engine.feeding import default_chunk

_OLDEST_EVERY = 4  # turns
_SMALLEST = 32  # tokens in a chunk
_STALL = 0.5  # seconds that a chunk may take while others decode


class Reader(Protocol):
    """A prompt that is being read, or waits to be."""

    number: int

    @property
    def left(self) -> int:
        """Tokens to go."""


R = TypeVar("R", bound=Reader)


class Turns:
    """The shortest rest comes first, so that a title is not kept waiting by a long document; every fourth turn is that
    of the one that came first, so that nothing starves.
    """

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, readers: Sequence[R], hurry: Mapping[int, int] | None = None) -> R:
        """One of them. hurry: number of a reader -> the shortest rest of those that wait for what it reads."""
        self._turn += 1
        if self._turn % _OLDEST_EVERY == 0:
            return min(readers, key=lambda reader: reader.number)
        hurry = hurry or {}
        return min(readers, key=lambda r: (min(r.left, hurry.get(r.number, r.left)), r.number))


class Pace:
    """How many prompt tokens go into a call: as many as pay off, but where others decode only what takes half a second
    by what was measured so far. Powers of two, so that calls keep few shapes.
    """

    def __init__(self, chunk: int | None = None, busy_chunk: int | None = None) -> None:
        self._most = chunk or default_chunk()
        self._busy = busy_chunk
        self._rate = 0.0  # tokens a second

    def chunk(self, *, busy: bool) -> int:
        """Tokens. busy: others decode in the same call."""
        if not busy:
            return self._most
        if self._busy is not None:
            return self._busy
        if not self._rate:
            return max(_SMALLEST, self._most // 4)
        affordable = max(_SMALLEST, int(self._rate * _STALL))
        return min(self._most, 1 << (affordable.bit_length() - 1))

    def note(self, tokens: int, seconds: float) -> None:
        """Tells how long a call took that read that many tokens."""
        if tokens >= _SMALLEST and seconds > 0:
            rate = tokens / seconds
            self._rate = rate if not self._rate else 0.7 * self._rate + 0.3 * rate
