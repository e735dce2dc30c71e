"""The way back: the released tensors, byte for byte, from a converted folder. Proves that converting loses nothing."""

from __future__ import annotations

import math

import numpy as np

from ds4_mlx.checkpoint import Checkpoint
from ds4_mlx.checkpoint.layout import official_tensors
from ds4_mlx.checkpoint.repack import How, repack_plan
from ds4_mlx.checkpoint.safetensors_file import NUMPY_DTYPES
from ds4_mlx.errors import UserError
from ds4_mlx.quant.formats import fp8_block_scales


class Released:
    """The released tensors that an opened converted folder stands for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """`checkpoint` must be of kind 'converted' and profile 'exact'."""
        self._tensors = checkpoint.tensors
        self._targets = {name: target for target in repack_plan(checkpoint.items) for name in target.sources}
        self.expected = {e.name: e for e in official_tensors(checkpoint.config, checkpoint.dspark_stages)}

    def bytes_of(self, name: str) -> np.ndarray:
        """The bytes of released tensor `name`, flat uint8. Raises `UserError` if a square's scales differ."""
        target, expected = self._targets[name], self.expected[name]
        stored = self._tensors[target.name]
        if target.how is How.NARROW_INTS:
            return stored.read().astype(np.int64).view(np.uint8)
        if target.how is How.SPREAD_SCALES:
            spread = stored.array()
            scale = np.ascontiguousarray(spread[::128, ::4])
            again = fp8_block_scales(scale, spread.shape[0], spread.shape[1] * 32)
            if not np.array_equal(spread, again):
                raise UserError(f"{stored.path}: tensor {target.name} has several scales within one 128x128 square.")
            return scale.reshape(-1)
        nbytes = math.prod(expected.shape) * NUMPY_DTYPES[expected.dtype].itemsize
        count = nbytes // NUMPY_DTYPES[target.dtype].itemsize  # sources of one target are equally large
        return stored.read(target.sources.index(name) * count, count).view(np.uint8)


def differing_tensors(official: Checkpoint, converted: Checkpoint) -> list[str]:
    """Names of tensors of a released checkpoint that do not come back bit for bit from a folder converted from it."""
    released = Released(converted)
    return [
        name
        for name, tensor in official.tensors.items()
        if name not in released.expected or not np.array_equal(released.bytes_of(name), tensor.read().view(np.uint8))
    ]
