"""A session coming from disk while others go on: a thread reads files, the engine takes segment after segment."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import mlx.core as mx

from ds4_mlx.cache import Import, Segment
from ds4_mlx.cache.segment_file import Link
from ds4_mlx.engine import threads
from ds4_mlx.engine.session import Session

if TYPE_CHECKING:
    from ds4_mlx.engine.language_model import LanguageModel

_AHEAD = 2  # segments that wait for the engine


class Restoring:
    """Reads a chain of segments. `step` and `finish` belong to the engine's thread, which `wake` calls for."""

    def __init__(self, model: LanguageModel, chain: Sequence[Link], wake: Callable[[], None]) -> None:
        self._model, self._wake = model, wake
        self._import = Import(model.cache)
        self._read: queue.Queue[Segment | None] = queue.Queue(_AHEAD)
        self._dropped = threading.Event()
        threads.start(lambda: self._run(chain))

    def _run(self, chain: Sequence[Link]) -> None:
        try:
            for segment in self._model.store.read_chain(chain):
                mx.eval(*segment.arrays.values())  # another thread cannot evaluate what this one left open
                if not self._put(segment):
                    return
        finally:
            self._put(None)

    def _put(self, segment: Segment | None) -> bool:
        while not self._dropped.is_set():
            try:
                self._read.put(segment, timeout=0.1)
            except queue.Full:
                continue
            self._wake()
            return True
        return False

    @property
    def ready(self) -> bool:
        """Whether `step` has something to do."""
        return not self._read.empty()

    def step(self) -> bool:
        """Takes the next segment into pages if it is there; whether there may be more. Raises `UserError` where one
        does not fit.
        """
        try:
            segment = self._read.get_nowait()
        except queue.Empty:
            return True
        if segment is not None:
            self._import.add(segment)
        return segment is not None

    def finish(self) -> Session:
        """The session, as far as its files were sound."""
        return Session(self._model, self._import.finish())

    def drop(self) -> None:
        """Nobody waits for it any more."""
        self._dropped.set()
