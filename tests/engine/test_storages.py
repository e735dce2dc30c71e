"""Models run in whatever formats their folder has."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from rich.console import Console

import ds4_mlx
from ds4_convert import convert
from ds4_mlx.checkpoint import open_checkpoint
from ds4_mlx.engine.hub import DEFAULT_MODEL
from ds4_mlx.model.linear import Matrix

from checkpoint import random_gguf

IDS = [int(i) for i in np.random.default_rng(5).integers(3, 300, 40)]


def decoded(model: ds4_mlx.LanguageModel) -> ds4_mlx.LanguageModel:
    """The same model, every matrix held as plain float32."""
    for _, part in model.network.named_modules():
        if isinstance(part, Matrix) and not part.is_stack:
            weights = part.decoded().astype(mx.float32)
            part.store_as("F32")
            part.weight = weights
    return model


@pytest.mark.parametrize("experts", [random_gguf.Q2, random_gguf.Q4, random_gguf.MXFP4], ids=["q2", "q4", "mxfp4"])
def test_a_gguf_runs(experts: tuple, tmp_path: Path) -> None:
    source = random_gguf.write(tmp_path / "model.gguf", experts=experts)
    convert(source, tmp_path / "folder", console=Console(quiet=True))
    logits = ds4_mlx.load(tmp_path / "folder", dtype=mx.float32).session().feed(IDS)
    plain = decoded(ds4_mlx.load(tmp_path / "folder", dtype=mx.float32)).session().feed(IDS)
    assert mx.all(mx.isfinite(logits)).item()
    np.testing.assert_allclose(logits, plain, rtol=1e-3, atol=1e-3)


def test_two_bit_experts_say_nearly_the_same(tmp_path: Path) -> None:
    convert(DEFAULT_MODEL, tmp_path / "q2", profile="q2", console=Console(quiet=True))
    assert open_checkpoint(tmp_path / "q2").profile == "q2"
    exact, q2 = (ds4_mlx.load(path, dtype=mx.float32).session().feed(IDS) for path in (DEFAULT_MODEL, tmp_path / "q2"))
    difference = float(mx.sqrt(mx.mean((exact - q2) ** 2)) / mx.sqrt(mx.mean(exact**2)))
    assert 0 < difference < 0.5
