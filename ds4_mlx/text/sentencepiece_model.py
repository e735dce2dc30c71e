"""The vocabulary of a `tokenizer.model`: sentencepiece, for checkpoints that bring that instead of a tokenizer.json.

Pieces write a space as U+2581, and a byte that no piece covers as `<0xNN>`. Many models put a dummy space before the
text they encode; as in sentencepiece's own decoder it is taken off again, here also after a special token.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ds4_mlx.errors import UserError
from ds4_mlx.text.special import SPECIAL_TOKENS

_SPACE = "▁"
_UNKNOWN = " \N{DOUBLE QUESTION MARK} "  # as sentencepiece shows what it could not encode


class SentencePieceVocabulary:
    """Text <-> ids through the `sentencepiece` library."""

    def __init__(self, path: Path) -> None:
        """Read a tokenizer.model. UserError when it is damaged."""
        import sentencepiece

        try:
            model: Any = sentencepiece.SentencePieceProcessor()
            model.LoadFromSerializedProto(path.read_bytes())
            self.size: int = model.get_piece_size()
            first = model.encode("a", out_type=str)[:1]
        except (RuntimeError, OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} is not a readable sentencepiece model ({error}). Download it again.") from error
        self._model = model
        self._adds_space = bool(first) and first[0].startswith(_SPACE)
        # Sentencepiece finds user-defined symbols in a text but not control symbols: those are cut out before it.
        controls = [text for text in SPECIAL_TOKENS if (i := self.id_of(text)) is not None and self._is_control(i)]
        self._controls = re.compile("|".join(map(re.escape, controls)) or r"(?!)")

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, nothing added but the model's dummy space."""
        ids: list[int] = []
        start = 0
        for match in self._controls.finditer(text):
            ids += [*self._model.encode(text[start : match.start()]), self._model.piece_to_id(match.group())]
            start = match.end()
        return [*ids, *self._model.encode(text[start:])]

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one piece, alone."""
        if not 0 <= token_id < self.size:
            return b""
        piece: str = self._model.id_to_piece(token_id)
        if self._model.is_unknown(token_id):
            return _UNKNOWN.encode()
        if self._model.is_byte(token_id):
            return bytes([int(piece[3:5], 16)])
        if self._is_control(token_id) or piece in SPECIAL_TOKENS:
            return piece.encode()  # DeepSeek's names hold a U+2581 of their own
        return piece.replace(_SPACE, " ").encode()

    def text_bytes(self, token_id: int, previous: int | None) -> bytes:
        """The bytes of one piece in a text, without the dummy space at its start."""
        added = self.token_bytes(token_id)
        starts_text = previous is None or self._is_control(previous)
        return added.removeprefix(b" ") if self._adds_space and starts_text else added

    def id_of(self, text: str) -> int | None:
        """The id of the piece with exactly this text, spaces written either way."""
        for piece in (text, text.replace(" ", _SPACE)):
            token_id: int = self._model.piece_to_id(piece)
            if self._model.id_to_piece(token_id) == piece:
                return token_id
        return None

    def _is_control(self, token_id: int) -> bool:
        return 0 <= token_id < self.size and bool(self._model.is_control(token_id))
