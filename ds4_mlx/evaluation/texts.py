"""What a model is measured on: text files, cut into windows of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ds4_mlx.engine.language_model import LanguageModel
from ds4_mlx.errors import UserError
from ds4_mlx.text import Tokenizer

DATA = Path(__file__).parent / "data"
DEFAULT_TEXTS = (DATA / "prose.txt", DATA / "code.txt")
DEFAULT_WINDOW = 2048
_BLOCK = 1 << 20  # characters that are read and tokenised at once


class Text(NamedTuple):
    """A text as a model reads it. windows: int64 [1 + n] each, BOS and n tokens that are predicted one by one."""

    name: str
    windows: list[np.ndarray]

    @property
    def tokens(self) -> int:
        """How many tokens are predicted."""
        return sum(len(window) - 1 for window in self.windows)


def read_texts(
    model: LanguageModel, paths: Sequence[Path], *, window: int = DEFAULT_WINDOW, limit: int | None = None
) -> list[Text]:
    """The files (those of the package where none are named), the first `limit` tokens of each.

    A window begins with BOS and remembers nothing of the one before. Raises `UserError` for a file that cannot be read
    or is empty, and for a window that the model cannot hold.
    """
    longest = model.config.max_position_embeddings
    if not 1 <= window <= longest:
        raise UserError(f"--ctx is {window}; expected 1 to {longest:,}, the model's context.")
    return [Text(path.stem, list(_windows(model, path, window, limit))) for path in paths or DEFAULT_TEXTS]


def _windows(model: LanguageModel, path: Path, window: int, limit: int | None) -> Iterator[np.ndarray]:
    ids = islice(chain.from_iterable(model.tokenizer.encode(block) for block in _blocks(path)), limit)
    bos, empty = model.config.bos_token_id, True
    while part := list(islice(ids, window)):
        empty = False
        yield np.array([bos, *part], dtype=np.int64)
    if empty:
        raise UserError(f"{path} is empty; a text needs at least one token.")


def _blocks(path: Path) -> Iterator[str]:
    """The text of a file, about a million characters at a time, cut where lines end."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            while block := file.read(_BLOCK):
                yield block + file.readline()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid UTF-8 ({error.reason} at byte {error.start} of a block).") from None
    except OSError as error:
        raise UserError(f"The text {path} cannot be read: {error.strerror}.") from None


def check_same_tokens(texts: Sequence[Text], others: Sequence[Text], name: str) -> None:
    """Raises `UserError` if another model reads other tokens: token by token nothing could be compared."""
    for text, other in zip(texts, others, strict=True):
        pairs = zip(text.windows, other.windows, strict=False)
        if len(text.windows) != len(other.windows) or not all(np.array_equal(a, b) for a, b in pairs):
            raise UserError(f"{name} has another tokenizer than the first model; they cannot be compared by tokens.")


def tokens_of(tokenizer: Tokenizer, path: Path) -> int:
    """How many tokens a file has."""
    return sum(len(tokenizer.encode(block)) for block in _blocks(path))
