"""Model folders on disk: what they must hold, whether they do, and how their tensors become the model's arrays.

May import config, quant and errors. Knows nothing of how the arrays are used.
"""

from ds4_mlx.checkpoint.folder import Checkpoint, open_checkpoint

__all__ = ["Checkpoint", "open_checkpoint"]
