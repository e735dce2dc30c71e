"""A piece of a sequence's memory as named arrays: what is written to disk, and read back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import mlx.core as mx
import numpy as np


@dataclass(frozen=True)
class Segment:
    """Tokens start to start + n of a sequence.

    kind: "pages" is a whole number of full pages (n > 0, start a multiple of 128), with the boundary state at its end
    if one is kept; "tail" is what lies behind the last full page (n is 0 to 127), with the complete state there.
    arrays: `pages.<ratio>.entries.<part>` [layers of that ratio, rows, width] and `pages.<ratio>.index.<part>`, rows in
    order of position; `state.window.<part>` [layers, rows, width], `state.<ratio>.compressor.values` and `.gates`,
    `state.4.compressor.before.values`, `state.4.index_compressor...` (docs/sessions.md); `logits` float32 [vocab], of
    the token after the last, if known. Parts are those of the row formats that `info` names. What would have no rows is
    left out. text: what the tokens read as, for people; the ids are what counts.
    """

    start: int
    token_ids: np.ndarray  # int32 [n]
    arrays: dict[str, mx.array]
    kind: Literal["pages", "tail"]
    info: dict[str, str] = field(default_factory=dict)
    text: str = ""

    @property
    def has_state(self) -> bool:
        """Whether a sequence can go on from its end."""
        return any(name.startswith("state.") for name in self.arrays)

    @property
    def stop(self) -> int:
        """The position after the last token."""
        return self.start + len(self.token_ids)
