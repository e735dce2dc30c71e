"""Text that appears token by token: whole characters out of bytes, and stop strings caught across pieces.

Knows nothing of DeepSeek's format; `completion` does.
"""

import codecs
from collections.abc import Iterable
from typing import Protocol

from ds4_mlx.errors import UserError


class TokenText(Protocol):
    """What a TextStream needs of a tokenizer."""

    def text_bytes(self, token_id: int, previous: int | None) -> bytes:
        """The bytes `token_id` adds to the text after `previous` (None at its start)."""


class TextStream:
    """Token ids in, text out, never half a character. The pieces joined are `tokenizer.decode` of the ids."""

    def __init__(self, tokenizer: TokenText) -> None:
        """Begin a text."""
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._previous: int | None = None

    def feed(self, token_id: int) -> str:
        """The text that became certain with this token; often empty in the middle of a character."""
        added = self._tokenizer.text_bytes(token_id, self._previous)
        self._previous = token_id
        return self._decoder.decode(added)

    def finish(self) -> str:
        """What an unfinished character at the end becomes: U+FFFD, or nothing when there is none."""
        return self._decoder.decode(b"", final=True)


class StopMatcher:
    """Ends a text before the first stop string that appears in it.

    First means: complete first, as it would be when sampling stops there; of two that are complete with the same
    character, the longer. So the result does not depend on the pieces.

    found:  the stop string that ended the text, None while there is none
    """

    def __init__(self, stops: Iterable[str]) -> None:
        """Look for these strings (a single string counts as one). UserError for an empty one."""
        self._stops = (stops,) if isinstance(stops, str) else tuple(stops)
        if not all(isinstance(stop, str) and stop for stop in self._stops):
            raise UserError("A stop string must be text of at least one character.")
        self.found: str | None = None
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """(text that is safe to show, whether a stop string was found). After a stop nothing more comes out."""
        if self.found is not None:
            return "", True
        text = self._held + text
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            _, at, self.found = min(found)
            self._held = ""
            return text[:at], True
        safe = len(text) - open_suffix(text, self._stops)
        self._held = text[safe:]
        return text[:safe], False

    def finish(self) -> str:
        """The text still held back when no stop string came of it."""
        held, self._held = self._held, ""
        return held


def open_suffix(text: str, markers: Iterable[str]) -> int:
    """Length of the longest end of `text` that could be the beginning of a marker."""
    longest = 0
    for marker in markers:
        for length in range(min(len(text), len(marker) - 1), longest, -1):
            if text.endswith(marker[:length]):
                longest = length
                break
    return longest
