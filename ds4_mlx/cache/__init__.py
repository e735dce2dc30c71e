"""What a model remembers of sequences between calls.

May import config, quant, kernels, and from checkpoint how files of arrays are read. Knows shapes, positions and token
ids; does not know how rows are computed or what attends to them.
"""

from ds4_mlx.cache.exchange import Import, export_segments, format_info, import_segments, iter_segments
from ds4_mlx.cache.paged import CachedSequence, Figures, PagedCache, SequenceMark
from ds4_mlx.cache.pool import PAGE, LayerPages, PagePool, PageTable, RowsOf, written
from ds4_mlx.cache.rows import RowFormat, index_format, kv_format
from ds4_mlx.cache.segment import Segment
from ds4_mlx.cache.sizes import boundary_bytes, bytes_per_token, fixed_bytes, session_bytes
from ds4_mlx.cache.slices import Rows
from ds4_mlx.cache.state import LayerState, SequenceState
from ds4_mlx.cache.tree import Match, value

__all__ = [
    "PAGE",
    "CachedSequence",
    "Figures",
    "Import",
    "LayerPages",
    "LayerState",
    "Match",
    "PagePool",
    "PageTable",
    "PagedCache",
    "RowFormat",
    "Rows",
    "RowsOf",
    "Segment",
    "SequenceMark",
    "SequenceState",
    "boundary_bytes",
    "bytes_per_token",
    "export_segments",
    "fixed_bytes",
    "format_info",
    "import_segments",
    "index_format",
    "iter_segments",
    "kv_format",
    "session_bytes",
    "value",
    "written",
]
