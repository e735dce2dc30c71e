"""A tokenizer's tokens as bytes: which of them go on in a given way, and llguidance's view of them."""

from __future__ import annotations

import re
from bisect import bisect_left
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from ds4_mlx.errors import UserError
from ds4_mlx.text import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer

# Roles, BOS, EOS, placeholders: never part of a text. `<think>` and `｜DSML｜` are, in a grammar as in a prompt.
_CONTROL = re.compile(r"<[｜|][\w▁/]+[｜|]>")


class TokenTable:
    """The tokens of one tokenizer. Get one with `token_table`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        if tokenizer.eos_id is None:
            raise UserError("The checkpoint's tokenizer has no end-of-sentence token; answers cannot be constrained.")
        self.eos_id: int = tokenizer.eos_id
        self.bytes_of = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
        self._encode = tokenizer.encode
        self._completing: dict[tuple[bytes, bytes], list[int]] = {}

    def starting_with(self, prefix: bytes) -> list[int]:
        """The ids of the tokens that begin with these bytes, or are just these."""
        found = []
        for position in range(bisect_left(self._sorted, (prefix, -1)), len(self._sorted)):
            data, token_id = self._sorted[position]
            if not data.startswith(prefix):
                break
            found.append(token_id)
        return found

    def completing(self, tail: bytes, marker: bytes) -> list[int]:
        """The ids of the tokens after which `marker` stands in a text. tail: what the text has of it before, or b""."""
        if (tail, marker) not in self._completing:
            ids = [token_id for token_id, data in enumerate(self.bytes_of) if marker in data]
            for length in range(1, len(marker)):
                if tail.endswith(marker[:length]):
                    ids += self.starting_with(marker[length:])
            self._completing[tail, marker] = ids
        return self._completing[tail, marker]

    def overrunning(self, tail: bytes, marker: bytes) -> list[int]:
        """Those of `completing` that go on behind the marker."""
        return [i for i in self.completing(tail, marker) if not (tail + self.bytes_of[i]).endswith(marker)]

    def tokens_of(self, data: bytes) -> list[int]:
        """The ids of a text inside of another one: joined, their bytes are the text."""
        ids = self._encode(data.decode(errors="replace"))
        return ids if b"".join(self.bytes_of[i] for i in ids) == data else self._longest_first(data)

    @cached_property
    def matcher_tokenizer(self) -> LLTokenizer:
        """Half a second for 129,280 tokens."""
        from llguidance import LLTokenizer, TokenizerWrapper

        return LLTokenizer(TokenizerWrapper(_TokensForMatcher(self)))

    @cached_property
    def _sorted(self) -> list[tuple[bytes, int]]:
        return sorted((data, token_id) for token_id, data in enumerate(self.bytes_of) if data)

    def _longest_first(self, data: bytes) -> list[int]:
        """For tokenizers that put a space before every text (sentencepiece), or bytes that are no text."""
        ids, by_bytes = [], dict(self._sorted)
        while data:
            length = next((n for n in range(min(len(data), 64), 0, -1) if data[:n] in by_bytes), 0)
            if not length:
                break
            ids.append(by_bytes[data[:length]])
            data = data[length:]
        return ids


class _TokensForMatcher:
    """What llguidance's `TokenizerWrapper` asks of a tokenizer."""

    def __init__(self, table: TokenTable) -> None:
        self.eos_token_id = table.eos_id
        self.bos_token_id = None
        self.tokens = table.bytes_of
        self.special_token_ids = [
            i for i, data in enumerate(table.bytes_of) if _CONTROL.fullmatch(data.decode(errors="replace"))
        ]
        self._table = table

    def __call__(self, data: bytes) -> list[int]:
        return self._table.tokens_of(data)


@lru_cache(maxsize=4)
def token_table(tokenizer: Tokenizer) -> TokenTable:
    """The table of a tokenizer, made once. UserError if the tokenizer has no end-of-sentence token."""
    return TokenTable(tokenizer)
