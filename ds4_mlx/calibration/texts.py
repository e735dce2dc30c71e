"""Texts as pieces of token ids: each stands alone and begins with BOS."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np

from ds4_mlx.errors import UserError
from ds4_mlx.text import Tokenizer, encode_messages
from ds4_mlx.text.errors import EncodingError
from ds4_mlx.text.special import BOS

DEFAULT_TEXTS = Path(str(files("ds4_mlx.calibration"))) / "default_texts"


class Text(NamedTuple):
    """What a file holds: rendered documents without BOS, and the file's sha256 (hex)."""

    name: str
    sha256: str
    documents: list[str]


def read_texts(paths: Sequence[Path], prompt_profile: str) -> list[Text]:
    """Reads files and folders of them.

    A `.jsonl` file has a chat or a text per line, {"messages": [...], "thinking": true} as `encode_messages` takes them
    or {"text": "..."}; any other file is one text. README.md in a folder is about the texts and is left out. Raises
    `UserError` for what cannot be read.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.iterdir() if p.is_file() and p.name != "README.md")
        else:
            found.append(path)
    if not found:
        raise UserError(f"There are no texts in {', '.join(map(str, paths))}.")
    return [_read(path, prompt_profile) for path in found]


def pieces_of(texts: Sequence[Text], tokenizer: Tokenizer, *, length: int, tokens: int | None) -> list[np.ndarray]:
    """All documents as pieces int64 [n], n at most `length`, BOS counted; of these some `tokens` in all, if it is
    given, chosen by chance but always the same. Raises `UserError` if there are none.
    """
    if tokenizer.bos_id is None:
        raise UserError("The model's tokenizer has no BOS token.")
    bos, pieces = tokenizer.bos_id, []
    for text in texts:
        for document in text.documents:
            ids = tokenizer.encode(document)
            starts = range(0, len(ids), length - 1)
            pieces += [np.array([bos, *ids[start : start + length - 1]]) for start in starts]
    Random(0).shuffle(pieces)
    if tokens is not None:
        ends = np.cumsum([piece.size for piece in pieces])
        pieces = pieces[: int(np.searchsorted(ends, tokens)) + 1]
    if not pieces:
        raise UserError("The calibration texts are empty.")
    return pieces


def _read(path: Path, prompt_profile: str) -> Text:
    try:
        data = path.read_bytes()
        content = data.decode("utf-8")
    except OSError as error:
        raise UserError(f"The text {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"The text {path} is not valid UTF-8 (byte {error.start}).") from None
    documents = list(_lines(path, content, prompt_profile)) if path.suffix == ".jsonl" else [content]
    return Text(path.name, hashlib.sha256(data).hexdigest(), [d for d in documents if d.strip()])


def _lines(path: Path, content: str, prompt_profile: str) -> Iterator[str]:
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry: dict[str, Any] = json.loads(line)
            if "text" in entry:
                yield str(entry["text"])
                continue
            mode = "thinking" if entry.get("thinking") else "chat"
            rendered = encode_messages(entry["messages"], thinking_mode=mode, profile=prompt_profile)
        except (ValueError, KeyError, TypeError, AttributeError, EncodingError) as error:
            raise UserError(
                f'{path}, line {number} is neither {{"text": ...}} nor {{"messages": [...]}}: {error}'
            ) from None
        yield rendered.removeprefix(BOS)
