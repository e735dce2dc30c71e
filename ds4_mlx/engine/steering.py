"""Steering: directions added to the streams behind layers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import mlx.core as mx
import numpy as np

from ds4_mlx.config import ModelConfig
from ds4_mlx.errors import UserError


class Steering:
    """Adds to the streams [T, N, D] behind some layers: layer -> [D], to all N of them, or [N, D].

    Raises `UserError` for a layer or a shape that is not there.
    """

    def __init__(self, additions: Mapping[int, mx.array], config: ModelConfig) -> None:
        streams, width = config.hc_mult, config.hidden_size
        for layer, addition in additions.items():
            if not 0 <= layer < config.num_hidden_layers:
                raise UserError(f"There is no layer {layer}; the model has {config.num_hidden_layers}.")
            if addition.shape not in ((width,), (streams, width)):
                raise UserError(
                    f"The addition behind layer {layer} has shape {addition.shape}; expected {(width,)} or "
                    f"{(streams, width)}."
                )
        self._additions = {layer: addition.astype(mx.float32) for layer, addition in sorted(additions.items())}

    def __call__(self, layer: int, h: mx.array) -> mx.array:
        """The streams that go on; sums in float32, as everywhere between layers."""
        addition = self._additions.get(layer)
        return h if addition is None else (h.astype(mx.float32) + addition).astype(h.dtype)

    @property
    def fingerprint(self) -> str:
        """The same for the same additions: what a memory was computed with."""
        digest = hashlib.blake2b(digest_size=8)
        for layer, addition in self._additions.items():
            digest.update(f"{layer} {addition.shape}".encode() + np.array(addition).tobytes())
        return digest.hexdigest()
