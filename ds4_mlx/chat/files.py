"""Files in a message: `@notes.txt` in its text, or `/read notes.txt`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ds4_mlx.errors import UserError

_MENTION = re.compile(r'(?<!\S)@(?:"([^"\n]+)"|(\S+))')
_LARGEST = 64 << 20  # bytes: no context holds more
_CLOSING = ".,;:!?)]}"


def user_message(typed: str) -> dict[str, Any]:
    """The message for what was typed. The files that it mentions follow it; then `typed` keeps what was typed, for
    `/edit`. A mention of what is no file is text like any other. Raises `UserError` for a file that cannot be read.
    """
    return _message(typed, typed, mentioned(typed))


def read_message(argument: str, typed: str) -> dict[str, Any]:
    """The message of `/read FILE [TEXT]`: the file alone is the message itself; with a text it follows that."""
    match = re.match(r'(?:"([^"]+)"|(\S+))\s*', argument)
    if match is None:
        raise UserError('Name a file: /read FILE [TEXT]; quote a name with spaces, as in /read "my file.txt".')
    path, text = Path(match[1] or match[2]).expanduser(), argument[match.end() :]
    if text:
        return _message(typed, text, [path])
    return {"role": "user", "content": read_text(path), "typed": typed}


def mentioned(text: str) -> list[Path]:
    """The files that a text mentions, each once."""
    found: dict[Path, None] = {}
    for match in _MENTION.finditer(text):
        word = match[1] or match[2]
        for name in (word, word.rstrip(_CLOSING)):
            path = Path(name).expanduser()
            if name and _is_file(path):
                found[path] = None
                break
    return list(found)


def read_text(path: Path) -> str:
    """A file's text. Raises `UserError` if it cannot be read or is no text."""
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{path} has {path.stat().st_size:,} bytes, more than a conversation can hold.")
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text (byte {error.start} is not UTF-8).") from None
    if not text.strip():
        raise UserError(f"{path} is empty.")
    return text


def _message(typed: str, text: str, paths: list[Path]) -> dict[str, Any]:
    if not paths:
        return {"role": "user", "content": text}
    return {"role": "user", "content": "\n\n".join([text, *map(_fenced, paths)]), "typed": typed}


def _fenced(path: Path) -> str:
    text = read_text(path)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    end = "" if text.endswith("\n") else "\n"
    return f"{path}:\n{fence}{path.suffix[1:]}\n{text}{end}{fence}"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a word too long for a name, say
        return False
