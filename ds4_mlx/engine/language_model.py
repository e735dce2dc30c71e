"""The public face of a model: `load` and `LanguageModel`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import mlx.core as mx
import numpy as np

from ds4_mlx.cache import (
    PagedCache,
    PagePool,
    Segment,
    SequenceState,
    import_segments,
)
from ds4_mlx.cache.bundle import load_bundle
from ds4_mlx.cache.segment_file import ModelMark
from ds4_mlx.cache.store import DEFAULT_BUDGET, Prefix, SessionStore
from ds4_mlx.checkpoint import Checkpoint, open_checkpoint
from ds4_mlx.config import ModelConfig
from ds4_mlx.engine.generation import Event, generate_events
from ds4_mlx.engine.hub import find_model
from ds4_mlx.engine.memory import check_fits, total_memory
from ds4_mlx.engine.saving import SavePolicy, check_mark, mark_of
from ds4_mlx.engine.session import Session, TokenIds
from ds4_mlx.engine.steering import Steering
from ds4_mlx.errors import UserError
from ds4_mlx.model import Batch, Numerics, Transformer
from ds4_mlx.model.linear import store_as
from ds4_mlx.text import Tokenizer, load_tokenizer


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
        self.steering: Steering | None = None  # set by `steered`

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
        session = self.session()
        stored = self.stored_prefix(ids)
        if stored is not None:
            restored = self.restore_segments(self.store.read_chain(stored.chain))
            if restored.token_ids == ids[: restored.position]:
                session = restored
        session.resume(ids)
        return session

    def stored_prefix(self, ids: list[int]) -> Prefix | None:
        """The longest beginning of these tokens on disk, the last one left aside, if memory holds less."""
        stored = self.store.match(ids[:-1], self.mark)
        return stored if stored is not None and stored.length > self.cache.match(ids[:-1]).length else None

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

        parts: (session, token ids [n]) pairs, each session at most once; one id as an array of MLX is a token that was
        drawn from the session's logits, and is not looked at. Returns for each the logits float32 [n,
        vocab], or [1, vocab] with last_only; with_streams adds the last streams [n, hc_mult, hidden_size] that the
        MTP block reads. An error or an interruption leaves every session as it was; if the device itself fails, all
        sessions of the model feed their tokens again at their next call.
        """
        checked = [(session, self._checked(ids)) for session, ids in parts]
        sessions = [session for session, _ in checked]
        if not checked:
            raise UserError("forward needs at least one (session, token ids) pair.")
        if len({id(session) for session in sessions}) < len(sessions):
            raise UserError("A session may appear only once in a forward call; join its tokens.")
        for session, ids in checked:
            self.check_room(session, ids.shape[0])
        for session in sessions:
            session.catch_up()
        pool = self.cache.pool
        for session, ids in checked:
            session.state.make_room(ids.shape[0])
        before, pages = [session.sequence.mark() for session in sessions], pool.snapshot()
        try:
            batch = Batch.of([(session.state, ids) for session, ids in checked])
            h = self.network(batch, self.steering)
            # The output matrix is wide: apply it only to the rows somebody asked for.
            rows = [span.stop - 1 for span in batch.spans]
            flat = self.network.logits(h[mx.array(rows)] if last_only else h)
            last = [mx.take(flat, i if last_only else row, axis=0) for i, row in enumerate(rows)]
            for session, ids in checked:
                session.sequence.note_fed(ids)
        except BaseException:  # Ctrl-C above all
            pool.restore(pages)
            for session, mark in zip(sessions, before, strict=True):
                session.sequence.go_back(mark)
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

    def streams(self, token_ids: TokenIds) -> mx.array:
        """The streams after every layer, for tokens that stand alone: [layers, n, hc_mult, hidden_size] in the
        activations' dtype. Nothing is kept: neither a session nor the cache learns of them.
        """
        seen: list[mx.array] = []

        def note(layer: int, h: mx.array) -> mx.array:
            seen.append(h if self.steering is None else self.steering(layer, h))
            return seen[-1]

        self.network(Batch.of([(self.new_state(), self.check_ids(token_ids))]), note)
        return mx.stack(seen)

    def steered(self, additions: Mapping[int, mx.array]) -> LanguageModel:
        """This model with something added to its streams: layer -> [hidden_size] (to all of them) or [hc_mult,
        hidden_size], behind that layer and at every token.

        It shares the weights; its cache is its own, and so are sessions on disk, for what it remembers is not what this
        one would. Raises `UserError` for a layer or a shape that is not there.
        """
        twin = LanguageModel(self.checkpoint, self.tokenizer, self.numerics, self.cache.budget, self.store)
        twin._network = self.network
        twin.steering = Steering(additions, self.config)
        return twin

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

    def _checked(self, token_ids: TokenIds) -> np.ndarray | mx.array:
        if isinstance(token_ids, mx.array) and token_ids.shape == (1,):
            return token_ids
        return self.check_ids(token_ids)

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
