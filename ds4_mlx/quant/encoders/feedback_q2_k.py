"""Q2_K with feedback: for each 16 weights the best of all scales and minima, then one column after the other.

Shapes: F factors, R rows; a block of 256 weights is 16 groups of 16. Costs as in feedback_iq2_xxs.
"""

from __future__ import annotations

import mlx.core as mx

from ds4_mlx.quant.encoders.feedback_iq2_xxs import relative_costs
from ds4_mlx.quant.encoders.q2_k import codes_for, search
from ds4_mlx.quant.encoders.scales import share_scale


def encode_block(x: mx.array, amax: mx.array, factor: mx.array) -> tuple[tuple[mx.array, ...], mx.array]:
    """Blocks as `FeedbackEncoder` takes them -> (q uint32 [F, R, 16], sm uint8 [F, R, 16], dm float16 [F, R, 2]),
    errors [F, R, 256].
    """
    costs, diagonal = relative_costs(factor), mx.diagonal(factor, axis1=-2, axis2=-1)
    d, dmin = _choose_scales(x, amax, costs)
    # Denominators of 0, of blocks that are too small for the format, choose codes of 0.
    steps, min_steps = d.astype(mx.float32) / amax, dmin.astype(mx.float32) / amax
    words, scales, errors = [], [], []
    for at in range(0, 256, 16):
        own, x = x[..., :16], x[..., 16:]
        step, min_step = _best_pair(own, costs[:, at : at + 16], steps, min_steps)
        scale, minimum = steps * step, min_steps * min_step
        inverse = _inverse(scale)
        word, group_errors = mx.zeros(own.shape[:-1], dtype=mx.uint32), []
        for k in range(16):
            j = at + k
            w, own = own[..., 0], own[..., 1:]
            code = _code(w, minimum, inverse)
            e = (w - (scale * code - minimum)) / diagonal[:, j, None]
            own = own - e[..., None] * factor[:, None, j, j + 1 : at + 16]
            word = word | (code.astype(mx.uint32) << (2 * k))
            group_errors.append(e)
        error = mx.stack(group_errors, axis=-1)
        x = x - error @ factor[:, at : at + 16, at + 16 :]
        words.append(word)
        scales.append((step.astype(mx.uint32) | min_step.astype(mx.uint32) << 4).astype(mx.uint8))
        errors.append(error)
    arrays = mx.stack(words, axis=-1), mx.stack(scales, axis=-1), mx.stack([d, dmin], axis=-1)
    return arrays, mx.concatenate(errors, axis=-1)


def _choose_scales(x: mx.array, amax: mx.array, costs: mx.array) -> tuple[mx.array, mx.array]:
    """Blocks x [F, R, 256] -> d and dmin float16 [F, R], from the least-squares lines of their groups."""
    groups = mx.unflatten(x, -1, (16, 16)).flatten(0, 1)  # [F * R, 16, 16]
    costs = mx.broadcast_to(mx.unflatten(costs, -1, (16, 16))[:, None], (*x.shape[:2], 16, 16)).flatten(0, 1)
    scale, minimum, _ = search(groups, costs)
    codes = codes_for(groups, scale, minimum)
    flat = amax.flatten()
    d, _, _ = share_scale(scale, (costs * codes * codes).sum(axis=-1), flat)
    dmin, _, _ = share_scale(minimum, costs.sum(axis=-1), flat)
    return d.reshape(amax.shape), dmin.reshape(amax.shape)


def _best_pair(x: mx.array, costs: mx.array, unit: mx.array, min_unit: mx.array) -> tuple[mx.array, mx.array]:
    """A group x [F, R, 16], costs [F, 16] -> the best of 16 x 16 steps of scale and minimum, float32 [F, R] each."""
    pairs = mx.arange(256)
    steps = (pairs // 16).astype(mx.float32), (pairs % 16).astype(mx.float32)
    scale, minimum = unit[..., None] * steps[0], min_unit[..., None] * steps[1]  # [F, R, 256]
    inverse = _inverse(scale)
    error = mx.zeros_like(scale)
    for k in range(16):
        w = x[..., k, None]
        error = error + costs[:, None, k, None] * mx.square(scale * _code(w, minimum, inverse) - minimum - w)
    best = mx.argmin(error, axis=-1)
    return steps[0][best], steps[1][best]


def _inverse(scale: mx.array) -> mx.array:
    """1 / scale, and 0 where the scale is 0."""
    return mx.where(scale > 0, 1 / mx.where(scale > 0, scale, 1), 0)


def _code(w: mx.array, minimum: mx.array, inverse: mx.array) -> mx.array:
    """The code, 0 to 3 as float32, that brings scale * code - minimum nearest to w."""
    return mx.clip(mx.round((w + minimum) * inverse), 0, 3)
