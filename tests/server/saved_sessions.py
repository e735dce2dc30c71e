"""Heads of sessions as the engine leaves them, without the memory behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ds4_mlx.cache.head import Head, encode
from ds4_mlx.cache.segment_file import Link, ModelMark
from ds4_mlx.cache.store import SessionStore

MARK = ModelMark("checkpoint", "exact", "float32")


def store_with(directory: Path, *heads: Head) -> SessionStore:
    (directory / "sessions").mkdir(parents=True)
    for head in heads:
        (directory / "sessions" / f"{head.id}.json").write_bytes(encode(head))
    return SessionStore(directory)


def head(number: int, messages: list[dict[str, Any]] | None, **more: Any) -> Head:
    """The higher its number, the later it was used."""
    chain = (Link(f"{number:032x}", 0, 100 + number, "tail", True, "0" * 32, 5000),)
    values = {"name": None, "created": 1.7e9, "used": 1.7e9 + number, "saved": 1.7e9, **more}
    return Head(f"{number:08x}", model="ds4-tiny", mark=MARK, chain=chain, messages=messages, **values)
