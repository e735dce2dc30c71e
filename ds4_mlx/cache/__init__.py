"""What a model remembers of a sequence between calls.

May import config and quant. Knows shapes and positions; does not know how rows are computed or what attends to them.
"""

from ds4_mlx.cache.state import CompressorState, LayerState, RowBuffer, SequenceState, last_rows

__all__ = ["CompressorState", "LayerState", "RowBuffer", "SequenceState", "last_rows"]
