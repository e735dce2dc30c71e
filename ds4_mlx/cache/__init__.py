"""What a model remembers of a sequence between calls.

May import config, quant and kernels. Knows shapes and positions; does not know how rows are computed or what attends to
them.
"""

from ds4_mlx.cache.rows import RowFormat, index_format, kv_format
from ds4_mlx.cache.sizes import bytes_per_token, fixed_bytes, session_bytes
from ds4_mlx.cache.state import CompressorState, LayerState, RowBuffer, SequenceState, last_rows

__all__ = [
    "CompressorState",
    "LayerState",
    "RowBuffer",
    "RowFormat",
    "SequenceState",
    "bytes_per_token",
    "fixed_bytes",
    "index_format",
    "kv_format",
    "last_rows",
    "session_bytes",
]
