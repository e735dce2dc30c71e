"""A conversation: what has been fed to a model, and the model's memory of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from ds4_mlx.cache import CachedSequence, Segment, SequenceState, export_segments, iter_segments
from ds4_mlx.cache.head import Head
from ds4_mlx.cache.segment_file import ModelMark
from ds4_mlx.engine.feeding import Feed, default_chunk
from ds4_mlx.errors import UserError

if TYPE_CHECKING:
    from ds4_mlx.engine.language_model import LanguageModel

TokenIds = Sequence[int] | np.ndarray | mx.array


class Session:
    """One conversation: what has been fed, and the model's memory of it, shared with others where they agree."""

    def __init__(self, model: LanguageModel, sequence: CachedSequence | None = None) -> None:
        self.model = model
        self.sequence = sequence or model.cache.sequence()
        self.head: Head | None = None  # of the last save, or of the session on disk this one was restored from
        self._mark: ModelMark | None = None  # where it is not the model's: restored from other weights

    @property
    def token_ids(self) -> list[int]:
        """The tokens fed so far."""
        return self.sequence.token_ids

    @property
    def state(self) -> SequenceState:
        """The memory of them."""
        return self.sequence.state

    @property
    def position(self) -> int:
        """Tokens fed so far."""
        return self.sequence.length

    @property
    def logits(self) -> mx.array | None:
        """float32 [vocab]: of the token after the last one. None after going back, until something is fed."""
        return self.sequence.logits

    @property
    def nbytes(self) -> int:
        """Bytes of memory the session holds, those shared with others included."""
        return self.state.nbytes

    def feed(
        self,
        token_ids: TokenIds,
        *,
        last_only: bool = False,
        chunk: int | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> mx.array:
        """Feeds tokens; returns float32 [len(token_ids), vocab], the logits of the token after each.

        last_only returns the last row alone, [1, vocab], which saves time and memory on long prompts. At most `chunk`
        tokens go through the model at once. on_progress(fed, total) is called after each chunk. Interrupted, the
        session stands after the last whole chunk. Several tokens at once count as a message: the state at the last page
        boundary before their end is kept.
        """
        ids = self.model.check_ids(token_ids)
        self.model.check_room(self, len(ids))
        step = default_chunk() if chunk is None else chunk
        if step < 1:
            raise UserError(f"chunk is {chunk}; expected at least 1.")
        self.catch_up()
        feed = Feed(self, ids)
        rows: list[mx.array] = []
        while feed.left:
            part = feed.next(step)
            (logits,) = self.model.forward([(self, part)], last_only=last_only)
            feed.fed(len(part))
            rows = [logits] if last_only else [*rows, logits]
            if on_progress is not None:
                mx.eval(logits)
                on_progress(feed.done, len(ids))
        return rows[0] if len(rows) == 1 else mx.concatenate(rows)

    def feed_drawn(self, token: mx.array) -> mx.array:
        """Feeds a token that was drawn from this session's logits, int [], before anybody knows which: the device goes
        on while the host looks at it. Returns float32 [vocab], the logits of the token after it.
        """
        self.model.check_room(self, 1)
        (logits,) = self.model.forward([(self, token.reshape(1))], last_only=True)
        return logits[0]

    def catch_up(self) -> None:
        """Feeds what is owed: tokens before the position, up to 2,047 after `rewind` if their states were kept."""
        owed, known = self.sequence.owed, self.sequence.token_ids
        if not owed:
            return
        try:
            self.sequence.token_ids = known[: len(known) - len(owed)]
            self.feed(owed, last_only=True)
        except BaseException:
            self.sequence.token_ids = known
            raise

    def keep(self) -> None:
        """Keeps the state here: at the end of a message, where the next prompt may go on or turn off."""
        self.catch_up()
        self.sequence.keep()

    def fork(self) -> Session:
        """A second session with the same past, which both share. Saved, it becomes a session of its own."""
        twin = Session(self.model, self.sequence.fork())
        twin._mark = self._mark
        return twin

    def rewind(self, position: int) -> int:
        """Goes back to exactly `position` tokens. Returns how many tokens the next call will have to feed again because
        no state is kept there: at most 2,047 unless states were evicted. Raises `UserError` if there are fewer tokens.
        """
        return self.sequence.rewind(position)

    def export_segments(self, after: int = 0) -> list[Segment]:
        """The memory of the session from token `after` on, a multiple of 128 (see `ds4_mlx.cache.export_segments`)."""
        self.catch_up()
        return export_segments(self.sequence, after)

    def save(
        self,
        name: str | None = None,
        *,
        messages: list[dict[str, Any]] | None = None,
        options: dict[str, Any] | None = None,
        export: Callable[[int], Iterable[Segment]] | None = None,
    ) -> Head:
        """Saves the session in the model's store; returns once it is on the medium.

        Writes what it grew by since it, or another session with the same beginning, was saved. messages: the
        conversation, kept beside the memory of it; options: how it was held. Raises `UserError` if the name is taken or
        the place cannot be written; the session itself is as it was. export stands for `segments_with_text` where
        another thread saves than the one that owns the GPU.
        """
        if export is None:
            self.catch_up()
        model = self.model
        self.head = model.store.save(
            self.token_ids,
            export or self.segments_with_text,
            self._mark or model.mark,
            model=model.checkpoint.path.name,
            earlier=self.head,
            name=name,
            messages=messages,
            options=options,
        )
        model.store.in_use.add(self.head.id)
        return self.head

    def segments_with_text(self, after: int) -> Iterator[Segment]:
        """What is saved from token `after` on; one at a time, so that no copy of the whole session is ever held."""
        for part in iter_segments(self.sequence, after):
            yield replace(part, text=self.model.tokenizer.decode(part.token_ids.tolist()))

    def reset(self) -> None:
        """Forgets everything fed so far. What was kept stays in the model's cache, what was saved on disk."""
        self.sequence = self.model.cache.sequence()
        if self.head is not None:
            self.model.store.in_use.discard(self.head.id)
        self.head = self._mark = None

    def resume(self, token_ids: list[int]) -> int:
        """Goes to the furthest beginning of these tokens that is kept, be it by another session; returns its length.

        At least the last token is left to be fed, because logits are not kept.
        """
        return self.sequence.resume(token_ids)
