"""A session saved at random points and continued in another process, against one that was never interrupted.

PYTHONPATH=tests python -m engine.continuing [POINTS] prints a line for each model and dtype.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np

import ds4_mlx
from ds4_mlx.engine.language_model import LanguageModel

from support import GOLDEN_CHECKPOINT

PROMPT, TOTAL = 390, 560  # tokens; those behind the prompt come one at a time
FURTHER = (17, 1, 1, 1, 1)  # how a restored session goes on
MODELS = {"ds4-tiny": None, "golden": GOLDEN_CHECKPOINT}
DTYPES = {"fp32": mx.float32, "bf16": mx.bfloat16}


class Outcome(NamedTuple):
    """Of so many points: sessions that came back whole, rows of logits compared, and how many were not equal."""

    points: int
    whole: int
    rows: int
    different: int


def _ids(model: LanguageModel) -> list[int]:
    return np.random.default_rng(5).integers(3, min(4000, model.config.vocab_size), TOTAL + sum(FURTHER)).tolist()


def _uninterrupted(model: LanguageModel) -> np.ndarray:
    """The logits after each token: a prompt in chunks, then token by token."""
    session, ids = model.session(), _ids(model)
    rows = [np.array(session.feed(ids[:PROMPT], chunk=100))]
    rows += [np.array(session.feed([token])) for token in ids[PROMPT:]]
    return np.concatenate(rows)


def restore(directory: str, model_name: str, dtype: str, out: str) -> None:
    """The other process: restores every session and goes on; writes the logits."""
    model = ds4_mlx.load(MODELS[model_name], dtype=DTYPES[dtype], kv_dir=directory)
    ids, result = _ids(model), {}
    for head in model.store.heads():
        point = int(str(head.name).removeprefix("at "))
        session = model.restore(head.id)
        if session.position != point or session.token_ids != ids[:point]:
            continue
        rows = [] if session.logits is None else [np.array(session.logits)[None]]  # that of the last token
        start = point
        for count in FURTHER:
            rows.append(np.array(session.feed(ids[start : start + count])))
            start += count
        result[str(point)] = np.concatenate(rows)
    np.savez(out, **result)


def run(model_name: str, dtype: str, points: int, seed: int = 0) -> Outcome:
    """One line of the table."""
    model = ds4_mlx.load(MODELS[model_name], dtype=DTYPES[dtype])
    expected = _uninterrupted(model)
    fixed = (128, PROMPT, 512)[: points - 1]  # page boundaries and the prompt's end are among them
    rest = [point for point in range(1, TOTAL) if point not in fixed]
    chosen = sorted([*fixed, *random.Random(seed).sample(rest, points - len(fixed))])
    with tempfile.TemporaryDirectory() as folder:
        model = ds4_mlx.load(MODELS[model_name], dtype=DTYPES[dtype], kv_dir=Path(folder) / "kv")
        session, ids = model.session(), _ids(model)
        for point in chosen:
            while session.position < point:
                prefill = min(point, PROMPT) - session.position
                session.feed(ids[session.position : session.position + max(1, prefill)], last_only=True)
            session.fork().save(f"at {point}")
        out = Path(folder) / "logits.npz"
        subprocess.run(
            [sys.executable, "-m", "engine.continuing", "restore", f"{folder}/kv", model_name, dtype, str(out)],
            check=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        with np.load(out) as found:
            rows = different = 0
            for point, logits in found.items():
                first = int(point) - 1
                right = expected[first : first + len(logits)]
                rows += len(logits)
                different += int((logits.view(np.uint32) != right.view(np.uint32)).any(axis=1).sum())
            return Outcome(len(chosen), len(found.files), rows, different)


if __name__ == "__main__":
    if sys.argv[1:2] == ["restore"]:
        restore(*sys.argv[2:])
    else:
        for name in MODELS:
            for kind in DTYPES:
                begin = time.time()
                print(name, kind, run(name, kind, int(sys.argv[1]) if sys.argv[1:] else 40), end=" ")
                print(f"{time.time() - begin:.0f} s", flush=True)
