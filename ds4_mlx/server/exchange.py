"""Between the engine's thread and asyncio: the pieces of one request's answers, in order, as they come.

Knows nothing of HTTP, nor of any API.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from ds4_mlx.engine.request import Done, Engine, Failed, Piece, Request, Ticket


class Arrival(NamedTuple):
    """A piece of answer number `choice`."""

    choice: int
    piece: Piece


class Exchange:
    """The answers to one request. Made on the event loop; `submit` may run in a worker thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._arrived: deque[Arrival] = deque()
        self._waking = False
        self._lock = threading.Lock()
        self._tickets: list[Ticket] = []
        self._closed = False
        self._open = 0  # answers that are not complete

    @property
    def finished(self) -> bool:
        """Whether the last piece of every answer has been taken."""
        return self._open == 0

    def submit(self, engine: Engine, requests: Sequence[Request]) -> None:
        """Hands the requests to the engine. If it does not take one of them, none is made. Raises what it raises."""
        self._open = len(requests)
        try:
            for choice, request in enumerate(requests):
                ticket = engine.submit(request, partial(self._deliver, choice))
                with self._lock:
                    self._tickets.append(ticket)
        except BaseException:
            self.close()
            raise
        if self._closed:  # the client went away meanwhile
            self.close()

    def close(self) -> None:
        """Nobody waits for the answers any more. Stops the work on them; may be called at any time, more than once."""
        self._closed = True
        with self._lock:
            tickets, self._tickets = self._tickets, []
        for ticket in tickets:
            ticket.cancel()

    async def take(self, deadline: float) -> list[Arrival]:
        """What has arrived since the last call, at least one piece; nothing when the deadline (in the loop's time)
        passes first.
        """
        if not self._arrived:
            timer = self._loop.call_at(deadline, self._ready.set)
            try:
                await self._ready.wait()
            finally:
                timer.cancel()
        self._ready.clear()
        self._waking = False  # before the pieces are taken: one that arrives now wakes us again
        taken = []
        while self._arrived:
            taken.append(self._arrived.popleft())
        self._open -= sum(isinstance(arrival.piece, (Done, Failed)) for arrival in taken)
        return taken

    def _deliver(self, choice: int, piece: Piece) -> None:
        """On the engine's thread."""
        self._arrived.append(Arrival(choice, piece))
        if not self._waking:
            self._waking = True
            with suppress(RuntimeError):  # the server has stopped and its loop is closed
                self._loop.call_soon_threadsafe(self._ready.set)
