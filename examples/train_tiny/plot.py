"""Draws a run's log: `python plot.py build/run/log.jsonl loss.png`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

# Few lines, one per kind of skill; the log has all families.
_SHOWN = {
    "addition": "C0",
    "subtraction": "C1",
    "strings": "C2",
    "tool_call": "C3",
    "tool_answer": "C4",
    "recall_1000": "C5",
    "recall_4000": "C6",
    "recent:recall_4000": "0.6",
}


def draw(log: Path, picture: Path) -> None:
    """Losses above, held-out exact answers below."""
    records = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [r for r in records if "lm" in r]
    tokens = {r["step"]: r["tokens"] / 1e6 for r in steps}
    figure, (losses, answers) = plt.subplots(2, 1, figsize=(8, 7), sharex=True, layout="constrained")
    for key, label in (("lm", "next token"), ("mtp", "MTP: the token after"), ("index", "indexer's KL")):
        losses.plot([tokens[r["step"]] for r in steps], [r[key] for r in steps], label=label, linewidth=1)
    losses.set(ylabel="loss", yscale="log", title=f"{log.name}: {steps[-1]['step']} steps")
    examined = [r for r in records if "examined" in r]
    per_step = steps[-1]["tokens"] / steps[-1]["step"] / 1e6
    for name, colour in _SHOWN.items():
        points = [(r["step"] * per_step, 100 * r["examined"][name]) for r in examined if name in r["examined"]]
        answers.plot(*zip(*points, strict=True), "o-", label=name, color=colour, markersize=3, linewidth=1)
    answers.set(ylabel="held-out, exact, %", xlabel="million tokens", ylim=(-2, 102))
    for axes in (losses, answers):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
