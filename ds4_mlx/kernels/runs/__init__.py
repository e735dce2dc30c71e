"""How kernels read weights: 32 at a time, one format per file.

A `RunText` is Metal text that every kernel reading expert matrices is assembled from. It declares

    struct Run                            what 32 neighbouring weights of a row are stored as
    Run load_run(ARRAYS, size_t number)   reads run `number` of all runs of a matrix stack (rows of K / 32 runs)
    raw_run(run, table, thread float* v)  v[32], cheap to decode: what weights are up to a scale and an offset
    float finish(run, dots, sums)         sum of x * w over the run from those of x * v (`dots`) and of x (`sums`),
                                          both float2: over the first and the second 16 weights
    weights_run(run, table, thread float* w)  w[32], the weights themselves, rounded as `Format.decode` in float32

`raw_run` and `finish` are for matrix times vector, where a weight is used once or a few times; `weights_run` for tiles.
"""

from __future__ import annotations

from functools import cache

import mlx.core as mx

from ds4_mlx.errors import UserError
from ds4_mlx.kernels.runs import iq2_xxs, mxfp4, q2_k, q4_k
from ds4_mlx.kernels.runs.base import RunText

__all__ = ["FORMATS", "RunText", "lookup", "run_text"]

_TEXTS = {module.TEXT.format: module.TEXT for module in (iq2_xxs, q2_k, q4_k, mxfp4)}
FORMATS = tuple(_TEXTS)


def run_text(name: str) -> RunText:
    """The text for the format `name`. Raises `UserError` naming those that have one."""
    try:
        return _TEXTS[name]
    except KeyError:
        raise UserError(f"Kernels read experts in {', '.join(sorted(_TEXTS))}; {name!r} is not among them.") from None


@cache
def lookup(name: str) -> list[mx.array]:
    """The format's table, the last input of its kernels; nothing where it has none."""
    table = run_text(name).table
    return [table()] if table else []
