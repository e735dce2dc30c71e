"""The search of Q2_K: for each 16 weights a scale and a minimum by least squares, from a few starts, and the codes.

A group's weights are scale * code - minimum, codes 0 to 3, scale and minimum not negative.
"""

from __future__ import annotations

import mlx.core as mx

from ds4_mlx.quant.encoders.scales import share_scale, stretch

LARGEST = 65504.0 * 15  # downwards; upwards the format reaches three times as far

# Where a group's search begins: the range from its lowest to its highest weight in steps, and the part of a step by
# which code 0 stands above the lowest. ggml tries 37 numbers of steps, none of them above the lowest, and fits once.
_STARTS = ((2.4, 0.0), (2.4, 0.3), (3.4, 0.0), (3.4, 0.3))
_FITS = 3


def encode_blocks(x: mx.array, w: mx.array, amax: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """Blocks as `BlockEncoder` takes them -> q uint32 [n, 16], sm uint8 [n, 16], dm float16 [n, 2]."""
    x, w = (mx.unflatten(a, -1, (16, 16)) for a in (x, w))  # [n, 16 groups, 16]
    scale, minimum, product = search(x, w)
    factor = stretch((w * x * x).sum(axis=(1, 2)), product.sum(axis=-1))[:, None]
    x, scale, minimum = x * factor[..., None], scale * factor, minimum * factor
    codes = codes_for(x, scale, minimum)
    d, steps, scale = share_scale(scale, (w * codes * codes).sum(axis=-1), amax)
    # The rounded scale has a best minimum of its own.
    codes = codes_for(x, scale, minimum)
    minimum = mx.maximum((w * (scale[..., None] * codes - x)).sum(axis=-1) / w.sum(axis=-1), 0)
    dmin, min_steps, minimum = share_scale(minimum, w.sum(axis=-1), amax)
    codes = codes_for(x, scale, minimum).astype(mx.uint32)
    q = (codes << mx.arange(0, 32, 2, dtype=mx.uint32)).sum(axis=-1)
    return q, (steps | min_steps << 4).astype(mx.uint8), mx.stack([d, dmin], axis=-1)


def search(x: mx.array, w: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """Weights x, importances w [n, 16, 16] -> scale, minimum, sum of w * x * q, each [n, 16], of the best fit."""
    lowest = mx.minimum(x.min(axis=-1), 0)
    span = x.max(axis=-1) - lowest
    scale, minimum, product = _fit(x, w, mx.zeros_like(x))
    for steps, shift in _STARTS:
        s = span / steps
        m = -lowest - shift * s
        for _ in range(_FITS):
            s, m, p = _fit(x, w, codes_for(x, s, m))
            better = p > product
            scale, minimum, product = (mx.where(better, *pair) for pair in ((s, scale), (m, minimum), (p, product)))
    return scale, minimum, product


def _fit(x: mx.array, w: mx.array, codes: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """The least-squares scale and minimum for codes [n, 16, 16], and the sum of w * x * q with their values q, [n, 16].

    That sum is also what the error falls by against rounding everything to 0.
    """
    total, sum_x, sum_codes = w.sum(axis=-1), (w * x).sum(axis=-1), (w * codes).sum(axis=-1)
    mean = sum_codes / total
    centred = codes - mean[..., None]
    spread, covariance = (w * centred * centred).sum(axis=-1), (w * centred * x).sum(axis=-1)
    squares, products = spread + mean * sum_codes, covariance + mean * sum_x  # of the codes, of codes and x
    free = spread > 1e-9 * squares  # else all codes are the same
    scale = mx.where(free, covariance / mx.where(free, spread, 1), 0)
    minimum = scale * mean - sum_x / total
    # A minimum below 0 is not to be had: then the line goes through 0.
    through_zero = mx.where(squares > 0, products / mx.where(squares > 0, squares, 1), 0)
    scale = mx.maximum(mx.where(free & (minimum >= 0), scale, through_zero), 0)
    minimum = mx.maximum(mx.where(scale > 0, minimum, -sum_x / total), 0)
    return scale, minimum, scale * products - minimum * sum_x


def codes_for(x: mx.array, scale: mx.array, minimum: mx.array) -> mx.array:
    """The codes, float32 [n, 16, 16], that bring scale * code - minimum nearest to x; 0 where the scale is 0."""
    some = scale > 1e-20
    inverse = mx.where(some, 1 / mx.where(some, scale, 1), 0)
    return mx.clip(mx.round((x + minimum[..., None]) * inverse[..., None]), 0, 3)
