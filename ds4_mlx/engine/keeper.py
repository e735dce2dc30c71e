"""Sessions going to disk while others go on: the engine copies segment after segment, a thread writes files."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ds4_mlx.cache import Segment, iter_segments
from ds4_mlx.cache.head import Head
from ds4_mlx.engine import threads
from ds4_mlx.engine.figures import EngineFigures
from ds4_mlx.engine.saving import SavePolicy
from ds4_mlx.errors import UserError

if TYPE_CHECKING:
    from ds4_mlx.engine.language_model import LanguageModel
    from ds4_mlx.engine.session import Session

_log = logging.getLogger(__name__)
_MOST = 64  # sessions that wait to be saved; they hold their pages


@dataclass
class _Item:
    """A session to be saved. Taken out by the engine's thread, on which alone pages may be let go."""

    session: Session | None
    messages: list[dict[str, Any]]
    options: dict[str, Any]


class Keeper:
    """Saves sessions one after the other, in a thread of its own.

    on_engine(f) runs f on the engine's thread between two calls of the model.
    """

    def __init__(
        self,
        model: LanguageModel,
        policy: SavePolicy,
        on_engine: Callable[[Callable[[], Any]], Future[Any]],
        figures: EngineFigures,
    ) -> None:
        self._model, self._policy, self._on_engine, self._figures = model, policy, on_engine, figures
        self._items: queue.Queue[_Item | None] = queue.Queue()
        self._closed = False
        self._done = threads.start(self._run)

    def keep(self, session: Session, messages: list[dict[str, Any]], options: dict[str, Any]) -> None:
        """Saves a session that nobody feeds any more, with its conversation."""
        if not self._policy.wants(session):
            return
        if self._items.qsize() < _MOST:
            self._items.put(_Item(session, messages, options))
        else:
            self._policy.attempt(_refuse)

    def close(self) -> None:
        """No more are coming."""
        if not self._closed:
            self._closed = True
            self._items.put(None)

    @property
    def is_done(self) -> bool:
        """Whether everything is saved after `close`."""
        return self._done.done()

    def _run(self) -> None:
        self._count()
        while (item := self._items.get()) is not None:
            try:
                self._policy.attempt(lambda item=item: self._save(item))  # type: ignore[misc]
            except Exception:  # a mistake of ours must not end all saving
                _log.exception("A session could not be saved.")
            self._on_engine(lambda item=item: setattr(item, "session", None)).result()  # type: ignore[misc]
            self._count()

    def _save(self, item: _Item) -> None:
        session, store = item.session, self._model.store
        if session is None or session.sequence.owed:  # the device failed meanwhile, and its memory is gone
            return
        session.head = self._earlier(session, item.messages)
        export = _Export(session, self._on_engine)
        try:
            head = session.save(messages=item.messages, options=item.options or None, export=export.segments)
        finally:
            export.close()
        store.in_use.discard(head.id)  # nobody feeds it: the budget may take it like any other
        self._figures.saved += 1
        _log.debug("saved session %s, %d tokens", head.label, head.tokens)

    def _earlier(self, session: Session, messages: list[dict[str, Any]]) -> Head | None:
        """The saved session that this one goes on with: one whose conversation this one begins with."""
        prefix = self._model.store.match(session.token_ids, self._model.mark)
        if prefix is None:
            return None
        try:
            head = self._model.store.find(prefix.head.id)
        except UserError:  # removed meanwhile
            return None
        return head if head.messages and begins_with(messages, head.messages) else None

    def _count(self) -> None:
        held = self._model.store.figures()
        self._figures.store_bytes, self._figures.store_sessions = held.nbytes, held.sessions


class _Export:
    """The segments of a session, each made on the engine's thread when it is asked for here."""

    def __init__(self, session: Session, on_engine: Callable[[Callable[[], Any]], Future[Any]]) -> None:
        self._session, self._on_engine = session, on_engine
        self._open: list[Iterator[Segment]] = []

    def segments(self, after: int) -> Iterator[Segment]:
        """From token `after` on."""
        coming = iter_segments(self._session.sequence, after)
        self._open.append(coming)
        while (segment := self._on_engine(lambda: next(coming, None)).result()) is not None:
            yield replace(segment, text=self._session.model.tokenizer.decode(segment.token_ids.tolist()))

    def close(self) -> None:
        """Lets go of what was not asked for."""
        self._on_engine(self._open.clear).result()


def _refuse() -> None:
    raise UserError(f"{_MOST} sessions wait to be saved: the disk is too slow. Those that come now are not saved.")


def begins_with(messages: list[dict[str, Any]], earlier: list[dict[str, Any]]) -> bool:
    """Whether a conversation goes on from an earlier one. Reasoning and ids, which clients drop, do not count."""
    return [_said(m) for m in messages[: len(earlier)]] == [_said(m) for m in earlier]


def _said(message: dict[str, Any]) -> tuple[Any, ...]:
    calls = [call.get("function") or {} for call in message.get("tool_calls") or ()]
    return (
        message.get("role"),
        message.get("content") or "",
        [(call.get("name"), call.get("arguments")) for call in calls],
    )
