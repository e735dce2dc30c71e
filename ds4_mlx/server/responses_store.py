"""Responses that were asked to be stored: on disk, for previous_response_id and GET /v1/responses/{id}.

One SQLite file, at most so many bytes; what was used least recently goes first. A conversation is a chain of responses,
and continuing it uses all of them, so what a chain needs does not go before its end.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from ds4_mlx.errors import UserError

BUDGET = 256 << 20
_log = logging.getLogger("ds4_mlx.server")

_TABLE = """
create table if not exists responses (
    id text primary key, previous text, used real not null, bytes integer not null,
    input text not null, response text not null)
"""


class Stored(NamedTuple):
    """A response and the input it answers. previous: the response it goes on from."""

    previous: str | None
    input: list[dict[str, Any]]
    response: dict[str, Any]


class ResponsesStore:
    """May be used from any thread. What is put is there at once, and written by a thread of the store's own."""

    def __init__(self, path: Path | None, budget: int = BUDGET) -> None:
        """path None: in memory. Raises `UserError` if the file cannot be used."""
        self._budget = budget
        self._lock = threading.Lock()
        self._pending: dict[str, Stored] = {}
        self._database = _open(path)
        self._writer = ThreadPoolExecutor(1, "responses")

    def put(self, response_id: str, stored: Stored) -> None:
        """Keeps a response."""
        with self._lock:
            self._pending[response_id] = stored
        self._writer.submit(self._write, response_id, stored)

    def get(self, response_id: str) -> Stored | None:
        """A response; None if there is none of this id."""
        with self._lock:
            if response_id in self._pending:
                return self._pending[response_id]
            row = self._database.execute(
                "select previous, input, response from responses where id = ?", (response_id,)
            ).fetchone()
        return None if row is None else Stored(row[0], json.loads(row[1]), json.loads(row[2]))

    def delete(self, response_id: str) -> bool:
        """Whether there was one."""
        self.flush()
        with self._lock, self._database:
            return self._database.execute("delete from responses where id = ?", (response_id,)).rowcount > 0

    def items(self, response_id: str) -> list[dict[str, Any]] | None:
        """All that was said up to the end of a response, oldest first; None if a part of it is not there."""
        chain: list[Stored] = []
        ids: list[str] = []
        current: str | None = response_id
        while current is not None:
            stored = self.get(current)
            if stored is None or current in ids:
                return None
            chain.append(stored)
            ids.append(current)
            current = stored.previous
        self._writer.submit(self._touch, ids)
        return [item for stored in reversed(chain) for item in (*stored.input, *stored.response["output"])]

    def flush(self) -> None:
        """Returns when all that was put is written."""
        self._writer.submit(lambda: None).result()

    def close(self) -> None:
        """Writes what is left."""
        self._writer.shutdown()
        self._database.close()

    def _write(self, response_id: str, stored: Stored) -> None:
        texts = [json.dumps(stored.input, ensure_ascii=True), json.dumps(stored.response, ensure_ascii=True)]
        row = (response_id, stored.previous, time.time(), sum(map(len, texts)), *texts)
        try:
            with self._lock, self._database:
                self._database.execute("insert or replace into responses values (?, ?, ?, ?, ?, ?)", row)
                self._evict()
            with self._lock:
                del self._pending[response_id]
        except sqlite3.Error as error:  # a full disk, say: it can be continued as long as we run
            _log.warning("Response %s could not be stored: %s", response_id, error)

    def _touch(self, ids: list[str]) -> None:
        try:
            with self._lock, self._database:
                self._database.executemany(
                    "update responses set used = ? where id = ?", [(time.time(), one) for one in ids]
                )
        except sqlite3.Error as error:
            _log.warning("The store of responses could not be updated: %s", error)

    def _evict(self) -> None:
        total = self._database.execute("select coalesce(sum(bytes), 0) from responses").fetchone()[0]
        if total <= self._budget:
            return
        rows = self._database.execute("select id, bytes from responses order by used").fetchall()
        for response_id, nbytes in rows[:-1]:
            self._database.execute("delete from responses where id = ?", (response_id,))
            total -= nbytes
            if total <= self._budget:
                return


def _open(path: Path | None) -> sqlite3.Connection:
    if path is None:
        return _connect(":memory:")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _connect(str(path))
    except sqlite3.OperationalError as error:
        raise UserError(f"{path} cannot be used: {error}.") from None
    except sqlite3.DatabaseError as error:
        aside = path.with_suffix(f".damaged-{int(time.time())}")
        path.replace(aside)
        _log.warning("%s is damaged (%s). It was moved to %s.", path, error, aside)
        return _connect(str(path))
    except OSError as error:
        raise UserError(f"{path.parent} cannot be used: {error.strerror}.") from None


def _connect(name: str) -> sqlite3.Connection:
    database = sqlite3.connect(name, check_same_thread=False, timeout=10)
    database.execute("pragma journal_mode = wal")
    database.execute("pragma synchronous = normal")
    database.execute(_TABLE)
    database.commit()
    return database
