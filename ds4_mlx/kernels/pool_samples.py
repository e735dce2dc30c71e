"""Inputs for trying out a step of a compressor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import mlx.core as mx
import numpy as np

from ds4_mlx.kernels.attention_samples import angles, normal
from ds4_mlx.kernels.pool_twins import NO_ROW
from ds4_mlx.kernels.row_samples import INDEX_WIDTH, NOPE, WIDTH


def keep_inputs(channels: int, ratio: int, *, tokens: int, old: int) -> list[mx.array]:
    """Inputs of `KEEP_ROWS`: of the old rows the last ones stay, and the new ones."""
    rng = np.random.default_rng([channels, ratio, tokens, old])
    return [
        normal(rng, (tokens, channels), mx.float32),
        normal(rng, (tokens, channels), mx.float32),
        normal(rng, (ratio, channels), mx.float32),
        mx.array(rng.integers(0, ratio, tokens, dtype=np.int32)),
        normal(rng, (max(1, old), channels), mx.float32),
        normal(rng, (max(1, old), channels), mx.float32),
        mx.array(_rows(tokens, old)[(tokens + old) // 3 :]),
    ]


def pool_inputs(width: int, turned: int, ratio: int, *, tokens: int, old: int, entries: int) -> list[mx.array]:
    """Inputs of `pool_kernel`: entries of rows old and new, the first one without a block before it."""
    rng = np.random.default_rng([width, ratio, tokens, old, entries])
    channels, slots = (2 * width, 8) if ratio == 4 else (width, ratio)
    blocks = rng.choice(_rows(tokens, old), (entries, slots))
    if ratio == 4:
        blocks[0, : slots // 2] = NO_ROW
    return [
        *keep_inputs(channels, ratio, tokens=tokens, old=old),
        mx.array(rng.uniform(0.5, 2, width).astype(np.float32)).astype(mx.bfloat16),
        mx.array(1e-6),
        mx.array(blocks),
        *angles(entries, turned // 2),
    ]


def keep_samples() -> Iterator[list[mx.array]]:
    """Rows of the released width of a ratio-128 compressor."""
    yield keep_inputs(WIDTH, 128, tokens=3, old=127)


def pool_samples(kind: Literal["kv", "index"]) -> Iterator[list[mx.array]]:
    """Inputs of the released sizes, of both ratios for K=V rows."""
    yield pool_inputs(WIDTH if kind == "kv" else INDEX_WIDTH, WIDTH - NOPE, 4, tokens=5, old=8, entries=2)
    if kind == "kv":
        yield pool_inputs(WIDTH, WIDTH - NOPE, 128, tokens=3, old=127, entries=2)


def _rows(tokens: int, old: int) -> np.ndarray:
    """Names of all rows: old ones from 0 up, new ones from -1 down."""
    return np.array([*range(old), *range(-1, -1 - tokens, -1)], dtype=np.int32)
