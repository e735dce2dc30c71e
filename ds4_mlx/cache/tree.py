"""The prefix tree: which pages hold which tokens, and where along them a sequence can go on.

A node is one full page, found below its parent by its 128 token ids. A `Place` is a state kept behind a node: windows
and open blocks at the page boundary, or, with a page of its own, up to 127 tokens further. Pages alone are of no use to
a sequence that wants to go on; they serve the places below them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ds4_mlx.cache.pool import PAGE, PagePool, PageTable
from ds4_mlx.cache.state import LayerState, SequenceState

_HALF_LIFE = 6 * 3600.0  # seconds


def value(tokens: int, nbytes: int, hits: int, age: float) -> float:
    """What keeping something is worth: tokens it spares per byte, by how often and how lately (seconds) it was used."""
    return (hits + 1) * 2.0 ** (-age / _HALF_LIFE) * tokens / max(1, nbytes)


def key_of(token_ids: np.ndarray) -> bytes:
    """Token ids as a key."""
    return token_ids.astype(np.int32).tobytes()


def _ids(key: bytes) -> np.ndarray:
    return np.frombuffer(key, dtype=np.int32)


@dataclass(eq=False)
class Node:
    """One full page; the root stands for the beginning and has none."""

    parent: Node | None = None
    key: bytes = b""
    page: int = -1
    depth: int = 0  # pages from the beginning up to this one
    children: dict[bytes, Node] = field(default_factory=dict)
    places: dict[bytes, Place] = field(default_factory=dict)  # by the tokens behind the page
    lost: set[int] = field(default_factory=set)  # hashes of the children and places that were evicted

    def pages(self) -> list[int]:
        """The pages from the beginning up to this one."""
        found, node = [], self
        while node.parent is not None:
            found.append(node.page)
            node = node.parent
        return found[::-1]


@dataclass(eq=False)
class Place:
    """A state kept at `position`. `tail` are the tokens between the node's page and there; `open` holds their page."""

    node: Node
    tail: bytes
    layers: list[LayerState]
    open: PageTable
    nbytes: int
    used: float  # when, on the cache's clock
    hits: int = 0

    @property
    def position(self) -> int:
        """How many tokens the state has seen."""
        return self.node.depth * PAGE + len(self.tail) // 4

    def state(self, *, draft: int = 0) -> SequenceState:
        """A sequence that stands here."""
        state = SequenceState(self.open.pool, draft=draft)
        state.table = PageTable(state.pool, [*self.node.pages(), *self.open.pages])
        state.set_to(self.position, self.layers)
        return state


class Match(NamedTuple):
    """The longest usable prefix: its length in tokens, why it is not longer, and where it is kept (None: nowhere)."""

    length: int
    reason: str
    place: Place | None


class PrefixTree:
    """Nodes and places; knows nothing of budgets."""

    def __init__(self, pool: PagePool) -> None:
        self.pool = pool
        self.root = Node()
        self.places: set[Place] = set()

    def nodes(self) -> Iterator[Node]:
        """All pages, parents first."""
        stack = list(self.root.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def enter(self, parent: Node, token_ids: np.ndarray, table: PageTable) -> Node:
        """The node of a full page that a sequence has filled behind `parent`. If there was one already the table gets
        its page: the same tokens are held once.
        """
        key, depth = key_of(token_ids), parent.depth
        node = parent.children.get(key)
        if node is None:
            node = Node(parent, key, table.pages[depth], depth + 1)
            self.pool.retain([node.page])
            parent.children[key] = node
            parent.lost.discard(hash(key))
        elif node.page != table.pages[depth]:
            table.replace(depth, node.page)
        return node

    def keep(self, node: Node, tail: bytes, state: SequenceState, layers: list[LayerState], now: float) -> Place:
        """Keeps `layers`, a state `tail` behind the node; with a tail that of `state`, whose open page it shares."""
        held = node.places.get(tail)
        if held is not None:
            held.used = now
            return held
        open_ = PageTable(self.pool, [state.table.pages[node.depth]] if tail else [])
        layers = [layer.alone() for layer in layers]
        nbytes = sum(layer.nbytes for layer in layers)
        place = Place(node, tail, layers, open_, nbytes + (self.pool.page_bytes if tail else 0), now)
        node.places[tail] = place
        node.lost.discard(hash(tail))
        self.places.add(place)
        return place

    def match(self, token_ids: np.ndarray) -> Match:
        """The longest prefix of token ids [n] at whose end a state is kept."""
        node = self.root
        while True:
            child = node.children.get(key_of(token_ids[node.depth * PAGE : (node.depth + 1) * PAGE]))
            if child is None:
                break
            node = child
        deepest: Node = node
        place = None
        at: Node | None = node
        while at is not None and place is None:
            rest = key_of(token_ids[at.depth * PAGE : (at.depth + 1) * PAGE])
            fitting = [p for tail, p in at.places.items() if rest.startswith(tail)]
            place = max(fitting, key=lambda p: p.position, default=None)
            at = at.parent
        length = place.position if place else 0
        return Match(length, self._reason(deepest, token_ids, length), place)

    def _reason(self, node: Node, token_ids: np.ndarray, length: int) -> str:
        """Why what can be used ends at `length`, with pages held up to `node`."""
        if length == len(token_ids):
            return "all of it is held"
        if not self.root.children and not self.root.places:
            return "evicted" if self.root.lost else "empty"
        end = node.depth * PAGE
        if length < end:
            lost, at = False, node
            while at.parent is not None and at.depth * PAGE > length:
                lost, at = lost or hash(b"") in at.lost, at.parent
            what = "the states were evicted" if lost else "no state is kept"
            return f"pages are held up to {end}, but {what} above {length}"
        return self._difference(node, token_ids[end : end + PAGE], length)

    def _difference(self, node: Node, rest: np.ndarray, length: int) -> str:
        """The same where all of the page's tokens, `rest`, are behind what can be used."""
        if hash(key_of(rest)) in node.lost:
            return f"what followed {node.depth * PAGE} was evicted"
        behind = [_ids(key) for key in (*node.children, *node.places)]
        common = max((_common(rest, ids) for ids in behind), default=0)
        if common == len(rest):
            return f"these tokens are held, but no state is kept above {length}"
        if all(len(ids) <= common for ids in behind):
            return f"evicted beyond {length}" if node.lost else f"nothing is held beyond {length}"
        return f"differs at token {common} of page {node.depth}"

    def drop(self, place: Place) -> None:
        """Forgets a kept state, and the pages that served nothing else and are in no sequence's table."""
        self.places.discard(place)
        del place.node.places[place.tail]
        place.node.lost.add(hash(place.tail))
        self.prune(place.node)

    def prune(self, node: Node) -> None:
        """Forgets a page that nothing lies behind and no sequence uses, then its parent likewise."""
        while node.parent is not None and not node.children and not node.places and not self.in_use(node):
            parent = node.parent
            del parent.children[node.key]
            parent.lost.add(hash(node.key))
            self.pool.release([node.page])
            node = parent

    def in_use(self, node: Node) -> bool:
        """Whether a sequence names the page."""
        return self.pool.references[node.page] > 1

    def worth(self, place: Place, now: float) -> float:
        """Its value: the tokens to feed again without it, over the bytes that dropping it frees."""
        node = place.node
        freed, alone = place.nbytes, len(node.places) == 1 and not node.children
        while node.parent is not None and (node is place.node or b"" not in node.places):
            if node is place.node and place.tail and b"" in node.places:
                break
            alone = alone and not self.in_use(node)
            freed += self.pool.page_bytes if alone else 0
            node = node.parent
            alone = alone and len(node.children) == 1 and not node.places
        return value(place.position - node.depth * PAGE, freed, place.hits, now - place.used)


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens a and b begin with alike."""
    n = min(len(a), len(b))
    differs = np.flatnonzero(a[:n] != b[:n])
    return int(differs[0]) if differs.size else n
