"""Rotary position embedding: interleaved pairs on the last channels, plain or with YaRN (spec 6).

Angles are made on the host: positions are known there, and the spec's exact rounding (an fp32 product, then the
cosine of that very number) must hold at positions near one million on every backend.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ds4_mlx.config import ModelConfig
from ds4_mlx.kernels.attention_twins import turn_pairs


class RopeTable(NamedTuple):
    """Cosines and sines, float32 [T, dim / 2], of T positions."""

    cos: mx.array
    sin: mx.array


class Rope:
    """The 32 (dim / 2) frequencies of one kind of layer."""

    def __init__(self, frequencies: np.ndarray) -> None:
        self.frequencies = frequencies

    @classmethod
    def for_layer(cls, config: ModelConfig, ratio: int) -> Rope:
        """Plain `rope_theta` on ratio-0 layers; `compress_rope_theta` with YaRN on everything else of a layer."""
        if ratio == 0:
            return cls(plain_frequencies(config.qk_rope_head_dim, config.rope_theta))
        return cls(yarn_frequencies(config))

    def table(self, positions: np.ndarray) -> RopeTable:
        """Tables for integer `positions` [T]."""
        cos, sin = self.on_host(positions)
        return RopeTable(mx.array(cos), mx.array(sin))

    def on_host(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same as arrays of NumPy."""
        angles = positions.astype(np.float32)[:, None] * self.frequencies  # rounded to fp32, as the reference does
        exact = angles.astype(np.float64)
        return np.cos(exact).astype(np.float32), np.sin(exact).astype(np.float32)


def plain_frequencies(dim: int, theta: float) -> np.ndarray:
    """float32 [dim / 2]: the power is rounded to fp32 first, then inverted in fp32."""
    powers = np.power(theta, np.arange(0, dim, 2, dtype=np.float64) / dim).astype(np.float32)
    return np.float32(1) / powers


def yarn_frequencies(config: ModelConfig) -> np.ndarray:
    """float32 [dim / 2]: slow channels interpolated by `factor`, fast ones kept, a linear ramp between."""
    dim, theta, yarn = config.qk_rope_head_dim, config.compress_rope_theta, config.rope_scaling

    def channel(rotations: float) -> float:
        """The channel pair that turns `rotations` times over the original context."""
        return dim * math.log(yarn.original_max_position_embeddings / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low: float = max(math.floor(channel(yarn.beta_fast)), 0)
    high: float = min(math.ceil(channel(yarn.beta_slow)), dim - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    frequencies = plain_frequencies(dim, theta)
    return (frequencies / np.float32(yarn.factor) * ramp + frequencies * (1 - ramp)).astype(np.float32)


def apply_rope(x: mx.array, table: RopeTable, *, inverse: bool = False) -> mx.array:
    """Rotates the last channels of x [T, ..., d] by the angles of its T positions; computed in float32.

    `inverse` rotates back: values carry the rotation of their own position, because keys serve as values (spec 3.6).
    """
    return turn_pairs(x, table.cos, -table.sin if inverse else table.sin)
