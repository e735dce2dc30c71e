"""What was sampled, put back into the history a client sends: tool calls byte for byte, and the reasoning before them.

A client returns a call as a name and parsed arguments, and often without the reasoning. Rendered from that, the prompt
differs from what the model wrote (a space in JSON is enough), and everything from there on has to be read again. The
book remembers what was sampled under the ids that the client was given; `encode_messages` writes it where it is still
the same call. Knows nothing of prompts, APIs or the model.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ds4_mlx.cache.files import Warn, quarantine

FILE_NAME = "replay.sqlite"
_LOOKED_UP_AT_ONCE = 500  # below sqlite's limit of variables in one statement

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    calls_text TEXT NOT NULL,
    reasoning TEXT NOT NULL,
    size INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS ids (
    id TEXT PRIMARY KEY,
    number INTEGER NOT NULL REFERENCES answers ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS ids_by_number ON ids (number);
"""

_SURROGATE = re.compile("[\ud800-\udfff]")  # what JSON can say and UTF-8 cannot

Message = dict[str, Any]
T = TypeVar("T")


class ReplayBook:
    """Answers by the ids of their tool calls, in one file; safe to use from several threads and processes.

    What was remembered survives the end of the process, however it ends. The oldest answers are dropped beyond
    `max_answers` or `max_bytes` of text. Nothing here fails an answer: a damaged file is moved to the folder's
    quarantine and begun anew, what cannot be written is not remembered; `warn` is told.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_answers: int = 100_000,
        max_bytes: int = 256 << 20,
        warn: Warn | None = None,
    ) -> None:
        """Open the book in the store's folder, or begin it."""
        self._directory = directory
        self._path = directory / FILE_NAME
        self._max_answers, self._max_bytes = max_answers, max_bytes
        self._warn = warn or (lambda sentence: None)
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._warned = False  # of what lasts, once
        self._answers = self._bytes = 0  # in the file, as of the last count
        with self._lock:
            self._safely(lambda database: None)

    def remember(self, ids: Sequence[str], calls_text: str, reasoning: str = "") -> None:
        """An answer is complete: its text of calls exactly as sampled, its reasoning, and the ids of its calls.

        ids: those of its calls in order, or of anything else the client sends back with it.
        """
        if not ids or not (calls_text or reasoning):
            return
        with self._lock:
            self._safely(lambda database: self._insert(database, ids, calls_text, reasoning))

    def attach(self, messages: Sequence[Message]) -> list[Message]:
        """A client's messages with what is known of them: `calls_text`, and `reasoning_content` where it is missing.

        Assistant messages are found by the ids of their tool calls, or by an `id` of their own. The messages given are
        not changed. Whether the calls are still the same is for `encode_messages` to see.
        """
        wanted = {key for message in messages for key in _ids(message)}
        if not wanted:
            return list(messages)
        with self._lock:
            found = self._safely(lambda database: self._look_up(database, sorted(wanted))) or {}
        return [_with(message, found) for message in messages]

    def close(self) -> None:
        """Closes the file. Used again, the book opens it again."""
        with self._lock:
            self._close()

    def _safely(self, action: Callable[[sqlite3.Connection], T]) -> T | None:
        """Runs an action on the open file; once more on a new file if this one is damaged; else None."""
        for attempt in range(2):
            try:
                if self._database is None:
                    self._database = self._open()
                with self._database:
                    result = action(self._database)
                self._warned = False
                return result
            except (sqlite3.Error, OSError) as error:
                self._close()
                # Its subclasses are a full disk, a lock, a folder that may not be written: there the file is sound.
                if type(error) is sqlite3.DatabaseError and attempt == 0:
                    self._set_aside(str(error))
                    continue
                if not self._warned:
                    self._warn(f"{self._path} cannot be used ({error}); tool calls are rendered anew meanwhile.")
                self._warned = True
                return None
        return None

    def _open(self) -> sqlite3.Connection:
        self._directory.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self._path, timeout=5, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute("PRAGMA foreign_keys = ON")
            database.executescript(_SCHEMA)
            if (problem := database.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(problem)
            self._count(database)
        except BaseException:
            database.close()
            raise
        return database

    def _count(self, database: sqlite3.Connection) -> None:
        self._answers, self._bytes = database.execute("SELECT COUNT(*), COALESCE(SUM(size), 0) FROM answers").fetchone()

    def _insert(self, database: sqlite3.Connection, ids: Sequence[str], calls_text: str, reasoning: str) -> None:
        size = len(calls_text.encode(errors="replace")) + len(reasoning.encode(errors="replace"))
        number = database.execute(
            "INSERT INTO answers (calls_text, reasoning, size) VALUES (?, ?, ?)", (calls_text, reasoning, size)
        ).lastrowid
        database.executemany("INSERT OR REPLACE INTO ids VALUES (?, ?)", [(key, number) for key in ids])
        self._answers, self._bytes = self._answers + 1, self._bytes + size
        if self._answers > self._max_answers or self._bytes > self._max_bytes:
            self._drop_oldest(database)

    def _drop_oldest(self, database: sqlite3.Connection) -> None:
        """Down to nine tenths of the bounds, so that it is not done with every answer."""
        self._count(database)  # another process may have added some
        most, room = self._max_answers * 9 // 10, self._max_bytes * 9 // 10
        rows = database.execute("SELECT number, size FROM answers ORDER BY number").fetchall()
        last = None
        for number, size in rows:
            if self._answers <= most and self._bytes <= room:
                break
            last, self._answers, self._bytes = number, self._answers - 1, self._bytes - size
        database.execute("DELETE FROM answers WHERE number <= ?", (last,))

    def _look_up(self, database: sqlite3.Connection, ids: list[str]) -> dict[str, tuple[str, str]]:
        """id -> (calls_text, reasoning)"""
        found = {}
        for start in range(0, len(ids), _LOOKED_UP_AT_ONCE):
            part = ids[start : start + _LOOKED_UP_AT_ONCE]
            rows = database.execute(
                "SELECT id, calls_text, reasoning FROM ids JOIN answers USING (number) "
                f"WHERE id IN ({', '.join('?' * len(part))})",
                part,
            )
            found.update({key: (calls_text, reasoning) for key, calls_text, reasoning in rows})
        return found

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _set_aside(self, why: str) -> None:
        for ending in ("-wal", "-shm"):  # of no use without the file
            self._path.with_name(self._path.name + ending).unlink(missing_ok=True)
        quarantine(self._directory, self._path, why, self._warn)


def _ids(message: Message) -> list[str]:
    """The ids under which an assistant message may be known."""
    if message.get("role") != "assistant":
        return []
    calls = [call for call in message.get("tool_calls") or [] if isinstance(call, dict)]
    keys = (message.get("id"), *(call.get("id") for call in calls))
    return [key for key in keys if isinstance(key, str) and key and not _SURROGATE.search(key)]


def _with(message: Message, found: dict[str, tuple[str, str]]) -> Message:
    known = next((found[key] for key in _ids(message) if key in found), None)
    if known is None:
        return message
    calls_text, reasoning = known
    added = {}
    if calls_text and message.get("tool_calls") and not message.get("calls_text"):
        added["calls_text"] = calls_text
    if reasoning and not message.get("reasoning_content"):
        added["reasoning_content"] = reasoning
    return {**message, **added}
