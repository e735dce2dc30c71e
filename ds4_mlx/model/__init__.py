"""DeepSeek V4 in plain mx ops: one file per idea, DeepSeek's names for weights.

Reads like the paper, top to bottom, with no fast path inside: it defines what every kernel must reproduce. May import
config, quant, kernels and cache. Knows nothing of files, text or sampling.

    ids [T] -> embed -> streams [T, 4, D] -> blocks -> hc_head -> norm -> head -> logits [T, vocab]
"""

from ds4_mlx.model.batch import Batch, Span
from ds4_mlx.model.linear import Numerics
from ds4_mlx.model.transformer import Transformer

__all__ = ["Batch", "Numerics", "Span", "Transformer"]
