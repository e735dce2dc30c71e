"""The vocabulary of a `tokenizer.json`: byte-level BPE, what DeepSeek V4 ships (spec 15.1).

Byte-level BPE writes each byte of a token as one printable character (GPT-2's alphabet: a space is `Ġ`), so that a
token may hold half a character. Added tokens stand as their own text.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from ds4_mlx.errors import UserError


def _alphabet() -> list[str]:
    """The character of each byte: itself where it is printable, the next free one from U+0100 on where it is not."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(0x100 + others.index(byte)) for byte in range(256)]


_CHARACTER = _alphabet()
_BYTE = {character: bytes([byte]) for byte, character in enumerate(_CHARACTER)}


class ByteLevelVocabulary:
    """Text <-> ids through the `tokenizers` library."""

    def __init__(self, path: Path) -> None:
        """Read a tokenizer.json. UserError when it is damaged or of another kind."""
        import tokenizers

        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exceptions
            raise UserError(f"{path} is not a readable tokenizer.json ({error}). Download it again.") from error
        if type(self._tokenizer.decoder).__name__ != "ByteLevel":
            raise UserError(f"{path} is not a byte-level BPE tokenizer, the kind DeepSeek V4 has.")
        self._tokenizer.no_truncation()  # a limit left in the file would cut prompts short without a word
        self._tokenizer.no_padding()
        self._added = {
            token_id: token.content for token_id, token in self._tokenizer.get_added_tokens_decoder().items()
        }
        self._added_ids = {content: token_id for token_id, content in self._added.items()}
        self.size: int = max(self._tokenizer.get_vocab_size(), max(self._added, default=-1) + 1)
        self.token_bytes = lru_cache(maxsize=None)(self._token_bytes)  # one entry per token: bounded by the vocabulary

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, nothing added."""
        # In batches the library lets other threads run, and need not say where each token stood: a server goes on with
        # its streams while it reads a long prompt.
        ids: list[int] = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids

    def text_bytes(self, token_id: int, previous: int | None) -> bytes:
        """The token's bytes: in byte-level BPE they depend on nothing before it."""
        return self.token_bytes(token_id)

    def id_of(self, text: str) -> int | None:
        """The id of the added token, else of the plain one, with exactly this text."""
        if text in self._added_ids:
            return self._added_ids[text]
        token_id: int | None = self._tokenizer.token_to_id("".join(_CHARACTER[byte] for byte in text.encode()))
        return token_id

    def _token_bytes(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self._tokenizer.id_to_token(token_id) if 0 <= token_id < self.size else None
        if token is None:
            return b""
        return b"".join(_BYTE[character] if character in _BYTE else character.encode() for character in token)
