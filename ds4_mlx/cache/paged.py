"""The cache of a model: its pages, the prefix tree over them, a budget, and the sequences that live in it."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ds4_mlx.cache.pool import PAGE, PagePool
from ds4_mlx.cache.state import LayerState, Mark, SequenceState
from ds4_mlx.cache.tree import Match, Node, Place, PrefixTree, key_of
from ds4_mlx.errors import UserError

KEPT_EVERY = 2048  # tokens between the boundary states that are kept whatever happens


class Figures(NamedTuple):
    """What a cache holds. Bytes are those of rows and states; the pool's free pages are in `allocated_bytes` only."""

    bytes: int  # what the budget is about: pages in use and kept states
    budget: int | None
    allocated_bytes: int  # the pool, free pages included
    pages: int
    page_bytes: int
    boundary_states: int
    tail_states: int
    state_bytes: int
    sequences: int  # alive
    shared_bytes: int  # what living sequences would take more if each had its pages for itself
    hits: int  # matches that found something
    hit_tokens: int
    evicted_states: int


class PagedCache:
    """Everything a model remembers. Not for several threads at once: it belongs to the one that owns the GPU.

    budget: bytes of pages and kept states; what is worth least goes when they are passed. Pages of a living sequence
    stay, so a single long one may pass the budget. None: no bound.
    """

    def __init__(self, pool: PagePool, budget: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.pool = pool
        self.budget = budget
        self.clock = clock
        self.tree = PrefixTree(pool)
        self.sequences: weakref.WeakSet[CachedSequence] = weakref.WeakSet()
        self._hits = self._hit_tokens = self._evicted = 0

    def sequence(self, *, draft: int = 0) -> CachedSequence:
        """A sequence that has seen nothing. draft: tokens that can be taken back without feeding any again."""
        return CachedSequence(self, draft=draft)

    def match(self, token_ids: Sequence[int] | np.ndarray) -> Match:
        """The longest prefix of the token ids from which a sequence can go on, and why it is not longer."""
        return self.tree.match(np.asarray(token_ids, dtype=np.int32))

    def use(self, match: Match) -> Place | None:
        """Notes that the place of a match is used; returns it."""
        if match.place is not None:
            match.place.hits += 1
            match.place.used = self.clock()
            self._hits += 1
            self._hit_tokens += match.length
        return match.place

    @property
    def nbytes(self) -> int:
        """What the budget is compared with."""
        states = sum(place.nbytes for place in self.tree.places)
        tails = sum(1 for place in self.tree.places if place.tail) * self.pool.page_bytes  # counted with the pages
        return self.pool.used * self.pool.page_bytes + states - tails

    def evict(self) -> None:
        """Drops what is worth least until the budget is kept, or only living sequences are left."""
        if self.budget is None or self.nbytes <= self.budget:
            return
        for node in list(self.tree.nodes()):  # pages of sequences that ended without a state behind them
            self.tree.prune(node)
        while self.tree.places and self.nbytes > self.budget:
            now = self.clock()
            self.tree.drop(min(self.tree.places, key=lambda place: self.tree.worth(place, now)))
            self._evicted += 1

    def clear(self) -> None:
        """Forgets everything that no living sequence uses."""
        for place in list(self.tree.places):
            self.tree.drop(place)
        for node in list(self.tree.nodes()):
            self.tree.prune(node)
        for node in (self.tree.root, *self.tree.nodes()):
            node.lost.clear()

    def lose(self) -> None:
        """After the device failed: nothing is held any more, and living sequences feed what they know again."""
        self.pool.lose()
        self.tree = PrefixTree(self.pool)
        for sequence in self.sequences:
            sequence.start_over()

    def figures(self) -> Figures:
        """What is held now."""
        places, tables = self.tree.places, [sequence.state.table.pages for sequence in self.sequences]
        tails = sum(1 for place in places if place.tail)
        distinct = len({page for table in tables for page in table})
        return Figures(
            bytes=self.nbytes,
            budget=self.budget,
            allocated_bytes=self.pool.nbytes,
            pages=self.pool.used,
            page_bytes=self.pool.page_bytes,
            boundary_states=len(places) - tails,
            tail_states=tails,
            state_bytes=sum(place.nbytes for place in places),
            sequences=len(tables),
            shared_bytes=(sum(map(len, tables)) - distinct) * self.pool.page_bytes,
            hits=self._hits,
            hit_tokens=self._hit_tokens,
            evicted_states=self._evicted,
        )


class SequenceMark(NamedTuple):
    """Where a sequence stood."""

    length: int
    state: Mark
    logits: mx.array | None


class CachedSequence:
    """Token ids and the model's memory of them.

    The memory may be behind (`owed`): after going back to a place where no state is kept, say. Whoever feeds the
    sequence feeds what is owed first.
    """

    _TAILS = 2  # kept of one sequence: where its latest prompt ended, and where the answer did

    def __init__(self, cache: PagedCache, *, draft: int = 0) -> None:
        self.cache = cache
        self._token_ids: list[int] = []
        self._drawn: list[mx.array] = []  # those behind them that nobody has looked at yet, int [1]
        self.logits: mx.array | None = None  # float32 [vocab]: of the token after the last, if it is known
        self._draft = draft
        self._tails: list[Place] = []
        self.start_over()
        cache.sequences.add(self)

    def start_over(self) -> None:
        """Begins with an empty memory; the token ids are owed."""
        self.state = SequenceState(self.cache.pool, draft=self._draft)
        self.node: Node = self.cache.tree.root
        self._boundary: tuple[int, list[LayerState]] | None = None
        self.logits = None

    @property
    def token_ids(self) -> list[int]:
        """All tokens. Waits for the device where one of them was fed before it was known."""
        if self._drawn:
            drawn, self._drawn = self._drawn, []
            self._token_ids.extend(np.array(token).item() for token in drawn)
        return self._token_ids

    @token_ids.setter
    def token_ids(self, token_ids: list[int]) -> None:
        self._token_ids, self._drawn = token_ids, []

    @property
    def length(self) -> int:
        """How many tokens there are."""
        return len(self._token_ids) + len(self._drawn)

    def note_fed(self, token_ids: np.ndarray | mx.array) -> None:
        """Adds tokens that went through the model; an array of MLX has one, which need not be known yet."""
        if isinstance(token_ids, mx.array):
            self._drawn.append(token_ids)
        else:
            self.token_ids.extend(token_ids.tolist())

    @property
    def owed(self) -> list[int]:
        """Tokens that are known but not in memory."""
        return [] if self.length == self.state.position else self.token_ids[self.state.position :]

    def mark(self) -> SequenceMark:
        """For `go_back`."""
        return SequenceMark(self.length, self.state.mark(), self.logits)

    def go_back(self, mark: SequenceMark) -> None:
        """Takes back what was fed since `mark`, in memory and in the tree's eyes: as if it had never been."""
        self.token_ids = self.token_ids[: mark.length]
        self.state.go_back(mark.state)
        self.logits = mark.logits
        self._leave_pages()

    def fork(self) -> CachedSequence:
        """Another sequence with the same past, which it shares."""
        twin = CachedSequence(self.cache, draft=self._draft)
        twin.token_ids, twin.logits = list(self.token_ids), self.logits
        twin.state, twin.node, twin._boundary = self.state.fork(), self.node, self._boundary
        return twin

    def stored(self) -> None:
        """To be called when tokens were fed: enters full pages into the tree, and notes the state at a boundary."""
        entered = self.node
        self.enter_pages()
        self.note_boundary()
        if self.state.position % KEPT_EVERY == 0:
            self.keep_boundary()
        if self.node is not entered:
            self.cache.evict()

    def enter_pages(self) -> None:
        """Enters full pages into the tree."""
        while self.node.depth < self.state.full_pages:
            ids = np.array(self.token_ids[self.node.depth * PAGE : (self.node.depth + 1) * PAGE])
            self.node = self.cache.tree.enter(self.node, ids, self.state.table)

    def note_boundary(self) -> None:
        """Notes the state here if it is at a page boundary."""
        if self.state.position and self.state.position % PAGE == 0:
            self._boundary = self.state.position, list(self.state.layers)

    def path(self) -> list[Node]:
        """The nodes of the full pages, from the beginning on."""
        found, node = [], self.node
        while node.parent is not None:
            found.append(node)
            node = node.parent
        return found[::-1]

    def stops(self, count: int) -> list[int]:
        """Where a call that feeds `count` tokens has to pause, so that the states there can be kept: every 2,048 tokens
        and at the last page boundary. Numbers of tokens from here, `count` at the end.
        """
        begin = self.state.position
        end = begin + count
        kept = {*range((begin // KEPT_EVERY + 1) * KEPT_EVERY, end, KEPT_EVERY), end // PAGE * PAGE, end}
        return [position - begin for position in sorted(kept) if position > begin]

    def keep_boundary(self) -> None:
        """Keeps the state at the latest page boundary, if it was there between two calls."""
        if self._boundary is not None:
            position, layers = self._boundary
            node = self.node
            while node.depth * PAGE > position and node.parent is not None:
                node = node.parent
            self.cache.tree.keep(node, b"", self.state, layers, self.cache.clock())

    def keep(self) -> None:
        """Keeps the state at the latest page boundary and, within a page, the one here: at the end of a message."""
        self.keep_boundary()
        state = self.state
        if state.position % PAGE:
            tail = key_of(np.array(self.token_ids[state.full_pages * PAGE : state.position]))
            place = self.cache.tree.keep(self.node, tail, state, state.layers, self.cache.clock())
            self._tails = [kept for kept in self._tails if kept is not place and kept in self.cache.tree.places]
            for old in self._tails[: max(0, len(self._tails) + 1 - self._TAILS)]:
                self.cache.tree.drop(old)
            self._tails = [*self._tails, place][-self._TAILS :]
        self.cache.evict()

    def go_to(self, match: Match, token_ids: list[int]) -> int:
        """Continues as a sequence of these token ids, from a match of them; returns how many are owed."""
        place = self.cache.use(match)
        self.start_over()
        self.token_ids = token_ids
        if place is not None:
            self.state, self.node = place.state(draft=self._draft), place.node
            if not place.tail:
                self._boundary = place.position, list(place.layers)
        return len(self.owed)

    def rewind(self, position: int) -> int:
        """Goes back to exactly `position` tokens; returns how many of them are owed, because no state is kept there."""
        if not 0 <= position <= len(self.token_ids):
            raise UserError(f"Cannot go back to {position}: the session holds {len(self.token_ids)} tokens.")
        if position == len(self.token_ids):
            return len(self.owed)
        token_ids, back = self.token_ids[:position], self.state.position - position
        if 0 < back <= self.state.reach:
            self._roll_back(back)
        elif back > 0:
            self.keep_boundary()
            return self.go_to(self.cache.match(token_ids), token_ids)
        self.token_ids, self.logits = token_ids, None
        return len(self.owed)

    def _roll_back(self, tokens: int) -> None:
        """Sets the length back by a draft's tokens."""
        self.state.roll_back(tokens)
        self._leave_pages()

    def _leave_pages(self) -> None:
        """Forgets what is behind the state's position."""
        while self.node.depth > self.state.full_pages and self.node.parent is not None:
            self.node = self.node.parent
        if self._boundary is not None and self._boundary[0] > self.state.position:
            self._boundary = None

    def resume(self, token_ids: list[int]) -> int:
        """Continues as a sequence of the longest prefix of the token ids that is in memory, its own or the cache's;
        returns its length. At least the last token is left to be fed, because logits are not kept with states.
        """
        match = self.cache.match(token_ids[:-1])
        held = self.state.position
        goes_on = len(self.token_ids) < len(token_ids) and self.token_ids == token_ids[: len(self.token_ids)]
        if goes_on and held >= match.length:
            self.token_ids = token_ids[:held]  # what it owed is part of what the caller will feed
            return held
        self.keep_boundary()
        self.go_to(match, token_ids[: match.length])
        return match.length
