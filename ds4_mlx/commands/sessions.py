"""`ds4-mlx sessions ...`: what is saved, and what to do with it."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

from ds4_mlx.cache.audit import audit
from ds4_mlx.cache.bundle import export_bundle, load_bundle
from ds4_mlx.cache.head import Head
from ds4_mlx.cache.store import SessionStore
from ds4_mlx.errors import UserError
from ds4_mlx.terminal import note

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def open_store(kv_dir: Path | None) -> SessionStore:
    """The store of a command; what it warns of goes to stderr."""
    return SessionStore(kv_dir, warn=note)


def show_list(kv_dir: Path | None, as_json: bool) -> None:
    """All sessions, the last used first."""
    store = open_store(kv_dir)
    heads = store.heads()
    if as_json:
        print(json.dumps([_summary(head) for head in heads], ensure_ascii=False, indent=2))
        return
    if not heads:
        note(f"(no sessions in {store.directory})")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("id", "name", "model", "tokens", "size", "age", "first words", box=None, pad_edge=False)
    table.columns[3].justify = table.columns[4].justify = table.columns[5].justify = "right"
    table.columns[6].no_wrap = True
    from rich.text import Text

    for head in heads:
        row = (head.id, head.name or "", head.model, f"{head.tokens:,}", size(head.nbytes), age(head.used), head.title)
        table.add_row(*(Text(_printable(cell)) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    figures = store.figures()
    note(f"{figures.sessions} sessions, {figures.segments} files, {size(figures.nbytes)} in {store.directory}")


def show(kv_dir: Path | None, reference: str, as_json: bool) -> None:
    """One session: its conversation, or where there is none the text of its tokens."""
    store = open_store(kv_dir)
    head = store.find(reference)
    if as_json:
        chain = [vars(link) for link in head.chain]
        print(
            json.dumps({**_summary(head), "messages": head.messages, "segments": chain}, ensure_ascii=False, indent=2)
        )
        return
    note(f"{head.label}: {head.model}, {head.tokens:,} tokens, {size(head.nbytes)}, used {age(head.used)} ago")
    if head.messages is None:
        print("".join(segment.text for segment in store.read(head)))
        return
    for message in head.messages:
        print(f"[{message.get('role', '?')}]")
        if message.get("content"):
            print(message["content"] if isinstance(message["content"], str) else json.dumps(message["content"]))
        for call in message.get("tool_calls") or []:
            print(json.dumps(call, ensure_ascii=False))
        print()


def remove(kv_dir: Path | None, references: list[str]) -> None:
    """Removes sessions, all or none if one of them does not exist."""
    store = open_store(kv_dir)
    heads = [store.find(reference) for reference in references]
    for head in heads:
        store.remove(head.id)
        print(f"removed {head.label}")


def prune(kv_dir: Path | None, budget: str | None) -> None:
    """Drops what is worth least until the budget is kept."""
    store = open_store(kv_dir)
    limit = store.budget if budget is None else parse_size(budget)
    for head in store.prune(limit):
        print(f"removed {head.label}, {size(head.nbytes)}")
    figures = store.figures()
    if figures.nbytes > limit:
        note("Sessions that were used within the last minute stay: somebody may be about to go on with them.")
    note(f"{figures.sessions} sessions, {size(figures.nbytes)} left in {store.directory}")


def verify(kv_dir: Path | None, as_json: bool) -> int:
    """Reads everything again; exit code 1 if a session is not whole."""
    store = open_store(kv_dir)
    result = audit(store)
    if as_json:
        print(json.dumps({**vars(result), "sound": result.sound}, indent=2))
        return 0 if result.sound else 1
    print(f"{result.sessions} sessions, {result.segments} sound files, {size(result.nbytes)}")
    if result.orphans:
        print(f"{result.orphans} files belong to no session")
    for id_, token in result.broken.items():
        print(f"{id_} can be used up to token {token} only; the rest is computed again when it goes on")
    return 0 if result.sound else 1


def export(kv_dir: Path | None, reference: str, path: Path) -> None:
    """One session to one file."""
    head = export_bundle(open_store(kv_dir), reference, path)
    print(f"{path}: session {head.label}, {head.tokens:,} tokens, {size(path.stat().st_size)}")


def load(kv_dir: Path | None, path: Path) -> None:
    """And back."""
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    head = load_bundle(open_store(kv_dir), path)
    print(f"session {head.label}, {head.tokens:,} tokens")


def parse_size(text: str) -> int:
    """Bytes from "500M", "20 GB", "1.5GiB"; units are powers of 1024. Raises `UserError`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if match is None:
        raise UserError(f"{text!r} is no size; write 500M or 20G, say.")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def size(nbytes: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "KiB", "MiB"):
        if nbytes < 1024:
            return f"{nbytes:.0f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.1f} GiB"


def age(then: float) -> str:
    """How long ago, in the largest unit that fits."""
    seconds = max(0.0, time.time() - then)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _summary(head: Head) -> dict[str, Any]:
    return {
        "id": head.id,
        "name": head.name,
        "model": head.model,
        **head.mark._asdict(),
        "tokens": head.tokens,
        "bytes": head.nbytes,
        "created": head.created,
        "used": head.used,
        "saved": head.saved,
        "hits": head.hits,
        "title": head.title,
    }


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
