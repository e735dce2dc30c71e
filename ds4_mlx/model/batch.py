"""The tokens of one call: a flat list that belongs to one or several sequences.

Dense layers, experts and hyper-connections see the flat list. Attention, compressors and the indexer walk over the
spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from ds4_mlx.cache import SequenceState
from ds4_mlx.model.rope import Rope, RopeTable


@dataclass(frozen=True)
class Span:
    """Tokens start..stop of the flat list are those at `position`, `position` + 1, ... of the sequence `state`."""

    state: SequenceState
    start: int
    stop: int
    position: int

    @property
    def length(self) -> int:
        """Tokens of this sequence in this call."""
        return self.stop - self.start

    @property
    def rows(self) -> slice:
        """Where they are in the flat list."""
        return slice(self.start, self.stop)


@dataclass
class Batch:
    """T flat tokens: ids int32 [T], their positions int64 [T] (on the host), and the spans that own them."""

    ids: mx.array
    positions: np.ndarray
    spans: list[Span]
    _tables: dict[int, RopeTable] = field(default_factory=dict)

    @classmethod
    def of(cls, parts: Sequence[tuple[SequenceState, np.ndarray | mx.array]]) -> Batch:
        """Joins (state, token ids [n]) pairs, each continuing its sequence where it stands.

        Ids may be arrays that are not evaluated yet: only their number is needed here.
        """
        spans, start = [], 0
        for state, ids in parts:
            spans.append(Span(state, start, start + ids.shape[0], state.position))
            start += ids.shape[0]
        positions = np.concatenate([np.arange(s.position, s.position + s.length) for s in spans])
        flat = mx.concatenate([mx.array(ids).astype(mx.int32) for _, ids in parts])
        return cls(flat, positions, spans)

    def advance(self) -> None:
        """Tells every sequence that its tokens have passed all layers."""
        for span in self.spans:
            span.state.position += span.length

    def table(self, rope: Rope) -> RopeTable:
        """Cosines and sines at every token; made once per kind of rope and call."""
        key = id(rope)
        if key not in self._tables:
            self._tables[key] = rope.table(self.positions)
        return self._tables[key]
