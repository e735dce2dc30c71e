"""Which tokens an expert serves: (token, slot) pairs sorted by expert, cut into tiles."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

PAIRS = 64  # of a tile, at most


class Plan(NamedTuple):
    """order uint32 [R]: pairs by expert. starts uint32 [E + 1]: where each expert's begin in it. tiles uint32 [E + 1]:
    how many tiles there are before each expert's first.
    """

    order: mx.array
    starts: mx.array
    tiles: mx.array


def plan(experts: mx.array, count: int) -> Plan:
    """For experts uint32 [T, k], each less than `count`."""
    chosen = experts.flatten()
    order = mx.argsort(chosen).astype(mx.uint32)
    starts = (chosen[None] < mx.arange(count + 1, dtype=mx.uint32)[:, None]).sum(axis=1).astype(mx.uint32)
    filled = (starts[1:] - starts[:-1] + (PAIRS - 1)) // PAIRS
    tiles = mx.concatenate([mx.zeros(1, mx.uint32), mx.cumsum(filled).astype(mx.uint32)])
    return Plan(order, starts, tiles)
