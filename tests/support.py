"""Paths and types the tests share. Fixtures are in conftest.py."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ds4_mlx.engine.language_model import LanguageModel

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_CHECKPOINT = GOLDEN / "checkpoint"
DSPARK_CHECKPOINT = Path(__file__).parent / "golden_dspark" / "ckpt"

Golden = Callable[[str], dict[str, np.ndarray]]
ModelIn = Callable[..., LanguageModel]
