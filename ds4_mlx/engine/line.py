"""Where requests stand: waiting, coming from disk, being read, decoding; and whose prompt is read next."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ds4_mlx.cache import PAGE
from ds4_mlx.engine.fairness import Turns
from ds4_mlx.engine.work import Work

if TYPE_CHECKING:
    from ds4_mlx.cache import PagedCache

WORTH_SHARING = 2 * PAGE  # tokens for which a prompt waits until another has read what both begin with
_PATIENCE = 16  # requests that may pass another one, which may be too large for the moment; then it is next


class Line:
    """The requests of an engine. max_batch: how many decode together, and how many long prompts are begun at once."""

    def __init__(self, cache: PagedCache, max_batch: int) -> None:
        self._cache, self._max_batch, self._turns = cache, max_batch, Turns()
        self.waiting: list[Work] = []
        self.restoring: list[Work] = []
        self.prefilling: list[Work] = []  # those whose prompt is read but for the last token as well
        self.decoding: list[Work] = []

    def begun(self) -> list[Work]:
        """Those that left the queue."""
        return [*self.restoring, *self.prefilling, *self.decoding]

    def all(self) -> list[Work]:
        """Everybody."""
        return [*self.waiting, *self.begun()]

    def leave(self, work: Work) -> None:
        """Forgets one, wherever it stands."""
        for works in (self.waiting, self.restoring, self.prefilling, self.decoding):
            if work in works:
                works.remove(work)

    def join(self, work: Work) -> None:
        """A new one."""
        work.known = self._cache.match(work.prompt[:-1]).length
        for other in self.prefilling:
            _keep_for(other, work)
        self.waiting.append(work)

    def begin(self, work: Work) -> None:
        """One leaves the queue."""
        self.waiting.remove(work)
        for other in self.waiting:
            other.passed += other.number < work.number

    def read(self, work: Work) -> None:
        """One that has its session is read from now on."""
        self.prefilling.append(work)
        for other in self.waiting:
            _keep_for(work, other)

    def decode(self, work: Work) -> None:
        """One that was read decodes from now on."""
        self.prefilling.remove(work)
        self.decoding.append(work)

    def start_over(self) -> None:
        """After memory was lost: those that do not decode yet wait again."""
        again = [*self.restoring, *self.prefilling]
        for work in again:
            work.start_over()
        self.restoring, self.prefilling = [], []
        self.waiting = sorted([*again, *self.waiting], key=lambda work: work.number)

    def next(self, chunk: int, taken: Collection[Work]) -> Work | None:
        """Whose prompt is read next, beside those taken already; None if nobody's can be.

        chunk: how many tokens it may read. One is only read if it can decode afterwards.
        """
        if len(self.decoding) + len(taken) >= self._max_batch:
            return None
        readers = [work for work in self.prefilling if work not in taken]
        hurry: dict[int, int] = {}
        begun = self.begun()
        passed = [work for work in self.waiting if work.passed >= _PATIENCE]
        for work in passed or self.waiting:
            before = next((other for other in begun if _waits_for(work, other)), None)
            if before is not None:
                hurry[before.number] = min(work.left, hurry.get(before.number, work.left))
            elif self._may_begin(work, begun, chunk):
                readers.append(work)
        return self._turns.choose(readers, hurry) if readers else None

    def _may_begin(self, work: Work, begun: list[Work], chunk: int) -> bool:
        """Few prompts are read at a time, those that are quickly done aside, and memory has to do for all; but a single
        request may have more than the budget.
        """
        if not begun:
            return True
        few = len(self.prefilling) + len(self.restoring) < self._max_batch
        budget, page_bytes = self._cache.budget, self._cache.pool.page_bytes
        fits = budget is None or sum(other.pages() for other in [*begun, work]) * page_bytes <= budget
        return fits and (few or work.left <= chunk)


def _keep_for(reader: Work, work: Work) -> None:
    """Sees to it that a prompt being read leaves the state where another one can go on from."""
    if reader.feed is not None and reader.shares(work) - work.known >= WORTH_SHARING:
        reader.feed.keep_at([reader.shares(work)])


def _waits_for(work: Work, other: Work) -> bool:
    """Whether the other one is reading, or about to get from disk, what this one begins with as well."""
    if other.restoring is None and other.session is None:
        return False
    shared = other.shares(work)
    to_come = other.session is None or shared > other.session.position
    return to_come and shared - work.known >= WORTH_SHARING
