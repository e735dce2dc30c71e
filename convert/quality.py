"""What quantising cost, for people and for config.json."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

from ds4_convert.steps import Loss


def loss_lines(losses: Mapping[str, Loss]) -> list[str]:
    """One line per layer: layers.3.ffn.experts  relative error w1 0.1070 (0.0906 weighted), w2 ..."""
    lines = []
    for stack, items in groupby(losses, key=lambda item: item.rpartition(".")[0]):
        cells = (f"{item.rpartition('.')[2]} {_words(losses[item])}" for item in items)
        lines.append(f"{stack}  relative error {', '.join(cells)}")
    return lines


def losses_json(losses: Mapping[str, Loss]) -> dict[str, dict[str, float]]:
    """For config.json, rounded to what matters."""
    return {
        item: {key: float(f"{value:.6g}") for key, value in loss._asdict().items() if value is not None}
        for item, loss in losses.items()
    }


def _words(loss: Loss) -> str:
    if loss.outputs is not None:
        return f"{loss.plain:.4f} ({loss.outputs:.4f} in outputs)"
    return f"{loss.plain:.4f}" + ("" if loss.weighted is None else f" ({loss.weighted:.4f} weighted)")
