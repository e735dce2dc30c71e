"""All heads of a directory without their conversations, quickly.

`index.json` remembers what was read, by each head's size, time and inode; a head that is not as remembered is read
again. So the index may be lost, damaged or out of date: nothing depends on it but time.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds4_mlx.cache.files import Warn, aside, checksum, quarantine
from ds4_mlx.cache.head import Head, decode, from_dict, to_dict
from ds4_mlx.cache.segment_file import DamagedError

NAME = "index.json"


@dataclass(frozen=True)
class _Entry:
    stamp: list[int]
    head: Head


class Index:
    """The heads of one directory."""

    def __init__(self, directory: Path, warn: Warn) -> None:
        self._directory = directory
        self._warn = warn
        self._entries: dict[str, _Entry] = {}
        self._unreadable: set[str] = set()
        self._load()

    def heads(self) -> list[Head]:
        """As they are now, the last used first."""
        found, changed = {}, False
        for path in sorted((self._directory / "sessions").glob("*.json")):
            entry = self._entry(path)
            if entry is not None:
                found[path.stem] = entry
                changed = changed or entry is not self._entries.get(path.stem)
        changed = changed or len(found) != len(self._entries)
        self._entries = found
        if changed:
            self._save()
        return sorted((entry.head for entry in found.values()), key=lambda head: head.used, reverse=True)

    def _entry(self, path: Path) -> _Entry | None:
        try:
            stat = path.stat()
            stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
            known = self._entries.get(path.stem)
            if known is not None and known.stamp == stamp:
                return known
            head = decode(path.read_bytes())
            if head.id != path.stem:
                raise DamagedError("it is the head of another session than its name says")
            return _Entry(stamp, head.without_messages())
        except FileNotFoundError:  # removed meanwhile
            return None
        except DamagedError as error:
            quarantine(self._directory, path, str(error), self._warn)
        except OSError as error:
            if path.stem not in self._unreadable:
                self._unreadable.add(path.stem)
                self._warn(f"{path} cannot be read: {error.strerror}.")
        return None

    def _load(self) -> None:
        try:
            outer = json.loads((self._directory / NAME).read_bytes())
            body = json.dumps(outer["heads"], separators=(",", ":"))
            if outer["checksum"] == checksum(body.encode()):
                self._entries = {id_: _Entry(entry[0], from_dict(entry[1])) for id_, entry in outer["heads"].items()}
        except (OSError, ValueError, KeyError, TypeError, RecursionError, DamagedError):
            self._entries = {}

    def _save(self) -> None:
        heads: dict[str, Any] = {id_: [entry.stamp, to_dict(entry.head)] for id_, entry in self._entries.items()}
        body = json.dumps(heads, separators=(",", ":"))
        temporary = None
        try:
            temporary = aside(self._directory, ".json")
            temporary.write_text(f'{{"checksum":"{checksum(body.encode())}","heads":{body}}}', encoding="utf-8")
            temporary.replace(self._directory / NAME)
        except OSError:  # full or read-only: it is read from the heads next time
            if temporary is not None:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
