"""What a format's Metal text has to offer; see the package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from ds4_mlx.quant.formats import get_format


@dataclass(frozen=True)
class RunText:
    """Metal text for a format.

    `header` reads and decodes runs, `rows` finishes a dot product with one, `tiles` makes weights of one; the package's
    docstring says how.

    `blocks`, where rows are whole blocks of 256 weights and tensor cores are worth it, makes pairs for `block_text`.

    `table` makes what the decoding looks up, uint32 words, which each threadgroup copies to its own memory; None if the
    format needs none.
    """

    format: str
    header: str
    rows: str
    tiles: str
    table: Callable[[], mx.array] | None = None
    blocks: str | None = None

    def arrays(self, matrix: str) -> list[str]:
        """The names of a matrix's arrays among a kernel's inputs."""
        return [f"{matrix}_{part.name}" for part in get_format(self.format).parts]

    @property
    def table_text(self) -> str:
        """The beginning of a body: `table` in threadgroup memory, filled from the input `lookup`."""
        if not self.table:
            return "threadgroup uint table[1];"
        return """threadgroup uint4 aligned_table[TABLE / 4];
    threadgroup uint* table = (threadgroup uint*)aligned_table;
    for (uint i = thread_index_in_threadgroup; i < TABLE; i += 32 * SIMDGROUPS) { table[i] = lookup[i]; }
    threadgroup_barrier(mem_flags::mem_threadgroup);"""

    @property
    def table_size(self) -> int:
        """Words of the table."""
        return self.table().size if self.table else 0
