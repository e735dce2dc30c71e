"""Sessions going to disk while others go on: the engine copies segment after segment, a thread writes files."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ds4_mlx.cache import Segment, iter_segments
from ds4_mlx.cache.head import Head
from ds4_mlx.cache.store import title_of
from ds4_mlx.engine import threads
from ds4_mlx.engine.figures import EngineFigures
from ds4_mlx.engine.saving import SavePolicy
from ds4_mlx.errors import UserError

if TYPE_CHECKING:
    from ds4_mlx.engine.language_model import LanguageModel
    from ds4_mlx.engine.session import Session

_log = logging.getLogger(__name__)
_ALIKE = 16  # sessions with the same first words that are looked at, the last used first
_SLICE = 0.02  # seconds of the engine's time that saving takes at once
_MOST = 64  # sessions that wait to be saved; they hold their pages


@dataclass
class _Item:
    """A session to be saved. Taken out by the engine's thread, on which alone pages may be let go."""

    session: Session | None
    messages: list[dict[str, Any]]
    options: dict[str, Any]
    coming: list[Iterator[Segment]] = field(default_factory=list)  # those that make its segments

    def release(self) -> None:
        """Lets go of its pages."""
        self.coming.clear()
        self.session = None


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
        released: Future[Any] | None = None
        while (item := self._items.get()) is not None:
            try:
                self._policy.attempt(lambda item=item: self._save(item))  # type: ignore[misc]
            except Exception:  # a mistake of ours must not end all saving
                _log.exception("A session could not be saved.")
            released = self._on_engine(item.release)  # the next one need not wait for the engine's next turn
            self._count()
        if released is not None:
            released.result()  # all of them, as jobs are done in order

    def _save(self, item: _Item) -> None:
        session, store = item.session, self._model.store
        if session is None or session.sequence.owed:  # the device failed meanwhile, and its memory is gone
            return
        session.head = self._earlier(session, item.messages)
        head = session.save(
            messages=item.messages,
            options=item.options or None,
            export=lambda after: self._export(item, session, after),
        )
        store.in_use.discard(head.id)  # nobody feeds it: the budget may take it like any other
        self._figures.saved += 1
        _log.debug("saved session %s, %d tokens", head.label, head.tokens)

    def _earlier(self, session: Session, messages: list[dict[str, Any]]) -> Head | None:
        """The saved session that this one goes on with: the longest whose conversation this one begins with.

        Found by its tokens; or by its first words, as the tokens differ once the reasoning of earlier turns is left
        out of the prompt.
        """
        store, mark = self._model.store, self._model.mark
        prefix, title = store.match(session.token_ids, mark), title_of(messages)
        alike = [head.id for head in store.heads() if head.mark == mark and head.title == title]
        ids = [*([prefix.head.id] if prefix is not None else []), *alike[:_ALIKE]]
        best: Head | None = None
        for id_ in dict.fromkeys(ids):
            try:
                head = store.find(id_)
            except UserError:  # removed meanwhile
                continue
            if head.messages and begins_with(messages, head.messages):
                best = head if best is None or len(head.messages) > len(best.messages or ()) else best
        return best

    def _export(self, item: _Item, session: Session, after: int) -> Iterator[Segment]:
        """The segments of a session from token `after` on, made on the engine's thread when they are asked for here.

        As many at once as hold up the engine no longer than a token does: each time costs a call of the model.
        """
        coming, over = iter_segments(session.sequence, after), False
        item.coming.append(coming)
        while not over:
            some, over = self._on_engine(lambda: _some(coming)).result()
            for segment in some:
                yield replace(segment, text=session.model.tokenizer.decode(segment.token_ids.tolist()))

    def _count(self) -> None:
        held = self._model.store.figures()
        self._figures.store_bytes, self._figures.store_sessions = held.nbytes, held.sessions


def _some(coming: Iterator[Segment]) -> tuple[list[Segment], bool]:
    """The next segments, and whether they are the last."""
    end, some = time.perf_counter() + _SLICE, list[Segment]()
    for segment in coming:
        some.append(segment)
        if time.perf_counter() >= end:
            return some, False
    return some, True


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
