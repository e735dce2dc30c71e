"""Sessions on disk: a directory of immutable segments, and one head per session that names its chain of them.

Saving writes what is not there yet, found by the hash of the token ids before it; so a session that grew costs what it
grew by, and what two have in common is there once. Whatever is read is compared with its checksums first. Several
processes may share a directory: heads change, and files go, only under its lock. Knows nothing of models but their
`ModelMark`. The format: docs/sessions.md.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import numpy as np
import platformdirs

from ds4_mlx.cache import eviction
from ds4_mlx.cache.files import Warn, quarantine, sweep, sync_directory, write_durably
from ds4_mlx.cache.head import Head, decode, encode, new_id
from ds4_mlx.cache.index import Index
from ds4_mlx.cache.segment import Segment
from ds4_mlx.cache.segment_file import (
    Contents,
    DamagedError,
    Link,
    ModelMark,
    PrefixHash,
    check,
    link,
    read,
    seal,
    write_aside,
)
from ds4_mlx.errors import UserError

DEFAULT_BUDGET = 32 << 30  # bytes: nine sessions of a million tokens
JUST_USED = 60.0  # seconds for which a session is not evicted: another process may be about to go on with it
_LOCK_TIMEOUT = 120.0
_ORPHANS_AFTER = 3600.0  # seconds after which a segment without a session is not about to get one
_ATTEMPTS = 5
_AHEAD = 3  # files read at once: a disk is faster when the next read is there before one ends


def default_directory() -> Path:
    """Where sessions live when nobody says otherwise: the platform's folder for caches."""
    return Path(platformdirs.user_cache_dir("ds4-mlx", appauthor=False)) / "sessions"


class Prefix(NamedTuple):
    """The longest stored beginning of some token ids: how many of them, and the segments that hold it."""

    length: int
    chain: tuple[Link, ...]
    head: Head


@dataclass(frozen=True)
class Figures:
    """What a directory holds."""

    sessions: int
    segments: int  # files of them
    nbytes: int


class SessionStore:
    """One directory of sessions. Made without touching it: it appears with the first save.

    budget: bytes of segments; what is worth least goes when they are passed. warn: told once of each damaged file.
    """

    def __init__(
        self,
        directory: str | Path | None = None,
        *,
        budget: int = DEFAULT_BUDGET,
        warn: Warn = lambda text: None,
        just_used: float = JUST_USED,
    ) -> None:
        if budget < 0:
            raise UserError(f"The budget for sessions is {budget} bytes; expected at least 0.")
        self.directory = default_directory() if directory is None else Path(directory).expanduser()
        if self.directory.exists() and not self.directory.is_dir():
            raise UserError(f"{self.directory} is a file; sessions need a folder.")
        self.budget = budget
        self.warn = warn
        self.in_use: set[str] = set()  # ids of sessions this process goes on with: never evicted
        self._just_used = just_used
        self._told: set[str] = set()  # segments that were found damaged or gone
        self._index = Index(self.directory, self.warn)

    # Reading

    def heads(self) -> list[Head]:
        """All sessions, the last used first, without their messages."""
        return self._index.heads()

    def figures(self) -> Figures:
        """What all sessions together take."""
        heads = self.heads()
        sizes = {link.name: link.nbytes for head in heads for link in head.chain}
        return Figures(len(heads), len(sizes), sum(sizes.values()))

    def find(self, reference: str | None = None) -> Head:
        """A session by name, id, or the beginning of an id; the last used without. With its messages.

        Raises `UserError` if there is none or several.
        """
        for _ in range(_ATTEMPTS):
            head = self._find(self.heads(), reference)
            try:
                return self._read_head(head.id)
            except FileNotFoundError:  # removed between listing and reading
                continue
        raise UserError(f"The session {reference or ''} was removed while it was being read.")

    def has(self, name: str) -> bool:
        """Whether a session has that name or id."""
        return any(name in (head.name, head.id) for head in self.heads())

    def _find(self, heads: list[Head], reference: str | None) -> Head:
        if reference is None:
            if not heads:
                raise UserError(f"There are no sessions in {self.directory}.")
            return heads[0]
        named = [head for head in heads if reference in (head.name, head.id)]
        begun = [head for head in heads if len(reference) >= 4 and head.id.startswith(reference)]
        found = named or begun
        if not found:
            raise UserError(f"There is no session {reference!r} in {self.directory}; `ds4-mlx sessions` lists them.")
        if len(found) > 1 and not named:
            raise UserError(f"{reference!r} begins the ids of {len(found)} sessions; give more of it.")
        return found[0]

    def read(self, head: Head) -> Iterator[Segment]:
        """The segments of a session in order, each compared with its checksums."""
        return self.read_chain(head.chain)

    def read_chain(self, chain: Sequence[Link]) -> Iterator[Segment]:
        """Segments in order. Ends early, with a warning, where a file is damaged (it goes to quarantine) or gone."""
        parent, before = "", None
        coming: deque[Future[Contents | None]] = deque()
        with ThreadPoolExecutor(_AHEAD) as readers:  # read and compare the next files while this one is used
            for i, part in enumerate(chain):
                while len(coming) < _AHEAD and i + len(coming) < len(chain):
                    coming.append(readers.submit(self._open, chain[i + len(coming)]))
                contents = coming.popleft().result()
                if contents is None:
                    return
                segment = contents.segment()
                if contents.parent != parent or (segment.start, segment.stop) != (part.start, part.stop):
                    self._set_aside(part.name, "it does not follow the segment before it")
                    return
                if not len(segment.token_ids) and before is not None and not segment.has_state:
                    segment = replace(segment, arrays={**_state(before), **segment.arrays})
                yield segment
                parent, before = part.name, segment

    def _open(self, part: Link) -> Contents | None:
        path = self.path(part.name)
        try:
            return read(path, part.name)
        except FileNotFoundError:
            self._tell(part.name, f"{path} is gone; what a session held from token {part.start} on is computed again.")
        except DamagedError as error:
            self._set_aside(part.name, str(error))
        except OSError as error:
            self._tell(part.name, f"{path} cannot be read: {error.strerror or error}.")
        return None

    def _tell(self, name: str, text: str) -> None:
        """Warns, once a segment however many sessions share it."""
        if name not in self._told:
            self._told.add(name)
            self.warn(text)

    def _set_aside(self, name: str, why: str) -> None:
        quarantine(self.directory, self.path(name), why, lambda text: self._tell(name, text))

    def match(self, token_ids: Sequence[int] | np.ndarray, mark: ModelMark) -> Prefix | None:
        """The longest stored prefix of these token ids from which a sequence can go on, from whatever session."""
        best: Prefix | None = None
        heads = [head for head in self.heads() if head.mark == mark]
        hashes = _prefix_hashes(np.asarray(token_ids, dtype=np.int32), heads)
        for head in heads:
            for i in range(len(head.chain), 0, -1):
                last = head.chain[i - 1]
                if best is not None and last.stop <= best.length:
                    break
                if last.state and hashes.get(last.stop) == last.prefix:
                    best = Prefix(last.stop, head.chain[:i], head)
                    break
        return best

    def path(self, name: str) -> Path:
        """Where a segment is."""
        return self.directory / "segments" / f"{name}.safetensors"

    def head_path(self, id_: str) -> Path:
        """Where a session's head is."""
        return self.directory / "sessions" / f"{id_}.json"

    def _read_head(self, id_: str) -> Head:
        path = self.head_path(id_)
        try:
            return decode(path.read_bytes())
        except DamagedError as error:
            quarantine(self.directory, path, str(error), self.warn)
            raise FileNotFoundError(str(path)) from None

    # Writing

    def save(
        self,
        token_ids: Sequence[int] | np.ndarray,
        export: Callable[[int], Iterable[Segment]],
        mark: ModelMark,
        *,
        model: str = "",
        earlier: Head | None = None,
        name: str | None = None,
        messages: list[dict[str, Any]] | None = None,
        options: dict[str, Any] | None = None,
    ) -> Head:
        """Saves a session of these token ids; returns once it is on the medium.

        export(after): its segments from token `after` on. earlier: the head of the last save; without it a new session
        begins. If another process saved that session meanwhile, both stay: this one becomes a session of its own, with
        a name of its own. Raises `UserError` if the name is another session's or the directory cannot be written.
        """
        ids = np.asarray(token_ids, dtype=np.int32)
        now = time.time()
        head = earlier or Head(new_id(), None, model, mark, (), now, now, now)
        head = replace(
            head,
            name=name or head.name,
            model=model or head.model,
            mark=mark,
            used=now,
            saved=now,
            messages=head.messages if messages is None else messages,
            options=head.options if options is None else options,
        )
        try:
            for _ in range(_ATTEMPTS):
                chain = self._write_segments(ids, export, mark)
                with self.lock():
                    if all(self._is_there(part) for part in chain):
                        return self._publish(replace(head, chain=chain, title=title_of(head.messages)), earlier)
            raise UserError(f"Another process keeps removing what is being saved in {self.directory}.")
        except filelock.Timeout:
            raise UserError(f"{self.directory} is locked by another process for minutes; nothing was saved.") from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"The session cannot be saved in {self.directory}: {reason}.") from None

    def _write_segments(
        self, ids: np.ndarray, export: Callable[[int], Iterable[Segment]], mark: ModelMark
    ) -> tuple[Link, ...]:
        """Writes what is not there yet; returns the whole chain."""
        chain = list(self._stored_pages(ids, mark))
        prefix, before, written = PrefixHash(), None, False
        start = chain[-1].stop if chain else 0
        prefix.feed(ids[:start])
        state_before = bool(chain) and chain[-1].state
        for segment in export(start):
            if not len(segment.token_ids) and state_before:  # the tail at a boundary: the state is there already
                rest = {name: array for name, array in segment.arrays.items() if not name.startswith("state.")}
                if not rest:
                    continue
                segment = replace(segment, arrays=rest)  # noqa: PLW2901
            sealed = seal(
                segment, parent=chain[-1].name if chain else "", prefix=prefix.feed(segment.token_ids), mark=mark
            )
            path = self.path(sealed.name)
            if not self._is_sound(path, sealed.name):
                temporary = write_aside(self.directory, sealed)
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary.replace(path)
                written = True
            before = link(sealed, segment, path.stat().st_size)
            chain.append(before)
            state_before = before.state
        if written:
            sync_directory(self.directory / "segments")
        return tuple(chain)

    def _stored_pages(self, ids: np.ndarray, mark: ModelMark) -> tuple[Link, ...]:
        """The longest chain of full pages that begins these token ids, from whatever session."""
        best: tuple[Link, ...] = ()
        heads = [head for head in self.heads() if head.mark == mark]
        hashes = _prefix_hashes(ids, heads)
        for head in heads:
            pages = tuple(part for part in head.chain if part.kind == "pages")
            length = best[-1].stop if best else 0
            for i in range(len(pages), 0, -1):
                if pages[i - 1].stop <= length:
                    break
                if hashes.get(pages[i - 1].stop) == pages[i - 1].prefix and all(map(self._is_there, pages[:i])):
                    best = pages[:i]
                    break
        return best

    def _is_sound(self, path: Path, name: str) -> bool:
        """Whether the segment is there already, whole."""
        try:
            check(path, name)
        except FileNotFoundError:
            return False
        except DamagedError as error:
            self._set_aside(name, str(error))
            return False
        return True

    def _is_there(self, part: Link) -> bool:
        try:
            return self.path(part.name).stat().st_size == part.nbytes
        except OSError:
            return False

    def _publish(self, head: Head, earlier: Head | None) -> Head:
        """Makes a head the session's, durably, and removes what nobody needs any more. Under the lock."""
        heads = self.heads()
        on_disk = next((other for other in heads if other.id == head.id), None)
        if on_disk is not None and (earlier is None or on_disk.revision != earlier.revision):
            self.warn(f"The session {head.label} was saved by another process meanwhile; both versions are kept.")
            name = free_name(head.name, heads) if head.name else None
            head, on_disk = replace(head, id=new_id(), name=name, revision=0), None
        if head.name and any(other.name == head.name and other.id != head.id for other in heads):
            raise UserError(f"There is another session named {head.name!r}; choose another name.")
        head = replace(head, revision=head.revision + 1)
        write_durably(self.directory, self.head_path(head.id), encode(head))
        try:  # it is saved; that something else cannot be removed does not change that
            if on_disk is not None:
                self._remove_segments(on_disk.chain, [*(other for other in heads if other.id != head.id), head])
            self._evict(self.budget, {*self.in_use, head.id})
        except OSError as error:
            self._tell("removing", f"{self.directory} cannot be tidied up: {error.filename}: {error.strerror}.")
        return head

    def use(self, head: Head) -> Head:
        """Notes that a session was restored. In a directory that cannot be written nothing is noted."""
        try:
            with self.lock():
                now = self._read_head(head.id)
                noted = replace(now, used=time.time(), hits=now.hits + 1)
                write_durably(self.directory, self.head_path(head.id), encode(noted))
        except (OSError, filelock.Timeout):
            return head
        return noted if noted.revision == head.revision else head

    # Removing

    def remove(self, reference: str) -> Head:
        """Removes one session and the segments that no other one needs."""
        try:
            with self.lock():
                head = self._find(self.heads(), reference)
                self._drop(head)
                return head
        except OSError as error:
            raise UserError(f"The session cannot be removed: {error.filename}: {error.strerror}.") from None

    def prune(self, budget: int | None = None) -> list[Head]:
        """Keeps the budget (the store's, if none is given), and removes files that belong to no session. Returns the
        sessions that went.
        """
        try:
            with self.lock():
                dropped = self._evict(self.budget if budget is None else budget, self.in_use)
                self._remove_orphans()
            sweep(self.directory)
        except OSError as error:
            raise UserError(f"{self.directory} cannot be pruned: {error.filename}: {error.strerror}.") from None
        return dropped

    def _evict(self, budget: int, protected: set[str]) -> list[Head]:
        heads, now = self.heads(), time.time()
        recent = {head.id for head in heads if now - head.used < self._just_used}
        dropped = eviction.to_drop(heads, budget, now, protected | recent)
        for head in dropped:
            self._drop(head)
        return dropped

    def _drop(self, head: Head) -> None:
        """The head goes first: interrupted, segments are left that belong to no session."""
        self.head_path(head.id).unlink(missing_ok=True)
        sync_directory(self.directory / "sessions")
        self._remove_segments(head.chain, self.heads())

    def _remove_segments(self, chain: Sequence[Link], heads: Sequence[Head]) -> None:
        needed = {part.name for head in heads for part in head.chain}
        for part in chain:
            if part.name not in needed:
                self.path(part.name).unlink(missing_ok=True)

    def _remove_orphans(self) -> None:
        needed, now = {part.name for head in self.heads() for part in head.chain}, time.time()
        for path in (self.directory / "segments").glob("*.safetensors"):
            try:
                if path.stem not in needed and now - path.stat().st_mtime > _ORPHANS_AFTER:
                    path.unlink()
            except FileNotFoundError:
                continue

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held while heads change or files go. Not needed for reading, nor for writing segments."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.directory / "lock", timeout=_LOCK_TIMEOUT):
            yield


def _prefix_hashes(ids: np.ndarray, heads: Sequence[Head]) -> dict[int, str]:
    """The hash of ids[:stop] for every end of a segment, in one pass."""
    stops = sorted({part.stop for head in heads for part in head.chain if part.stop <= len(ids)})
    digest, hashes, start = PrefixHash(), {}, 0
    for stop in stops:
        hashes[stop] = digest.feed(ids[start:stop])
        start = stop
    return hashes


def _state(segment: Segment) -> dict[str, Any]:
    return {name: array for name, array in segment.arrays.items() if name.startswith("state.")}


def free_name(name: str, heads: Sequence[Head]) -> str:
    """The name with the first number behind it that no session has."""
    taken, n = Counter(head.name for head in heads), 2
    while f"{name} ({n})" in taken:
        n += 1
    return f"{name} ({n})"


def title_of(messages: list[dict[str, Any]] | None) -> str:
    """The first words a user said."""
    said = next((m.get("content") for m in messages or () if m.get("role") == "user"), "")
    return " ".join(said.split())[:80] if isinstance(said, str) else ""
