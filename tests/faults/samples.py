"""Sessions without a model. What they hold follows from their token ids, so anybody can tell whether it is right."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import mlx.core as mx
import numpy as np

from ds4_mlx.cache.segment import Segment
from ds4_mlx.cache.segment_file import ModelMark

PAGE, PIECE = 128, 256
MARK = ModelMark("checkpoint", "exact", "bfloat16")


def _array(ids: np.ndarray, start: int, salt: int) -> mx.array:
    """uint8 [32, 64] that the tokens and their place determine."""
    seed = [salt, start, *(int(i) for i in ids[:8]), int(ids.sum()) if len(ids) else 0, len(ids)]
    return mx.array(np.random.default_rng(seed).integers(0, 256, (32, 64), dtype=np.uint8))


def expected(ids: np.ndarray, start: int, stop: int, kind: str) -> Segment:
    """The segment of these tokens."""
    part = ids[start:stop]
    # A state follows from the tokens before it, wherever the segment begins.
    arrays = {"state.0.window.codes": _array(ids[:stop], stop, 2), "state.0.compressor.values": mx.ones((3, 5)) * stop}
    if len(part):
        arrays["pages.0.entries.codes"] = _array(part, start, 1)
    if kind == "tail":
        arrays["logits"] = mx.arange(10, dtype=mx.float32) + stop
    return Segment(start, part.astype(np.int32), arrays, kind, {"kv": "fp8"}, "".join(map(chr, part % 500 + 32)))  # type: ignore[arg-type]


def same(a: Segment, b: Segment) -> bool:
    """Whether two segments hold the same."""
    return (
        (a.start, a.stop, a.kind, a.info, a.text) == (b.start, b.stop, b.kind, b.info, b.text)
        and bool((a.token_ids == b.token_ids).all())
        and a.arrays.keys() == b.arrays.keys()
        and all(a.arrays[k].dtype == b.arrays[k].dtype and mx.array_equal(a.arrays[k], b.arrays[k]) for k in a.arrays)
    )


@dataclass
class Sample:
    """A session that grows."""

    ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))

    def grow(self, rng: np.random.Generator, tokens: int) -> None:
        """By random tokens."""
        self.ids = np.concatenate([self.ids, rng.integers(0, 1000, tokens).astype(np.int32)])

    def export(self, after: int) -> list[Segment]:
        """As a session's `export_segments`."""
        full = len(self.ids) // PAGE * PAGE
        cuts = [after, *range(after // PIECE * PIECE + PIECE, full, PIECE), full]
        pages = [expected(self.ids, a, b, "pages") for a, b in pairwise(cuts) if b > a]
        return [*pages, expected(self.ids, full, len(self.ids), "tail")] if len(self.ids) else []


def is_right(segments: list[Segment]) -> bool:
    """Whether segments are a session's, from its beginning on, byte for byte."""
    ids = np.concatenate([np.zeros(0, np.int32), *(part.token_ids for part in segments)])
    place = 0
    for part in segments:
        if part.start != place or not same(part, expected(ids, part.start, part.stop, part.kind)):
            return False
        place = part.stop
    return True
