"""IQ2_XXS with feedback: scales from a block's curves, then groups of 8 from the whole table, one after the other.

Shapes: F factors, R rows; a block of 256 weights is 8 runs of 32, a run 4 groups of 8. What an error costs in column j
of a block is `costs` = 1 / U_jj^2, the same for all rows.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ds4_mlx.quant.encoders.scales import HALF_MAX, HALF_MIN, TRIALS_OF_D
from ds4_mlx.quant.iq2_xxs import GRID

# Trial scales of a run, beside the fourth root of the weighted mean of x^4: steps of 11 %, around what encoders/iq2_xxs
# tries.
LOW, HIGH, TRIALS = 0.022, 0.060, 10
STEP = (HIGH / LOW) ** (1 / (TRIALS - 1))


def encode_block(x: mx.array, amax: mx.array, factor: mx.array) -> tuple[tuple[mx.array, ...], mx.array]:
    """Blocks as `FeedbackEncoder` takes them -> (qs uint32 [F, R, 8, 2], d float16 [F, R]), errors [F, R, 256]."""
    costs = relative_costs(factor)
    d, steps = _choose_scales(x, amax, costs)
    unit = d.astype(mx.float32) / (4 * amax)
    inverses = triangle_inverses(factor, 8)
    words, errors = [], []
    for run in range(8):
        at = 32 * run
        own, x = x[..., :32], x[..., 32:]
        step = _best_step(own, costs[:, at : at + 32], unit, steps[..., run])
        scale = unit * (0.5 + step.astype(mx.float32))
        groups, signs, run_errors = [], [], []
        for start in range(at, at + 32, 8):
            end = start + 8
            w, own = own[..., :8], own[..., 8:]
            group, minus, value = _nearest(w, costs[:, start:end], scale)
            e = (w - value) @ inverses[:, start // 8]
            own = own - e @ factor[:, start:end, end : at + 32]
            groups.append(group)
            signs.append(minus[..., :7].astype(mx.uint32))
            run_errors.append(e)
        error = mx.concatenate(run_errors, axis=-1)
        x = x - error @ factor[:, at : at + 32, at + 32 :]
        words.append(_packed(groups, signs, step))
        errors.append(error)
    return (mx.stack(words, axis=-2), d), mx.concatenate(errors, axis=-1)


def relative_costs(factor: mx.array) -> mx.array:
    """factor [F, 256, 256] -> the costs of errors in its columns beside the largest of them, float32 [F, 256]."""
    diagonal = mx.diagonal(factor, axis1=-2, axis2=-1)
    return mx.square(diagonal.min(axis=-1, keepdims=True) / diagonal)


def triangle_inverses(factor: mx.array, size: int) -> mx.array:
    """The inverses of the `size` x `size` squares on the diagonal of factor [F, n, n]: float32 [F, n / size, size,
    size].
    """
    n = factor.shape[-1]
    squares = mx.stack([factor[:, i : i + size, i : i + size] for i in range(0, n, size)], axis=1)
    return mx.array(np.linalg.inv(np.array(squares).astype(np.float64)).astype(np.float32))


def _even_signs(x: mx.array, costs: mx.array) -> tuple[mx.array, mx.array]:
    """x [F, R, ..., 8], costs [F, 1, ..., 8] -> magnitudes, and which signs are minus, an even number of them.

    Where x has an odd number, the cheapest sign is turned and its magnitude is negative: the search then goes for the
    smallest one there.
    """
    minus = x < 0
    odd = minus.sum(axis=-1, keepdims=True) % 2 == 1
    turned = odd & (mx.arange(8) == mx.argmin(costs * x * x, axis=-1, keepdims=True))
    return mx.where(turned, -mx.abs(x), mx.abs(x)), minus != turned


def _fits(x: mx.array, costs: mx.array) -> tuple[mx.array, mx.array]:
    """Of every group g of the table with magnitudes x [F, R, G, 8]: twice the sum of cost * x * g, [F, R, G, 256], and
    the sum of cost * g^2, [F, 1, G, 256]. With a scale s, a group takes s * (first - s * second) off the error.
    """
    grid = mx.array(GRID.T)
    return 2 * ((x * costs) @ grid), costs @ (grid * grid)


def _gain(fits: tuple[mx.array, mx.array], scale: mx.array) -> mx.array:
    """What the best groups take off a run's error with this scale [F, R]: [F, R], summed over its groups."""
    product, square = fits
    return scale * (product - scale[..., None, None] * square).max(axis=-1).sum(axis=-1)


def _run(x: mx.array, costs: mx.array) -> tuple[mx.array, mx.array]:
    """A run x [F, R, 32] with its costs [F, 32], by groups: magnitudes [F, R, 4, 8] and costs [F, 1, 4, 8]."""
    costs = mx.unflatten(costs, -1, (4, 8))[:, None]
    return _even_signs(mx.unflatten(x, -1, (4, 8)), costs)[0], costs


def _choose_scales(x: mx.array, amax: mx.array, costs: mx.array) -> tuple[mx.array, mx.array]:
    """Blocks x [F, R, 256] -> d float16 [F, R] and the steps of their runs int32 [F, R, 8].

    Each run's gain is known at the trial scales; in between it is taken to be linear in the logarithm, and beyond them
    to be that of the last groups with another scale. d is the best of some for all runs together.
    """
    trials = mx.array(LOW * STEP ** np.arange(TRIALS, dtype=np.float32))
    bases, curves = [], []
    for at in range(0, 256, 32):
        magnitudes, c = _run(x[..., at : at + 32], costs[:, at : at + 32])
        fourth = (c * mx.square(mx.square(magnitudes))).sum(axis=(-1, -2)) / c.sum(axis=(-1, -2))
        base = mx.sqrt(mx.sqrt(fourth))
        fits = _fits(magnitudes, c)
        curves.append(mx.stack([_gain(fits, base * trial) for trial in trials], axis=-1))
        bases.append(base)
    base, curve = mx.stack(bases, axis=-1), mx.stack(curves, axis=-1).swapaxes(-1, -2)  # [F, R, 8], [F, R, 8, trials]
    best = trials[mx.argmax(curve, axis=-1)] * base
    top = best.max(axis=-1, keepdims=True) * amax[..., None] * (4 / 15.5)
    candidates = mx.clip(top * mx.array(TRIALS_OF_D), HALF_MIN, HALF_MAX)
    d = mx.concatenate([mx.zeros_like(top), candidates], axis=-1).astype(mx.float16)  # [F, R, D]
    steps = mx.arange(16) + 0.5
    scales = (d.astype(mx.float32) / (4 * amax[..., None]))[..., None, None] * steps  # [F, R, D, 1, 16]
    gains = _interpolated(curve, base, scales)  # [F, R, D, 8, 16]
    chosen = mx.argmax(gains.max(axis=-1).sum(axis=-1), axis=-1)[..., None]  # [F, R, 1]
    step = mx.argmax(mx.take_along_axis(gains, chosen[..., None, None], axis=2).squeeze(2), axis=-1)
    return mx.take_along_axis(d, chosen, axis=-1).squeeze(-1), step.astype(mx.int32)


def _interpolated(curve: mx.array, base: mx.array, scales: mx.array) -> mx.array:
    """Gains at scales [F, R, D, 1, 16] of runs with base [F, R, 8] and curve [F, R, 8, trials]: [F, R, D, 8, 16]."""
    some = base > 0
    relative = scales / mx.where(some, base, 1)[..., None, :, None]
    place = mx.log(mx.maximum(relative, 1e-30) / LOW) / np.log(STEP)
    inside = mx.clip(place, 0, TRIALS - 1)
    left = mx.minimum(mx.floor(inside), TRIALS - 2)
    index = left.astype(mx.int32)
    flat = index.swapaxes(2, 3).flatten(3)  # [F, R, 8, D * 16]
    low, high = (
        mx.unflatten(mx.take_along_axis(curve, flat + i, axis=-1), -1, (-1, 16)).swapaxes(2, 3) for i in (0, 1)
    )
    gain = low + (high - low) * (inside - left)
    beyond = relative / mx.clip(relative, LOW, HIGH)  # 1 inside
    return mx.where(some[..., None, :, None], gain * beyond * (2 - beyond), 0)


def _best_step(x: mx.array, costs: mx.array, unit: mx.array, step: mx.array) -> mx.array:
    """The best of `step` [F, R] and its neighbours for a run x [F, R, 32] as it is now."""
    fits = _fits(*_run(x, costs))
    candidates = mx.clip(mx.stack([step, step - 1, step + 1], axis=-1), 0, 15)
    gains = [_gain(fits, unit * (candidates[..., i].astype(mx.float32) + 0.5)) for i in range(3)]
    best = mx.argmax(mx.stack(gains, axis=-1), axis=-1)
    return mx.take_along_axis(candidates, best[..., None], axis=-1).squeeze(-1)


def _nearest(x: mx.array, costs: mx.array, scale: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """8 weights x [F, R, 8] with costs [F, 8] and scale [F, R] -> the group's number uint32 [F, R], which signs are
    minus [F, R, 8], and what the weights become.
    """
    magnitudes, minus = _even_signs(x, costs[:, None])
    product, square = _fits(magnitudes[..., None, :], costs[:, None, None])
    group = mx.argmax(product - scale[..., None, None] * square, axis=-1).squeeze(-1)
    value = scale[..., None] * mx.array(GRID)[group]
    return group, minus, mx.where(minus, -value, value)


def _packed(groups: list[mx.array], signs: list[mx.array], step: mx.array) -> mx.array:
    """A run's numbers of groups, 4 of [F, R], signs, 4 of [F, R, 7], and step as words, uint32 [F, R, 2]."""
    bits = mx.arange(7, dtype=mx.uint32)
    low, high = mx.zeros_like(groups[0]), step.astype(mx.uint32) << 28
    for k, (group, minus) in enumerate(zip(groups, signs, strict=True)):
        low = low | (group << (8 * k))
        high = high | ((minus << bits).sum(axis=-1) << (7 * k))
    return mx.stack([low, high], axis=-1)
