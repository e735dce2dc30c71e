"""Paths and types the tests share. Fixtures are in conftest.py."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

import ds4_mlx
from ds4_mlx.engine.language_model import LanguageModel

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_CHECKPOINT = Path(ds4_mlx.__file__).parent / "models" / "golden-tiny"
DSPARK_CHECKPOINT = Path(__file__).parent / "golden_dspark" / "ckpt"

Golden = Callable[[str], dict[str, np.ndarray]]
ModelIn = Callable[[str], LanguageModel]
