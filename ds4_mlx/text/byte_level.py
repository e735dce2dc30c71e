"""The vocabulary of a `tokenizer.json`: byte-level BPE, what DeepSeek V4 ships (spec 15.1).

Byte-level BPE writes each byte of a token as one printable character (GPT-2's alphabet: a space is `Ġ`), so that a
token may hold half a character. Added tokens stand as their own text.
"""

from __future__ import annotations

import json
import re
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


# A rule of DeepSeek's pre-tokenizer: letters are a piece, together with one character before them, such as a space. So
# behind a letter a piece begins with a space that a letter follows.
_WORD_RULE = "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
_WORD = re.compile("(?<=[A-Za-z]) (?=[A-Za-z])")
_PIECE = 1 << 16  # characters; longer texts are cut
_AT_ONCE = 8  # pieces


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
        rules = self._tokenizer.pre_tokenizer
        self._cuts_before_words = rules is not None and json.dumps(_WORD_RULE)[1:-1] in rules.__getstate__().decode()
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
        ids: list[int] = []
        pieces = self._pieces(text)
        for start in range(0, len(pieces), _AT_ONCE):
            batch = self._tokenizer.encode_batch_fast(pieces[start : start + _AT_ONCE], add_special_tokens=False)
            for encoding in batch:
                ids += encoding.ids
        return ids

    def _pieces(self, text: str) -> list[str]:
        """The text, cut where the pre-tokenizer cuts it anyway: the library takes 300 bytes of memory for a character,
        and gives them back when a piece is done.
        """
        if len(text) <= _PIECE or not self._cuts_before_words:
            return [text]
        pieces, start = [], 0
        while cut := _WORD.search(text, start + _PIECE):
            pieces.append(text[start : cut.start()])
            start = cut.start()
        return [*pieces, text[start:]]

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
