"""The plots of `ds4-mlx eval`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ds4_mlx.commands.plotting import pyplot, save
from ds4_mlx.evaluation.comparing import Distances
from ds4_mlx.evaluation.scoring import Losses

_KL_FLOOR = 1e-6  # nats: what lies below is drawn here, the scale is logarithmic


def draw_losses(path: Path, parts: Sequence[Losses]) -> None:
    """Mean loss against the place in the window, a line per text: it falls where a model uses what it has read."""
    figure, axis = pyplot().subplots(figsize=(7, 4), layout="constrained")
    for part in parts:
        _steps(axis, part.positions, part.losses, f"{part.name}, perplexity {part.perplexity:.2f}")
    axis.set(title="loss by place", xlabel="tokens read before", ylabel="mean loss, nats", xscale="log", ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend()
    save(figure, path)


def draw_distances(path: Path, reference: str, models: Mapping[str, Distances]) -> None:
    """Left: which share of tokens is at most so far from the reference. Right: distance by place in the window."""
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, distances in models.items():
        values = np.sort(np.maximum(distances.kl, _KL_FLOOR))
        left.plot(values, np.arange(1, len(values) + 1) / len(values), label=f"{name}, mean {distances.kl.mean():.4f}")
        _steps(right, distances.positions, distances.kl, name)
    left.set(title=f"distance from {reference}", xlabel="KL, nats", ylabel="share of tokens", xscale="log", ylim=(0, 1))
    right.set(title="by place", xlabel="tokens read before", ylabel="mean KL, nats", xscale="log", ylim=(0, None))
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend()
    save(figure, path)


def draw_shares(path: Path, name: str, shares: Mapping[str, tuple[int, int]]) -> None:
    """A bar per family of tasks."""
    figure, axis = pyplot().subplots(figsize=(7, 0.4 * len(shares) + 1.2), layout="constrained")
    bars = axis.barh(list(shares), [100 * right / count for right, count in shares.values()])
    axis.bar_label(bars, [f"{right} of {count}" for right, count in shares.values()], padding=3)
    axis.set(title=name, xlabel="right, %", xlim=(0, 115), xticks=range(0, 101, 20))
    axis.invert_yaxis()
    save(figure, path)


def _steps(axis: Any, positions: np.ndarray, values: np.ndarray, label: str) -> None:
    """Means over places 1, 2-3, 4-7, ...: each doubling of what was read is a point."""
    bins = np.floor(np.log2(positions)).astype(int)
    places = [(2.0**bin_, values[bins == bin_].mean()) for bin_ in np.unique(bins)]
    axis.plot(*zip(*places, strict=True), marker="o", label=label)
