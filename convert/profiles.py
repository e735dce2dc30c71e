"""Profiles: which tensors a converted folder holds and how the bytes of each are made.

A profile turns an opened source into a list of outputs. Nothing else in this package knows how weights are encoded, so
a new profile (2-bit experts, another kind of source) is one more function here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from ds4_mlx.checkpoint import Checkpoint
from ds4_mlx.checkpoint.layout import FP4, SCALE, official_tensors
from ds4_mlx.checkpoint.repack import check_values
from ds4_mlx.checkpoint.safetensors_file import NUMPY_DTYPES
from ds4_mlx.errors import UserError


@dataclass(frozen=True)
class Output:
    """One tensor to be written.

    `weights` is the number of weights of the model it carries: 0 for scales, which are storage only. `pieces()` makes
    its bytes in order, as flat uint8 arrays of a few MB; it raises `UserError` when the source holds values that no
    sound checkpoint holds.
    """

    name: str
    dtype: str  # safetensors name
    shape: tuple[int, ...]
    weights: int
    pieces: Callable[[], Iterator[np.ndarray]]

    @property
    def nbytes(self) -> int:
        """Bytes on disk, and in memory once loaded."""
        return math.prod(self.shape) * NUMPY_DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Profile:
    """A way to store a model. `formats` goes into config.json: format name by kind of matrix."""

    name: str
    formats: dict[str, str]
    outputs: Callable[[Checkpoint], list[Output]]


def _exact(checkpoint: Checkpoint) -> list[Output]:
    """Every weight as released: MXFP4 experts, MXFP8 linears, the rest untouched. Also describes a converted folder."""
    check = partial(check_values, experts=checkpoint.config.n_routed_experts)
    released = official_tensors(checkpoint.config, checkpoint.dspark_stages)
    weights = {e.name: _weights(e.dtype, e.shape) for e in released}
    return [
        Output(
            target.name,
            target.dtype,
            target.shape,
            sum(weights[source] for source in target.sources),
            partial(target.pieces, checkpoint.tensors, check),
        )
        for target in checkpoint.targets
    ]


def _weights(dtype: str, shape: tuple[int, ...]) -> int:
    """How many weights a released tensor holds; FP4 packs two into a byte, scales are none."""
    return math.prod(shape) * {FP4: 2, SCALE: 0}.get(dtype, 1)


PROFILES = {p.name: p for p in (Profile("exact", {"routed_experts": "mxfp4", "linear": "mxfp8"}, _exact),)}


def get_profile(name: str) -> Profile:
    """The profile of that name. Raises `UserError` naming the known ones."""
    try:
        return PROFILES[name]
    except KeyError:
        raise UserError(f"Unknown profile {name!r}; known are {', '.join(sorted(PROFILES))}.") from None
