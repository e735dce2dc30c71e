"""Reading what `corpus.py` wrote."""

from __future__ import annotations

import json
from pathlib import Path

_FILLER_SIZE = (200, 1200)  # characters of a paragraph that may stand between planted facts


def read_texts(path: Path) -> list[dict]:
    """The documents of one split: source, kind ("prose" or "code") and text."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def filler(texts: list[dict]) -> list[str]:
    """Paragraphs of prose for long prompts."""
    paragraphs = [p for text in texts if text["kind"] == "prose" for p in text["text"].split("\n\n")]
    return [p for p in paragraphs if _FILLER_SIZE[0] <= len(p) <= _FILLER_SIZE[1]]
