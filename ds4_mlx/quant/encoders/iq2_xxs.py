"""The search of IQ2_XXS: the best of a few scales for each run of 32 weights, the best table entry for each 8 of them.

A run's weights are scale * magnitude * sign, magnitudes by eights from the 256 groups of `GRID`.
"""

from __future__ import annotations

from functools import cache

import mlx.core as mx
import numpy as np

from ds4_mlx.quant.encoders.scales import share_scale, stretch
from ds4_mlx.quant.iq2_xxs import GRID

LARGEST = 65504 * 15.5 / 4 * 43

_LEVELS = np.array([8, 25, 43], np.float32)  # the magnitudes in `GRID`

# Trial scales of a run, beside the fourth root of the weighted mean of x^4. The best scale nearly always lies between
# the first and the last, for normal, heavy-tailed and trained weights, importances with outliers too; beside the root
# mean square or the maximum it spreads wider.
_TRIALS = (0.027, 0.033, 0.0405, 0.05)

# Groups of the table that are compared for 8 weights: those next to the weights rounded one by one. On normally
# distributed weights 16 leave 0.5 % more error than all 256 would; 8 are as good as 16 in the trials.
_CANDIDATES_IN_TRIALS = 8
_CANDIDATES = 16


def encode_blocks(x: mx.array, w: mx.array, amax: mx.array) -> tuple[mx.array, mx.array]:
    """Blocks as `BlockEncoder` takes them -> qs uint32 [n, 8, 2], d float16 [n]."""
    x, w = (mx.unflatten(a, -1, (8, 4, 8)) for a in (x, w))  # [n, 8 runs, 4 groups, 8]
    x, minus = _even_signs(x, w)
    # As in ggml, groups are chosen by the root of the importance. With lognormal importances that costs 3 % of weighted
    # error and saves 9 % of the plain one, which is that of unimportant columns; another text may use those more.
    metric = mx.sqrt(w)
    scales, products, curvature = _search_scales(x, w, metric)
    factor = stretch((w * x * x).sum(axis=(1, 2, 3)), products.sum(axis=-1))
    d, steps, scales = share_scale(scales * factor[:, None], curvature, amax, unit=0.25, offset=0.5)
    groups = _nearest(x * factor[:, None, None, None], metric, scales, _CANDIDATES)
    return _pack(groups, minus, steps), d


def _even_signs(x: mx.array, w: mx.array) -> tuple[mx.array, mx.array]:
    """Weights x [..., 8] -> magnitudes, and which signs are minus: an even number, the format holds no other.

    Where x has an odd number, the cheapest sign is turned. That weight's magnitude is then negative, so that the search
    goes for the smallest one there.
    """
    minus = x < 0
    odd = minus.sum(axis=-1, keepdims=True) % 2 == 1
    turned = odd & (mx.arange(8) == mx.argmin(w * x * x, axis=-1, keepdims=True))
    return mx.where(turned, -mx.abs(x), mx.abs(x)), minus != turned


def _search_scales(x: mx.array, w: mx.array, metric: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """Magnitudes x, importances w, metric, all [n, 8, 4, 8] -> three [n, 8], of the best groups g found for each run:

    the least-squares scale s, the sum of w * x * s * g, and that of w * g^2, the cost of an error in s.
    """
    mean = mx.sqrt(mx.sqrt((w * mx.square(x * x)).sum(axis=(-1, -2)) / w.sum(axis=(-1, -2))))
    scale = product = curvature = mx.zeros_like(mean)
    grid = mx.array(GRID)
    for trial in _TRIALS:
        g = grid[_nearest(x, metric, mean * trial, _CANDIDATES_IN_TRIALS)]
        wg = w * g
        xg, gg = (wg * x).sum(axis=(-1, -2)), (wg * g).sum(axis=(-1, -2))
        # With the least-squares scale xg / gg, the product below is what the run's error falls by.
        better = (xg > 0) & (xg * xg > product * gg)
        scale = mx.where(better, xg / gg, scale)
        product = mx.where(better, xg * xg / gg, product)
        curvature = mx.where(better, gg, curvature)
    return scale, product, curvature


def _nearest(x: mx.array, metric: mx.array, scales: mx.array, count: int) -> mx.array:
    """The groups that times the scales [n, 8] come nearest to x [n, 8, 4, 8]: numbers in `GRID`, uint32 [n, 8, 4]."""
    s = scales[..., None, None]
    powers = mx.array(3 ** np.arange(8, dtype=np.int32))
    low, high = ((_LEVELS[1:] + _LEVELS[:-1]) / 2).tolist()
    rounded = ((x > low * s) * powers + (x > high * s) * powers).sum(axis=-1)
    numbers, magnitudes = _candidates(count)
    difference = magnitudes[rounded] * s[..., None] - x[..., None, :]  # [n, 8, 4, count, 8]
    error = (mx.square(difference) * metric[..., None, :]).sum(axis=-1)
    best = mx.argmin(error, axis=-1, keepdims=True)
    return mx.take_along_axis(numbers[rounded], best, axis=-1).squeeze(-1)


@cache
def _candidates(count: int) -> tuple[mx.array, mx.array]:
    """The groups nearest to each of the 3^8 ways to round 8 weights, the nearest first.

    Their numbers, uint32 [6561, count], and their magnitudes, float32 [6561, count, 8].
    """
    points = _LEVELS[np.arange(3**8)[:, None] // 3 ** np.arange(8) % 3]
    squares = (points**2).sum(axis=1)[:, None] + (GRID**2).sum(axis=1) - 2 * points @ GRID.T
    numbers = np.argsort(squares, axis=1, kind="stable")[:, :count]
    return mx.array(numbers.astype(np.uint32)), mx.array(GRID[numbers])


def _pack(groups: mx.array, minus: mx.array, steps: mx.array) -> mx.array:
    """Numbers of groups [n, 8, 4], signs [n, 8, 4, 8] and steps [n, 8] as the format's words, uint32 [n, 8, 2]."""
    signs = _joined(minus[..., :7].astype(mx.uint32), 1)
    return mx.stack([_joined(groups, 8), _joined(signs, 7) | (steps << 28)], axis=-1)


def _joined(values: mx.array, bits: int) -> mx.array:
    """Small numbers uint32 [..., k] as one, the first lowest, `bits` bits each."""
    return (values << (mx.arange(values.shape[-1], dtype=mx.uint32) * bits)).sum(axis=-1)
