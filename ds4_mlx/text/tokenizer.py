"""Text <-> token ids <-> bytes, whichever tokenizer file a checkpoint brings. Knows nothing of the prompt format."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from ds4_mlx.errors import UserError
from ds4_mlx.text.byte_level import ByteLevelVocabulary
from ds4_mlx.text.sentencepiece_model import SentencePieceVocabulary
from ds4_mlx.text.special import BOS, EOS
from ds4_mlx.text.stream import TextStream


class Vocabulary(Protocol):
    """What a kind of tokenizer has to offer."""

    size: int

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; special tokens written in it become their ids, none are added."""

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token stands for, alone; nothing for an id the vocabulary does not have."""

    def text_bytes(self, token_id: int, previous: int | None) -> bytes:
        """The bytes a token adds to a text after the token `previous`, None at the start of the text."""

    def id_of(self, text: str) -> int | None:
        """The id of the token with exactly this text."""


class Tokenizer:
    """A checkpoint's tokenizer.

    vocab_size:  number of ids it knows; the model's vocabulary may be larger
    bos_id:      id of DeepSeek's BOS string, None if the tokenizer lacks it
    eos_id:      id of DeepSeek's EOS string, None if the tokenizer lacks it
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Wrap a vocabulary; `load_tokenizer` finds it in a folder."""
        self._vocabulary = vocabulary
        self.vocab_size = vocabulary.size
        self.bos_id = vocabulary.id_of(BOS)
        self.eos_id = vocabulary.id_of(EOS)

    def encode(self, text: str) -> list[int]:
        """The ids of a prompt. Adds nothing: a prompt from `encode_messages` already begins with BOS.

        Special tokens written in the text become their ids, as in DeepSeek's reference (spec 15.1).
        Raises UserError for text that is not valid Unicode (half of a surrogate pair).
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"The text is not valid Unicode: it has half of a surrogate pair at character {error.start}."
            ) from error
        return self._vocabulary.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids; special tokens stay as their text, bytes that are no UTF-8 become U+FFFD."""
        stream = TextStream(self)
        return "".join([stream.feed(token_id) for token_id in ids]) + stream.finish()

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes one token stands for; b"" for an id outside of the vocabulary."""
        return self._vocabulary.token_bytes(token_id)

    def text_bytes(self, token_id: int, previous: int | None) -> bytes:
        """The bytes a token adds to a text after `previous` (None at its start).

        The same as `token_bytes`, except that a sentencepiece model's dummy space at the start of a text is left out.
        """
        return self._vocabulary.text_bytes(token_id, previous)

    def id_of(self, token_text: str) -> int | None:
        """The id of the token whose text is `token_text`, such as "</think>"; None if there is no such token."""
        return self._vocabulary.id_of(token_text)


def load_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer:
    """Load the tokenizer of a checkpoint: its tokenizer.json, or else its tokenizer.model.

    Raises UserError when the folder has neither, or when the file cannot be read or is of another kind.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; a tokenizer is loaded from a checkpoint's folder.")
    if (folder / "tokenizer.json").exists():
        return Tokenizer(ByteLevelVocabulary(folder / "tokenizer.json"))
    if (folder / "tokenizer.model").exists():
        return Tokenizer(SentencePieceVocabulary(folder / "tokenizer.model"))
    raise UserError(f"{folder} has neither a tokenizer.json nor a tokenizer.model; a checkpoint needs one of them.")
