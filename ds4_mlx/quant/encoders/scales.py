"""What both encoders do with a block's scales: grow them a little, then write them as one float16 and 4-bit steps."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

HALF_MIN, HALF_MAX = 2.0**-24, 65504.0  # the positive numbers of float16, denormal ones included

# Trial values of a block's float16, beside the one that gives its largest scale the highest step.
TRIALS_OF_D = np.arange(24, 36, dtype=np.float32) / 32


def stretch(energy: mx.array, product: mx.array) -> mx.array:
    """How much blocks have to grow, [n], so that they come out as long as they went in.

    energy [n]: the sum of w * x^2 over a block. product [n]: that of w * x * q for the least-squares values q, which is
    also their own energy.

    Least squares shrinks: with 2 bits about a tenth of the energy is error, and q lacks that tenth. In an output, the
    sum over a row, the noise of many rounded weights averages out and the lack does not; outputs that are large beside
    those of random weights, the ones a model has learned, lose most by it. Making up for all of it would cost more
    noise than the plain error can bear; half of it keeps the length and adds 3 % to the squared error.
    """
    some = product > 0
    return mx.where(some, mx.sqrt(energy / mx.where(some, product, 1)), 1)


def share_scale(
    scales: mx.array, costs: mx.array, amax: mx.array, *, unit: float = 1.0, offset: float = 0.0
) -> tuple[mx.array, mx.array, mx.array]:
    """Writes the scales of a block's G groups as d * unit * (step + offset), with the best d and steps of 0 to 15.

    scales [n, G], not negative, of blocks that were divided by amax [n]; costs [n, G], of a squared error in each.
    Returns d float16 [n], with amax counted in; steps uint32 [n, G]; the scales float32 [n, G] as they are written.
    """
    top = scales.max(axis=-1, keepdims=True) * amax[:, None] / (unit * (15 + offset))  # [n, 1]
    d = mx.clip(top * mx.array(TRIALS_OF_D), HALF_MIN, HALF_MAX)
    d = mx.concatenate([mx.zeros_like(top), d], axis=-1).astype(
        mx.float16
    )  # [n, trials], 0 for blocks that are too small
    step = (d.astype(mx.float32) * unit / amax[:, None])[..., None]
    inverse = mx.where(step > 0, 1 / mx.where(step > 0, step, 1), 0)
    steps = mx.clip(mx.round(scales[:, None] * inverse - offset), 0, 15)  # [n, trials, G]
    written = step * (steps + offset)
    error = (costs[:, None] * mx.square(written - scales[:, None])).sum(axis=-1)
    best = mx.argmin(error, axis=-1, keepdims=True)  # [n, 1]
    steps, written = (mx.take_along_axis(a, best[..., None], axis=1).squeeze(1) for a in (steps, written))
    return mx.take_along_axis(d, best, axis=1).squeeze(1), steps.astype(mx.uint32), written
