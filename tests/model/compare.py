"""How far two sets of logits are apart, as golden/README.md measures it."""

from typing import NamedTuple

import numpy as np


class Distance(NamedTuple):
    """Max abs difference; rms difference over the standard deviation; share of equal argmax; mean KL(ref || got)."""

    max_abs: float
    rms: float
    argmax: float
    kl: float


def distance(got: np.ndarray, reference: np.ndarray) -> Distance:
    """got and reference are logits [rows, vocab]."""
    a, b = got.astype(np.float64), reference.astype(np.float64)
    log_a, log_b = _log_softmax(a), _log_softmax(b)
    return Distance(
        max_abs=float(np.abs(a - b).max()),
        rms=float(np.sqrt(((a - b) ** 2).mean()) / b.std(-1).mean()),
        argmax=float((a.argmax(-1) == b.argmax(-1)).mean()),
        kl=float((np.exp(log_b) * (log_b - log_a)).sum(-1).mean()),
    )


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))
