"""The public face of a model: `load`, `LanguageModel`, `Session`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import mlx.core as mx
import numpy as np

from ds4_mlx.cache import SequenceState
from ds4_mlx.checkpoint import Checkpoint, open_checkpoint
from ds4_mlx.config import ModelConfig
from ds4_mlx.engine.generation import Event, generate_events
from ds4_mlx.engine.hub import find_model
from ds4_mlx.engine.memory import check_fits
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
) -> LanguageModel:
    """Loads a model folder, a Hugging Face repository, or (None) ds4-tiny, the small one in this package.

    dtype: bfloat16 or float32, the precision of activations. simulate_quantization: the FP8/FP4 rounding of cache and
    indexer that the model was trained with. simulate_activations: the reference's FP8 rounding of matmul inputs, for
    comparisons. Raises `UserError` when the model is missing, damaged, not a DeepSeek V4, or larger than memory.
    """
    model = open_model(
        path_or_repo,
        dtype=dtype,
        simulate_quantization=simulate_quantization,
        simulate_activations=simulate_activations,
    )
    model.fill()
    return model


def open_model(
    path_or_repo: str | Path | None = None,
    *,
    dtype: mx.Dtype = mx.bfloat16,
    simulate_quantization: bool = True,
    simulate_activations: bool = False,
) -> LanguageModel:
    """Like `load`, but leaves the weights on disk until they are first needed (or `fill` is called).

    Everything that can be wrong with the folder, and the memory it needs, is checked here.
    """
    if dtype not in (mx.bfloat16, mx.float32):
        raise UserError(f"dtype is {dtype}; expected mlx.core.bfloat16 or mlx.core.float32.")
    checkpoint = open_checkpoint(find_model(path_or_repo))
    tokenizer = load_tokenizer(checkpoint.path)
    check_fits(checkpoint.memory_bytes(), str(checkpoint.path))
    return LanguageModel(checkpoint, tokenizer, Numerics(dtype, simulate_quantization, simulate_activations))


class Session:
    """One conversation: what has been fed, and the model's memory of it."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.state = SequenceState.for_model(model.config)
        self.token_ids: list[int] = []
        # Where the latest prompt's last token was about to be fed. A later prompt often differs from there on:
        # reasoning that is dropped from the history turns a closing <think> into </think>.
        self.before_answer: Session | None = None

    @property
    def position(self) -> int:
        """Tokens fed so far."""
        return self.state.position

    @property
    def nbytes(self) -> int:
        """Bytes of memory the session holds."""
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

        last_only returns the last row alone, [1, vocab], which saves time and memory on long prompts. `chunk` tokens go
        through the model at once. on_progress(fed, total) is called after each chunk. Interrupted, the session stands
        after the last whole chunk.
        """
        ids = self.model.check_ids(token_ids)
        self.model.check_room(self, len(ids))
        step = default_chunk() if chunk is None else chunk
        if step < 1:
            raise UserError(f"chunk is {chunk}; expected at least 1.")
        rows = []
        for start in range(0, len(ids), step):
            part = ids[start : start + step]
            (logits,) = self.model.forward([(self, part)], last_only=last_only)
            if last_only:
                rows = [logits]
            else:
                rows.append(logits)
            if on_progress is not None:
                mx.eval(logits)
                on_progress(start + len(part), len(ids))
        return rows[0] if len(rows) == 1 else mx.concatenate(rows)

    def fork(self) -> Session:
        """A second session with the same past. Costs nothing until one of them grows."""
        twin = Session(self.model)
        twin.state = self.state.fork()
        twin.token_ids = list(self.token_ids)
        return twin

    def reset(self) -> None:
        """Forgets everything fed so far."""
        self.state = SequenceState.for_model(self.model.config)
        self.token_ids = []
        self.before_answer = None

    def resume(self, token_ids: list[int]) -> int:
        """Goes to the furthest kept place that is a beginning of these tokens; returns how many of them are held there.

        Stays where it is, or goes back to before the latest answer, or starts over. At least the last token is left to
        be fed, because logits are not kept.
        """
        for place in (self, self.before_answer):
            if place is not None and place.position < len(token_ids):
                held = token_ids[: place.position]
                if held == place.token_ids:
                    if place is not self:
                        self.state.restore(place.state.fork())
                        self.token_ids = held
                    return len(held)
        self.reset()
        return 0


class LanguageModel:
    """A model: `checkpoint` is what it is read from, `network` the plain-ops Transformer, `tokenizer` its text side."""

    def __init__(self, checkpoint: Checkpoint, tokenizer: Tokenizer, numerics: Numerics) -> None:
        self.checkpoint = checkpoint
        self.tokenizer = tokenizer
        self.numerics = numerics
        self._network: Transformer | None = None

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
        MTP block reads. An error or an interruption leaves every
        session as it was; only if the device itself fails do they start over.
        """
        checked = [(session, self.check_ids(ids)) for session, ids in parts]
        sessions = [session for session, _ in checked]
        if not checked:
            raise UserError("forward needs at least one (session, token ids) pair.")
        if len({id(session) for session in sessions}) < len(sessions):
            raise UserError("A session may appear only once in a forward call; join its tokens.")
        for session, ids in checked:
            self.check_room(session, len(ids))
        before = [session.state.fork() for session in sessions]
        try:
            batch = Batch.of([(session.state, ids) for session, ids in checked])
            h = self.network(batch)
            # The output matrix is wide: apply it only to the rows somebody asked for.
            rows = [span.stop - 1 for span in batch.spans]
            flat = self.network.logits(h[mx.array(rows)] if last_only else h)
            for session, ids in checked:
                session.token_ids.extend(ids.tolist())
        except BaseException:  # Ctrl-C above all
            for session, state in zip(sessions, before, strict=True):
                session.state.restore(state)
                del session.token_ids[session.position :]
            raise
        del before  # held, it would make every append copy
        try:
            mx.async_eval(flat, *(array for session in sessions for array in session.state.arrays()))
        except Exception:  # the device failed, out of memory say; what the sessions held went into the call
            for session in sessions:
                session.reset()
            raise
        logits = [flat[i : i + 1] if last_only else flat[span.rows] for i, span in enumerate(batch.spans)]
        if with_streams:
            return [(logit, h[span.rows]) for logit, span in zip(logits, batch.spans, strict=True)]
        return logits

    def mtp_logits(
        self, h: mx.array, token_ids: TokenIds, *, state: SequenceState | None = None, block: int = 0
    ) -> mx.array:
        """The MTP block alone: float32 [T, vocab], the logits of the token after next (spec 11).

        h [T, hc_mult, hidden_size] are the last streams at T positions (`forward(..., with_streams=True)`), token_ids
        [T] the tokens that follow them. `state` (from `SequenceState.for_mtp(config)`) carries the block's window
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
        state = state or SequenceState.for_mtp(self.config)
        if len(state.layers) != 1:
            raise UserError("The state belongs to the main model; an MTP block needs SequenceState.for_mtp(config).")
        before = state.fork()
        try:
            streams = self.network.mtp_forward(h, Batch.of([(state, ids)]), block)
            return self.network.mtp_head(streams, block)
        except BaseException:
            state.restore(before)
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
