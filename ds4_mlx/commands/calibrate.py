"""`ds4-mlx calibrate`: reads the texts, collects, and writes ds4's imatrix beside it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ds4_mlx.calibration.collect import Task, collect
from ds4_mlx.calibration.store import CALIBRATION_NAME, IMATRIX_NAME, open_calibration
from ds4_mlx.calibration.texts import DEFAULT_TEXTS, pieces_of, read_texts
from ds4_mlx.checkpoint import open_checkpoint
from ds4_mlx.engine.hub import find_model
from ds4_mlx.errors import UserError
from ds4_mlx.terminal import note
from ds4_mlx.text import load_tokenizer


class Request(NamedTuple):
    """The flags of the command."""

    model: str | None
    output: Path
    texts: list[Path]
    tokens: int | None
    length: int
    sequential: bool


def run(request: Request) -> None:
    """Writes the folder. Raises `UserError` for anything unusable."""
    from ds4_convert.imatrix import write_imatrix

    output = request.output.expanduser()
    if (output / CALIBRATION_NAME).exists():
        raise UserError(f"{output} holds a finished calibration. Delete it or choose another destination.")
    checkpoint = open_checkpoint(find_model(request.model))
    tokenizer = load_tokenizer(checkpoint.path)
    texts = read_texts([p.expanduser() for p in request.texts] or [DEFAULT_TEXTS], checkpoint.prompt_profile)
    pieces = pieces_of(texts, tokenizer, length=request.length, tokens=request.tokens)
    total = sum(piece.size for piece in pieces)
    config = checkpoint.config
    note(
        f"{total:,} tokens in {len(pieces):,} pieces; "
        f"{total * config.num_experts_per_tok // config.n_routed_experts:,} for each expert of a layer on average"
    )
    collect(Task(checkpoint, pieces, texts, request.sequential), output, note)
    calibration = open_calibration(output)
    entries: dict[str, np.ndarray] = {}
    for layer in range(config.num_hidden_layers):
        for matrix in ("w1", "w2", "w3"):
            item = f"layers.{layer}.ffn.experts.{matrix}"
            entries[item] = calibration.inputs(item).importance
    write_imatrix(output / IMATRIX_NAME, entries, pieces=len(pieces))
    note(f"{output}: done. Next: ds4-mlx convert {checkpoint.path} -o ... --profile q2 --calibration {output}")
