"""The public face of a model: `load`, `LanguageModel`, `Session`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import mlx.core as mx
import numpy as np

from ds4_mlx.cache import (
    PAGE,
    CachedSequence,
    PagedCache,
    PagePool,
    Segment,
    SequenceState,
    export_segments,
    import_segments,
    iter_segments,
)
from ds4_mlx.cache.bundle import load_bundle
from ds4_mlx.cache.head import Head
from ds4_mlx.cache.segment_file import ModelMark
from ds4_mlx.cache.store import DEFAULT_BUDGET, SessionStore
from ds4_mlx.checkpoint import Checkpoint, open_checkpoint
from ds4_mlx.config import ModelConfig
from ds4_mlx.engine.generation import Event, generate_events
from ds4_mlx.engine.hub import find_model
from ds4_mlx.engine.memory import check_fits, total_memory
from ds4_mlx.engine.saving import SavePolicy, check_mark, mark_of
from ds4_mlx.errors import UserError
from ds4_mlx.model import Batch, Numerics, Transformer
from ds4_mlx.model.linear import on_cpu, store_as
from ds4_mlx.text import Tokenizer, load_tokenizer

TokenIds = Sequence[int] | np.ndarray | mx.array


def load(
    path_or_repo: str | Path | None = None,
    *,
    dtype: mx.Dtype = mx.bfloat16,
    simulate_quantization: bool = True,
    simulate_activations: bool = False,
    cache_bytes: int | None = None,
    kv_dir: str | Path | None = None,
    kv_bytes: int = DEFAULT_BUDGET,
) -> LanguageModel:
    """Loads a model folder, a Hugging Face repository, or (None) ds4-tiny, the small one in this package.

    dtype: bfloat16 or float32, the precision of activations. simulate_quantization: the FP8/FP4 rounding of cache and
    indexer that the model was trained with. simulate_activations: the reference's FP8 rounding of matmul inputs, for
    comparisons. cache_bytes: how much to remember of past sessions, an eighth of the memory by default. kv_dir: where
    sessions are saved, by default the platform's folder for caches; kv_bytes: how much there. Raises `UserError` when
    the model is missing, damaged, not a DeepSeek V4, or larger than memory.
    """
    model = open_model(
        path_or_repo,
        dtype=dtype,
        simulate_quantization=simulate_quantization,
        simulate_activations=simulate_activations,
        cache_bytes=cache_bytes,
        kv_dir=kv_dir,
        kv_bytes=kv_bytes,
    )
    model.fill()
    return model


def open_model(
    path_or_repo: str | Path | None = None,
    *,
    dtype: mx.Dtype = mx.bfloat16,
    simulate_quantization: bool = True,
    simulate_activations: bool = False,
    cache_bytes: int | None = None,
    kv_dir: str | Path | None = None,
    kv_bytes: int = DEFAULT_BUDGET,
) -> LanguageModel:
    """Like `load`, but leaves the weights on disk until they are first needed (or `fill` is called).

    Everything that can be wrong with the folder, and the memory it needs, is checked here.
    """
    if dtype not in (mx.bfloat16, mx.float32):
        raise UserError(f"dtype is {dtype}; expected mlx.core.bfloat16 or mlx.core.float32.")
    checkpoint = open_checkpoint(find_model(path_or_repo))
    tokenizer = load_tokenizer(checkpoint.path)
    check_fits(checkpoint.memory_bytes(), str(checkpoint.path))
    if cache_bytes is not None and cache_bytes < 0:
        raise UserError(f"cache_bytes is {cache_bytes}; expected at least 0.")
    budget = total_memory() // 8 if cache_bytes is None else cache_bytes
    numerics = Numerics(dtype, simulate_quantization, simulate_activations)
    return LanguageModel(checkpoint, tokenizer, numerics, budget, SessionStore(kv_dir, budget=kv_bytes))


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
        return len(self.sequence.token_ids)

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
        self.state.pool.reserve(-(-len(ids) // PAGE))
        rows, start = [], 0
        for stop in self.sequence.stops(len(ids)):
            while start < stop:
                part = ids[start : min(start + step, stop)]
                (logits,) = self.model.forward([(self, part)], last_only=last_only)
                start += len(part)
                if last_only:
                    rows = [logits]
                else:
                    rows.append(logits)
                if on_progress is not None:
                    mx.eval(logits)
                    on_progress(start, len(ids))
        if len(ids) > 1:
            self.sequence.keep_boundary()
            self.model.cache.evict()
        return rows[0] if len(rows) == 1 else mx.concatenate(rows)

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
    ) -> Head:
        """Saves the session in the model's store; returns once it is on the medium.

        Writes what it grew by since it, or another session with the same beginning, was saved. messages: the
        conversation, kept beside the memory of it; options: how it was held. Raises `UserError` if the name is taken or
        the place cannot be written; the session itself is as it was.
        """
        self.catch_up()
        model = self.model
        self.head = model.store.save(
            self.token_ids,
            self._segments_with_text,
            self._mark or model.mark,
            model=model.checkpoint.path.name,
            earlier=self.head,
            name=name,
            messages=messages,
            options=options,
        )
        model.store.in_use.add(self.head.id)
        return self.head

    def _segments_with_text(self, after: int) -> Iterator[Segment]:
        """One at a time, so that no copy of the whole session is ever held."""
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


class LanguageModel:
    """A model: `checkpoint` is what it is read from, `network` the plain-ops Transformer, `tokenizer` its text side,
    `cache` what it remembers of all sessions, `store` what is saved of them, `saving` when that happens.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        tokenizer: Tokenizer,
        numerics: Numerics,
        cache_bytes: int | None = None,
        store: SessionStore | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.tokenizer = tokenizer
        self.numerics = numerics
        self._network: Transformer | None = None
        pool = PagePool.for_model(self.config, numerics.dtype, packed=numerics.simulate_quantization)
        self.cache = PagedCache(pool, cache_bytes)
        self.store = store or SessionStore()
        self.saving = SavePolicy()

    @property
    def network(self) -> Transformer:
        """The network with its weights, read from disk at first use."""
        self.fill()
        assert self._network is not None
        return self._network

    def fill(self, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Reads the weights unless they are there already; on_progress(bytes read, bytes in all) after each tensor.

        One tensor at a time, so that little more than the weights is ever held.
        """
        if self._network is not None:
            return
        network = Transformer(self.config, self.numerics)
        store_as(network, self.checkpoint.formats.of)
        arrays, done, total = [], 0, self.checkpoint.memory_bytes()
        for name, array in self.checkpoint.load():
            mx.eval(array)
            arrays.append((name, array))
            done += array.nbytes
            if on_progress is not None:
                on_progress(done, total)
        network.load_weights(arrays, strict=True)
        network.eval()
        self._network = network

    @property
    def config(self) -> ModelConfig:
        """Sizes and constants."""
        return self.checkpoint.config

    @property
    def prompt_profile(self) -> Literal["april", "0731"]:
        """Which prompt encoding the checkpoint was trained with: its own encoder tells, else its config (spec 15.7)."""
        encoder = self.checkpoint.path / "encoding" / "encoding_dsv4.py"
        if encoder.is_file():
            source = encoder.read_text(encoding="utf-8", errors="replace")
            return "0731" if "REASONING_EFFORT_PROMPTS" in source else "april"
        return self.checkpoint.prompt_profile

    @cached_property
    def mark(self) -> ModelMark:
        """Which saved memories are this model's."""
        return mark_of(self)

    def restore(self, reference: str | Path | None = None, *, allow_other_weights: bool = False) -> Session:
        """A saved session by name, id, or the path of an exported file; the last used one without.

        It goes on bit for bit. Where files of it are damaged or gone it ends before them, and the store's `warn` is
        told. `session.head` has the messages that were saved with it. allow_other_weights: also one of the same
        checkpoint whose weights were stored otherwise. Raises `UserError` if there is no such session, or if it is not
        this model's.
        """
        store = self.store
        if reference is not None and Path(reference).is_file():
            head = load_bundle(store, Path(reference))
        else:
            head = store.find(None if reference is None else str(reference))
        check_mark(head.mark, self, head.label, allow_other_weights=allow_other_weights)
        session = self.restore_segments(store.read(head))
        session.head = store.use(head)
        if head.mark != self.mark:
            # What is computed from here on is neither's: no session of either model must take it for its own.
            session._mark = head.mark._replace(weights=f"{head.mark.weights} + {self.mark.weights}")
        store.in_use.add(head.id)
        return session

    def session_for(self, token_ids: TokenIds) -> Session:
        """A session that holds the longest beginning of these tokens that is in memory or on disk.

        At least the last token is left to be fed.
        """
        ids = self.check_ids(token_ids).tolist()
        in_memory = self.cache.match(ids[:-1]).length
        stored = self.store.match(ids[:-1], self.mark)
        session = self.session()
        if stored is not None and stored.length > in_memory:
            restored = self.restore_segments(self.store.read_chain(stored.chain))
            if restored.token_ids == ids[: restored.position]:
                session = restored
        session.resume(ids)
        return session

    def restore_segments(self, segments: Iterable[Segment]) -> Session:
        """A session that goes on where the one that gave the segments was. Raises `UserError` if they do not fit."""
        return Session(self, import_segments(self.cache, segments))

    def new_state(self) -> SequenceState:
        """The memory of a sequence that has not begun."""
        return SequenceState(self.cache.pool)

    def new_mtp_state(self) -> SequenceState:
        """The memory of one MTP block: a window."""
        numerics = self.numerics
        return SequenceState(PagePool.for_mtp(self.config, numerics.dtype, packed=numerics.simulate_quantization))

    def session(self) -> Session:
        """A session that has seen nothing."""
        return Session(self)

    @overload
    def forward(
        self, parts: Sequence[tuple[Session, TokenIds]], *, last_only: bool = ..., with_streams: Literal[False] = ...
    ) -> list[mx.array]: ...

    @overload
    def forward(
        self, parts: Sequence[tuple[Session, TokenIds]], *, last_only: bool = ..., with_streams: Literal[True]
    ) -> list[tuple[mx.array, mx.array]]: ...

    def forward(
        self, parts: Sequence[tuple[Session, TokenIds]], *, last_only: bool = False, with_streams: bool = False
    ) -> list[mx.array] | list[tuple[mx.array, mx.array]]:
        """One call for several sessions: prompts and single tokens mixed as they come.

        parts: (session, token ids [n]) pairs, each session at most once. Returns for each the logits float32 [n,
        vocab], or [1, vocab] with last_only; with_streams adds the last streams [n, hc_mult, hidden_size] that the
        MTP block reads. An error or an interruption leaves every session as it was; if the device itself fails, all
        sessions of the model feed their tokens again at their next call.
        """
        checked = [(session, self.check_ids(ids)) for session, ids in parts]
        sessions = [session for session, _ in checked]
        if not checked:
            raise UserError("forward needs at least one (session, token ids) pair.")
        if len({id(session) for session in sessions}) < len(sessions):
            raise UserError("A session may appear only once in a forward call; join its tokens.")
        for session, ids in checked:
            self.check_room(session, len(ids))
        for session in sessions:
            session.catch_up()
        pool = self.cache.pool
        for session, ids in checked:
            session.state.make_room(len(ids))
        before, pages = [session.state.mark() for session in sessions], pool.snapshot()
        try:
            batch = Batch.of([(session.state, ids) for session, ids in checked])
            h = self.network(batch)
            # The output matrix is wide: apply it only to the rows somebody asked for.
            rows = [span.stop - 1 for span in batch.spans]
            flat = self.network.logits(h[mx.array(rows)] if last_only else h)
            last = [mx.take(flat, i if last_only else row, axis=0) for i, row in enumerate(rows)]
            for session, ids in checked:
                session.token_ids.extend(ids.tolist())
        except BaseException:  # Ctrl-C above all
            pool.restore(pages)
            for session, mark in zip(sessions, before, strict=True):
                session.state.go_back(mark)
                del session.token_ids[session.state.position :]
            raise
        del before, pages  # held, they would make the evaluation copy the pool
        for session, row in zip(sessions, last, strict=True):
            session.sequence.logits = row
        try:
            mx.async_eval(
                flat, *last, *pool.arrays(), *(array for session in sessions for array in session.state.arrays())
            )
        except Exception:  # the device failed, out of memory say; the pool went into the call
            self.cache.lose()
            raise
        for session in sessions:
            session.sequence.stored()
        logits = [flat[i : i + 1] if last_only else flat[span.rows] for i, span in enumerate(batch.spans)]
        if with_streams:
            return [(logit, h[span.rows]) for logit, span in zip(logits, batch.spans, strict=True)]
        return logits

    def mtp_logits(
        self, h: mx.array, token_ids: TokenIds, *, state: SequenceState | None = None, block: int = 0
    ) -> mx.array:
        """The MTP block alone: float32 [T, vocab], the logits of the token after next (spec 11).

        h [T, hc_mult, hidden_size] are the last streams at T positions (`forward(..., with_streams=True)`), token_ids
        [T] the tokens that follow them. `state` (from `new_mtp_state`) carries the block's window
        from call to call; without it the T positions stand alone. Raises `UserError` if the checkpoint has no MTP
        block.
        """
        if not self.config.num_nextn_predict_layers or self.config.dspark is not None:
            raise UserError(f"{self.checkpoint.path} has no MTP block.")
        ids = self.check_ids(token_ids)
        expected = (len(ids), self.config.hc_mult, self.config.hidden_size)
        if h.shape != expected:
            raise UserError(f"h has shape {h.shape}; expected {expected}, one row per token id.")
        if not 0 <= block < len(self.network.mtp):
            raise UserError(f"There is no MTP block {block}; the model has {len(self.network.mtp)}.")
        state = state or self.new_mtp_state()
        if len(state.layers) != 1:
            raise UserError("The state belongs to the main model; an MTP block needs the model's new_mtp_state().")
        before = state.mark()
        try:
            streams = self.network.mtp_forward(h, Batch.of([(state, ids)]), block)
            return self.network.mtp_head(streams, block)
        except BaseException:
            state.go_back(before)
            raise

    def stream(self, messages_or_text: list[dict[str, Any]] | str, **options: Any) -> Iterator[Event]:
        """Generates an answer to messages (or to one user text), yielding events as text becomes certain.

        Options and events: `ds4_mlx.engine.generation.generate_events`.
        """
        return generate_events(self, messages_or_text, **options)

    def check_ids(self, token_ids: TokenIds) -> np.ndarray:
        """Token ids as int64 [n]. Raises `UserError` if there are none or one is outside the vocabulary."""
        try:
            ids = np.asarray(token_ids)
        except ValueError:  # rows of unequal length
            raise UserError("Token ids must be a flat list of whole numbers.") from None
        if ids.ndim != 1 or not (np.issubdtype(ids.dtype, np.integer) or ids.size == 0):
            raise UserError("Token ids must be a flat list of whole numbers.")
        if ids.size == 0:
            raise UserError("There are no tokens to feed; give at least one.")
        vocab = self.config.vocab_size
        if ids.min() < 0 or ids.max() >= vocab:
            wrong = ids[(ids < 0) | (ids >= vocab)][0]
            raise UserError(f"Token id {wrong} is outside the vocabulary (0 to {vocab - 1}).")
        return ids.astype(np.int64)

    def check_room(self, session: Session, more: int) -> None:
        """Raises `UserError` if `more` tokens do not fit behind what the session holds, or it is another model's."""
        if session.model is not self:
            raise UserError("The session belongs to another model; make one with this model's session().")
        limit = self.config.max_position_embeddings
        if session.position + more > limit:
            raise UserError(
                f"The session holds {session.position} tokens; {more} more would pass the model's limit of {limit}."
            )


def default_chunk() -> int:
    """Tokens per call when a prompt is fed: many where reading weights costs, few where a call takes long."""
    return 256 if on_cpu() else 2048
