"""A stack of experts in two bits, by what calibration knows of each expert's inputs."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ds4_mlx.calibration.store import Inputs
from ds4_mlx.quant import get_format
from ds4_mlx.quant.encoders import encode
from ds4_mlx.quant.encoders.feedback import encode_with_feedback
from ds4_mlx.quant.encoders.hessian import DAMPING, damping_for, feedback_factor


class Factors:
    """The factors of a stack's Hessians, made when they are asked for; one for all experts where they share it."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._shared = mx.array(feedback_factor(inputs.hessian(0), DAMPING))[None] if inputs.shared else None

    def of(self, experts: Sequence[int]) -> tuple[list[int], mx.array]:
        """Those of `experts` that have seen enough tokens, and their factors [F, in, in] or [1, in, in]."""
        if self._shared is not None:
            return list(experts), self._shared
        dampings = {e: damping_for(int(self._inputs.tokens[e])) for e in experts}
        factors = {e: feedback_factor(self._inputs.hessian(e), d) for e, d in dampings.items() if d is not None}
        return list(factors), mx.array(np.stack(list(factors.values()))) if factors else mx.zeros((0,))


def encode_experts(
    storage: str, weights: mx.array, experts: Sequence[int], inputs: Inputs, factors: tuple[list[int], mx.array]
) -> dict[str, mx.array]:
    """Encodes weights float32 [n, out, in] of those experts with feedback; one that `factors` leaves out has seen too
    few tokens and goes by the importance of its columns. Returns the format's arrays [n, ...].
    """
    known, arrays = factors
    places = [experts.index(e) for e in known]
    rest = [i for i in range(len(experts)) if experts[i] not in known]
    parts: dict[str, list[mx.array]] = {part.name: [mx.zeros(0)] * len(experts) for part in get_format(storage).parts}
    encoded = []
    if places:
        whole = len(places) == len(experts)
        chosen = weights if whole else weights[mx.array(places)]
        found = encode_with_feedback(storage, chosen, arrays)
        encoded.append((places, _lengthened(storage, chosen, found, [inputs.hessian(e) for e in known])))
    if rest:
        importance = mx.array(inputs.importance[[experts[i] for i in rest]])
        encoded.append((rest, encode(storage, weights[mx.array(rest)], importance)))
    for where, found in encoded:
        for name, array in found.items():
            for i, one in zip(where, array, strict=True):
                parts[name][i] = one
    return {name: mx.stack(each) for name, each in parts.items()}


# Where each format keeps the float16 numbers that all its scales are multiples of.
_SCALES = {"iq2_xxs": "d", "q2_k": "dm"}


def _lengthened(
    storage: str, weights: mx.array, arrays: dict[str, mx.array], hessians: Sequence[np.ndarray]
) -> dict[str, mx.array]:
    """The arrays with each row made longer, so that its outputs are on average as large as the original's.

    The row that is nearest to w is shorter than it, by 7 % in IQ2_XXS. That costs little in one matrix, but it is no
    noise: it adds up over gate, up and down and over the experts. On ds4-tiny it was much of what
    the model lost (docs/quantization.md). q becomes q * (w H w) / (w H q); only its float16 scales change.
    """
    values = get_format(storage).decode(*(arrays[part.name] for part in get_format(storage).parts))
    factors = []
    for w, q, hessian in zip(weights, values, hessians, strict=True):
        wh = w @ mx.array(hessian)
        own, shared = (wh * w).sum(axis=-1), (wh * q).sum(axis=-1)
        # A row that came out as zeros, or pointing elsewhere, stays.
        factors.append(mx.where(shared > 0.5 * own, own / mx.where(shared > 0, shared, 1), 1))
    name, factor = _SCALES[storage], mx.stack(factors)
    scales = arrays[name]
    factor = factor.reshape(*factor.shape, *[1] * (scales.ndim - factor.ndim))
    return {**arrays, name: mx.clip(scales.astype(mx.float32) * factor, -65504, 65504).astype(mx.float16)}
