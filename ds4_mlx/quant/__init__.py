"""Weight formats and the rounding that the model was trained with.

A format says which arrays hold a quantised matrix and how they decode; `get_format` finds one by name. `simulate` holds
the FP8/FP4 round trips of the cache and the activations (spec 7). May be imported by everything above it; knows nothing
of models, files or kernels.
"""

from ds4_mlx.quant.formats import FORMATS, Format, get_format

__all__ = ["FORMATS", "Format", "get_format"]
