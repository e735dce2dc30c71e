"""What encoding with feedback is: one row of a matrix at a time, in float64, as plain as it can be said.

`ds4_mlx.quant.encoders.feedback` does the same for many rows at once in float32. Both take U, upper triangular with
U^T U the inverse of the damped Hessian; `weights` is changed as it goes: what is left to encode, errors fed back.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from ds4_mlx.quant.encoders.feedback_iq2_xxs import LOW, STEP, TRIALS
from ds4_mlx.quant.encoders.scales import TRIALS_OF_D
from ds4_mlx.quant.iq2_xxs import GRID

Row = np.ndarray  # float64 [in]


class Eight(NamedTuple):
    """8 weights encoded: the number of their group, and what they become."""

    group: int
    values: np.ndarray


def pass_on(weights: Row, u: np.ndarray, first: int, values: np.ndarray) -> None:
    """Writes the values of columns `first`... and lets the columns after them make up for the errors."""
    for j, value in enumerate(values, start=first):
        error = (weights[j] - value) / u[j, j]
        weights[j] = value
        weights[j + 1 :] -= error * u[j, j + 1 :]


def encode_iq2_xxs(weights: Row, u: np.ndarray) -> tuple[Row, np.ndarray]:
    """A row -> its values as they are stored, and d of its blocks."""
    weights, d_of_blocks = weights.copy(), []
    for block in range(0, len(weights), 256):
        costs = 1 / np.diag(u)[block : block + 256] ** 2
        d, steps = choose_scales(weights[block : block + 256], costs)
        d_of_blocks.append(d)
        for run in range(8):
            at = block + 32 * run
            own = costs[32 * run : 32 * run + 32]
            near = np.clip([steps[run], steps[run] - 1, steps[run] + 1], 0, 15)
            gains = [run_gain(weights[at : at + 32], own, d / 4 * (0.5 + step)) for step in near]
            scale = d / 4 * (0.5 + near[int(np.argmax(gains))])
            for k in range(0, 32, 8):
                eight = nearest(weights[at + k : at + k + 8], own[k : k + 8], scale)
                pass_on(weights, u, at + k, eight.values)
    return weights, np.array(d_of_blocks)


def even_signs(x: np.ndarray, costs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Magnitudes and signs of 8 weights, an even number of minuses: else the cheapest is turned."""
    signs = np.where(x < 0, -1.0, 1.0)
    if (signs < 0).sum() % 2:
        signs[np.argmin(costs * x * x)] *= -1
    return x * signs, signs


def gain(magnitudes: np.ndarray, costs: np.ndarray, scale: float) -> np.ndarray:
    """What each group of the table takes off the error of 8 weights, [256]."""
    return 2 * scale * (GRID @ (costs * magnitudes)) - scale**2 * (GRID**2 @ costs)


def nearest(x: np.ndarray, costs: np.ndarray, scale: float) -> Eight:
    magnitudes, signs = even_signs(x, costs)
    group = int(np.argmax(gain(magnitudes, costs, scale))) if scale else 0
    return Eight(group, scale * GRID[group] * signs)


def run_gain(run: np.ndarray, costs: np.ndarray, scale: float) -> float:
    """What the best groups take off the error of 32 weights."""
    eights = [even_signs(run[k : k + 8], costs[k : k + 8])[0] for k in range(0, 32, 8)]
    return sum(gain(x, costs[8 * k : 8 * k + 8], scale).max() for k, x in enumerate(eights))


def choose_scales(block: np.ndarray, costs: np.ndarray) -> tuple[float, list[int]]:
    """d of a block and the steps of its runs, from what each run gains at the trial scales."""
    bases, curves, best = [], [], []
    for at in range(0, 256, 32):
        run, own = block[at : at + 32], costs[at : at + 32]
        base = ((own * run**4).sum() / own.sum()) ** 0.25
        scales = base * LOW * STEP ** np.arange(TRIALS)
        curves.append([run_gain(run, own, scale) for scale in scales])
        bases.append(base)
        best.append(scales[int(np.argmax(curves[-1]))])
    top = max(best) * 4 / 15.5
    choices = []
    for d in [0.0, *(float(np.float16(top * trial)) for trial in TRIALS_OF_D)]:
        gains = [[interpolated(curve, base, d / 4 * (0.5 + step)) for step in range(16)]
                 for curve, base in zip(curves, bases, strict=True)]  # fmt: skip
        choices.append((sum(map(max, gains)), d, [int(np.argmax(run)) for run in gains]))
    _, d, steps = max(choices, key=lambda choice: choice[0])
    return d, steps


def interpolated(curve: list[float], base: float, scale: float) -> float:
    """The gain at a scale: linear in its logarithm between trials; beyond, of the last groups with another scale."""
    if base == 0:
        return 0.0
    place = np.log(max(scale / base, 1e-30) / LOW) / np.log(STEP)
    inside = np.interp(place, range(TRIALS), curve)
    beyond = scale / base / np.clip(scale / base, LOW, LOW * STEP ** (TRIALS - 1))
    return inside * beyond * (2 - beyond)


def encode_q2_k(weights: Row, u: np.ndarray, scales: np.ndarray) -> Row:
    """A row -> its values as they are stored. scales [blocks, 2]: d and dmin, from the least-squares lines of
    encoders/q2_k.py.
    """
    weights = weights.copy()
    for at in range(0, len(weights), 16):
        d, dmin = scales[at // 256]
        costs, group = 1 / np.diag(u)[at : at + 16] ** 2, weights[at : at + 16]
        lines = [(d * s, dmin * m) for s, m in itertools.product(range(16), range(16))]
        errors = [(costs * (rounded(group, *line) - group) ** 2).sum() for line in lines]
        line = lines[int(np.argmin(errors))]
        for k in range(16):
            pass_on(weights, u, at + k, rounded(weights[at + k : at + k + 1], *line))
    return weights


def rounded(w: np.ndarray, scale: float, minimum: float) -> np.ndarray:
    """Each weight as the nearest scale * code - minimum."""
    codes = np.clip(np.round((w + minimum) / scale), 0, 3) if scale else np.zeros_like(w)
    return scale * codes - minimum
