"""What all tests share: the golden numbers and models built from the golden checkpoint."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

# On NVIDIA GPUs MLX rounds the inputs of float32 matmuls to TF32 unless told otherwise before its first one: too coarse
# for the golden numbers. No effect elsewhere.
os.environ.setdefault("MLX_ENABLE_TF32", "0")

import mlx.core as mx
import numpy as np
import pytest

import ds4_mlx
from ds4_mlx.engine.language_model import LanguageModel

from support import DSPARK_CHECKPOINT, GOLDEN, GOLDEN_CHECKPOINT, Golden, ModelIn


@cache
def _golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


@cache
def _model_in(mode: str, path: Path) -> LanguageModel:
    options = {
        "fp32_plain": {"dtype": mx.float32, "simulate_quantization": False},
        "fp32_kvq": {"dtype": mx.float32},
        "bf16": {"dtype": mx.bfloat16},
        "official": {"dtype": mx.bfloat16, "simulate_activations": True},
    }[mode]
    return ds4_mlx.load(path, **options)


@pytest.fixture(scope="session")
def golden() -> Golden:
    """golden("blocks") -> the arrays of tests/golden/blocks.npz."""
    return _golden


@pytest.fixture(scope="session")
def model_in() -> ModelIn:
    """model_in("fp32_plain") -> the golden model in that numerical mode, loaded once; or that of another folder."""
    return lambda mode, path=GOLDEN_CHECKPOINT: _model_in(mode, path)


@pytest.fixture(scope="session")
def tokens(golden: Golden) -> list[int]:
    """The golden token sequence, 272 ids."""
    return golden("logits")["tokens"].tolist()


@pytest.fixture(scope="session")
def dspark_model() -> LanguageModel:
    """The golden 0731 checkpoint, fp32 without simulation."""
    return _model_in("fp32_plain", DSPARK_CHECKPOINT)


@pytest.fixture(autouse=True)
def sessions_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test saves sessions where those of the person who runs it are."""
    monkeypatch.setattr("ds4_mlx.cache.store.default_directory", lambda: tmp_path / "default-sessions")
