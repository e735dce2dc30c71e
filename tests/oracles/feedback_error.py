"""The proxy loss of encoding with feedback beside that of importance, at equal bytes, on inputs neither has seen.

    ds4-mlx calibrate --text TRAINING -o CAL && ds4-mlx calibrate --text HELD_OUT -o OTHER
    python tests/oracles/feedback_error.py CAL OTHER     # every expert matrix of ds4-tiny, then six synthetic kinds
    python tests/oracles/feedback_error.py               # the synthetic ones alone

tr(E H E^T) / tr(W H W^T), H from inputs that the encoders were not given: OTHER, or a second sample. A script and no
pytest module: it takes minutes. Ends with status 1 if feedback loses anywhere.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ds4_mlx.calibration.encoding import Factors, encode_experts
from ds4_mlx.calibration.store import Inputs, open_calibration
from ds4_mlx.checkpoint import open_checkpoint
from ds4_mlx.engine.hub import DEFAULT_MODEL
from ds4_mlx.quant import get_format
from ds4_mlx.quant.encoders import encode
from ds4_mlx.quant.encoders.hessian import proxy_loss

FORMATS = {"w1": "iq2_xxs", "w2": "q2_k", "w3": "iq2_xxs"}
WIDTH, ROWS, TOKENS = 1024, 128, 4096


class Losses(NamedTuple):
    """Of one matrix, relative: columns counted by their weights' energy, by importance, and feedback."""

    plain: float
    importance: float
    feedback: float


def losses_of(storage: str, weights: np.ndarray, inputs: Inputs, unseen: Inputs) -> list[Losses]:
    """weights float32 [E, out, in] -> one entry per expert."""
    experts, fmt = range(len(weights)), get_format(storage)
    w = mx.array(weights)
    found = [
        np.array(fmt.decode(*(arrays[part.name] for part in fmt.parts)))
        for arrays in (
            encode(storage, w),
            encode(storage, w, mx.array(inputs.importance)),
            encode_experts(storage, w, experts, inputs, Factors(inputs).of(experts)),
        )
    ]
    entries = []
    for e in experts:
        hessian = unseen.hessian(e)
        whole = proxy_loss(weights[e], hessian)
        entries.append(Losses(*(proxy_loss(values[e] - weights[e], hessian) / whole for values in found)))
    return entries


def tiny(calibration: Path, held_out: Path) -> Iterator[tuple[str, str, list[Losses]]]:
    """Every expert matrix of ds4-tiny."""
    checkpoint = open_checkpoint(DEFAULT_MODEL)
    known, unseen = open_calibration(calibration), open_calibration(held_out)
    arrays, fmt = dict(checkpoint.load()), get_format("mxfp4")
    for layer in range(checkpoint.config.num_hidden_layers):
        for matrix, storage in FORMATS.items():
            item = f"layers.{layer}.ffn.experts.{matrix}"
            weights = np.array(fmt.decode(*(arrays[f"{item}.{part.name}"] for part in fmt.parts)))
            yield item, storage, losses_of(storage, weights, known.inputs(item), unseen.inputs(item))


Sample = Callable[[np.random.Generator, int], np.ndarray]  # inputs float32 [tokens, WIDTH]


def correlated(decay: float, outliers: int = 0, size: float = 1.0) -> Sample:
    """Inputs of an effective rank of about `decay`, with some noise; `outliers` columns are `size` times larger."""
    fixed = np.random.default_rng(5)
    mixing = fixed.standard_normal((WIDTH, WIDTH)) * np.exp(-np.arange(WIDTH) / decay)[:, None]
    scale = np.ones(WIDTH)
    scale[fixed.permutation(WIDTH)[:outliers]] = size

    def sample(rng: np.random.Generator, tokens: int) -> np.ndarray:
        common = rng.standard_normal((tokens, WIDTH)) @ mixing
        own = rng.standard_normal((tokens, WIDTH)) * np.sqrt((common**2).mean()) * 0.3
        return ((common + own) * scale).astype(np.float32)

    return sample


def independent(rng: np.random.Generator, tokens: int) -> np.ndarray:
    """Columns that have nothing to do with each other, of lognormal sizes."""
    return (rng.standard_normal((tokens, WIDTH)) * np.exp(np.random.default_rng(6).standard_normal(WIDTH))).astype("f4")


KINDS: dict[str, tuple[str, float, Sample, int]] = {
    "gate/up, strong correlations": ("iq2_xxs", 6, correlated(60, 8, 8), TOKENS),
    "gate/up, mild correlations": ("iq2_xxs", 6, correlated(600), TOKENS),
    "gate/up, heavy tails, few tokens": ("iq2_xxs", 4, correlated(200), WIDTH // 2),
    "gate/up, independent columns": ("iq2_xxs", 6, independent, TOKENS),
    "down, outlier channels": ("q2_k", 6, correlated(200, 4, 40), TOKENS),
    "down, mild correlations": ("q2_k", 6, correlated(600), TOKENS),
}


def synthetic() -> Iterator[tuple[str, str, list[Losses]]]:
    """Student's t through MXFP4, as experts are released."""
    for number, (kind, (storage, degrees, sample, tokens)) in enumerate(KINDS.items()):
        rng = np.random.default_rng(number)
        raw = rng.standard_t(degrees, (1, ROWS, WIDTH)).astype(np.float32) * 0.02
        fmt = get_format("mxfp4")
        weights = fmt.decode(*mx.quantize(mx.array(raw), group_size=32, bits=4, mode="mxfp4")[:2])
        known, unseen = (inputs_of(sample(rng, n)) for n in (tokens, TOKENS))
        yield kind, storage, losses_of(storage, np.array(weights), known, unseen)


def inputs_of(x: np.ndarray) -> Inputs:
    """What a calibration knows of one expert with these inputs [T, in]."""
    hessian = x.T @ x
    return Inputs(np.array([len(x)]), np.diag(hessian)[None] / np.float32(len(x)), lambda _: hessian, shared=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("calibration", type=Path, nargs="?", help="folder that the encoders are given")
    parser.add_argument("held_out", type=Path, nargs="?", help="folder of other texts, to measure with")
    options = parser.parse_args()
    everything: dict[str, list[Losses]] = {}
    print("| matrix | format | plain | importance | feedback | feedback / importance, median (worst) |")
    print("|---|---|---|---|---|---|")
    sources = [tiny(options.calibration, options.held_out)] if options.held_out else []
    for source in (*sources, synthetic()):
        for name, storage, entries in source:
            row("ds4-tiny " + name if name.startswith("layers") else name, storage, entries)
            group = f"ds4-tiny, all {name[-2:]}" if name.startswith("layers") else "synthetic, all"
            everything.setdefault(group, []).extend(entries)
    for group, entries in everything.items():
        row(f"**{group}**", f"{len(entries)} matrices", entries)
    lost = sum(entry.feedback >= entry.importance for entries in everything.values() for entry in entries)
    print(f"\nFeedback is lower on all but {lost} of {sum(map(len, everything.values()))} matrices.")
    sys.exit(int(lost > 0))


def row(name: str, storage: str, entries: list[Losses]) -> None:
    """A line of the table: medians over the experts."""
    medians = [float(np.median(column)) for column in zip(*entries, strict=True)]
    ratios = [entry.feedback / entry.importance for entry in entries]
    cells = [*(f"{value:.4f}" for value in medians), f"{np.median(ratios):.2f} ({max(ratios):.2f})"]
    print("|", " | ".join([name, storage, *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
