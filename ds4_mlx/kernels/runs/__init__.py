"""How kernels read weights: 32 at a time, one format per file.

A `RunText` is Metal text that every kernel reading expert matrices is assembled from. `header` declares

    struct Run                            what 32 neighbouring weights of a row are stored as
    Run load_run(ARRAYS, size_t number)   reads run `number` of all runs of a matrix stack (rows of K / 32 runs)
    PART                                  how many weights are decoded at once, 8 or 16
    raw_part(run, table, int i, thread float* v)  v[PART], cheap to decode: what the weights from i * PART on are up to
                                          a scale and an offset

and, for matrix times vector, where a weight is used once or a few times, `rows`:

    float finish_run(run, dots, sums)     sum of x * w over the run from those of x * v (`dots`) and of x (`sums`),
                                          both float2: over the first and the second 16 weights

or, for tiles, `tiles`, which may use `raw_run` (all parts) and `tensor_text`:

    weights_run(run, table, thread float* w)  w[32], the weights themselves, rounded as `Format.decode` in float32
    APART                                 how far from one another the two weights are that are decoded together
    pairs_run(run, table, thread uint* words)  words[16] of two halves, 1024 times the weights rounded to them: 0 and
                                          APART, 1 and APART + 1, ... of every 2 * APART
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
