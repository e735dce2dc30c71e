"""What the converter's tests share."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from ds4_convert import convert

from support import GOLDEN_CHECKPOINT


@pytest.fixture
def quiet() -> Console:
    """A console that shows nothing."""
    return Console(file=io.StringIO())


@pytest.fixture
def converted(tmp_path: Path, quiet: Console) -> Path:
    """The golden checkpoint, converted; may be damaged."""
    convert(GOLDEN_CHECKPOINT, tmp_path / "converted", console=quiet)
    return tmp_path / "converted"
