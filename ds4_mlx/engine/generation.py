"""Generation: prompt in, events out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import mlx.core as mx
import numpy as np

from ds4_mlx.engine.answer import Answer
from ds4_mlx.engine.drawing import Drawing
from ds4_mlx.engine.request import CallArguments, CallBegin, CallEnd, Piece, Text
from ds4_mlx.engine.sampling import Sampler, SamplingOptions, log_softmax
from ds4_mlx.engine.stats import Stats, Token
from ds4_mlx.errors import UserError
from ds4_mlx.text import encode_messages
from ds4_mlx.text.special import THINK

if TYPE_CHECKING:
    from ds4_mlx.engine.language_model import LanguageModel
    from ds4_mlx.engine.session import Session

DEFAULT_MAX_TOKENS = 4096
DEFAULT_CONTEXT = 32768

EventKind = Literal["reasoning", "content", "tool_call", "done"]


@dataclass(frozen=True)
class Event:
    """Something new in the answer.

    kind: "reasoning" and "content" carry `text`; "tool_call" carries `tool_call` {"name", "arguments" (JSON text)};
    "done" comes last, once. `tokens` are those sampled since the event before. `stats` are the figures so far.
    """

    kind: EventKind
    text: str = ""
    tool_call: dict[str, str] | None = None
    tokens: tuple[Token, ...] = ()
    stats: Stats = field(default_factory=Stats)


def render_prompt(
    model: LanguageModel,
    messages_or_text: list[dict[str, Any]] | str,
    *,
    thinking: bool = True,
    reasoning_effort: str | None = None,
    raw: bool = False,
) -> str:
    """The prompt string the model continues. A text is one user message; with `raw` it is the prompt itself,
    unchanged.
    """
    if raw:
        if not isinstance(messages_or_text, str):
            raise UserError("A raw prompt must be a text, not messages.")
        return messages_or_text
    messages = (
        [{"role": "user", "content": messages_or_text}] if isinstance(messages_or_text, str) else messages_or_text
    )
    return encode_messages(
        messages,
        thinking_mode="thinking" if thinking else "chat",
        reasoning_effort=reasoning_effort,
        profile=model.prompt_profile,
    )


def check_amounts(model: LanguageModel, max_tokens: int | None, top_logprobs: int | None) -> None:
    """Raises `UserError` for a number of tokens or of alternatives that cannot be."""
    if max_tokens is not None and max_tokens < 1:
        raise UserError(f"max_tokens is {max_tokens}; expected at least 1.")
    if top_logprobs is not None and not 0 <= top_logprobs <= model.config.vocab_size:
        raise UserError(f"top_logprobs is {top_logprobs}; expected 0 to {model.config.vocab_size}.")


def check_prompt(ids: Sequence[int], limit: int) -> None:
    """Raises `UserError` for an empty prompt, and for one that leaves no room within `limit` tokens."""
    if not ids:
        raise UserError("The prompt is empty; give it at least one character.")
    if len(ids) >= limit:
        raise UserError(
            f"The prompt has {len(ids)} tokens; a context of {limit} leaves no room for an answer. "
            "Shorten the prompt or raise the context."
        )


def generate_events(
    model: LanguageModel,
    messages_or_text: list[dict[str, Any]] | str,
    *,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    seed: int | None = None,
    thinking: bool = True,
    reasoning_effort: str | None = None,
    raw: bool = False,
    stop: Sequence[str] = (),
    session: Session | None = None,
    context: int = DEFAULT_CONTEXT,
    top_logprobs: int | None = None,
    on_prefill: Callable[[int, int], None] | None = None,
) -> Iterator[Event]:
    """Generates the continuation of a conversation.

    max_tokens bounds what is generated, `context` prompt and answer together. `stop` strings end the answer's content
    (not the reasoning) and are not part of it. `session` (a new one by default) is continued from
    what it or the model's cache holds of the prompt (see `Session.resume`); afterwards it holds the prompt and every
    token of the answer but the last. top_logprobs adds logprobs to the tokens, with that many alternatives.
    on_prefill(done, total) is called as the prompt is read.
    Raises `UserError` for an empty prompt, one longer than `context`, or an option out of range.
    """
    check_amounts(model, max_tokens, top_logprobs)
    sampler = Sampler(SamplingOptions(temperature, top_p, top_k, min_p, seed))
    prompt = render_prompt(model, messages_or_text, thinking=thinking, reasoning_effort=reasoning_effort, raw=raw)
    ids = model.tokenizer.encode(prompt)
    limit = min(context, model.config.max_position_embeddings)
    check_prompt(ids, limit)
    # A conversation that ends in an unfinished assistant message is continued after its reasoning.
    answer = Answer(model, raw=raw, thinking=prompt.endswith(THINK), stop=stop)
    return _run(
        session or model.session(),
        ids,
        sampler,
        answer,
        max_tokens=max_tokens,
        limit=limit,
        top_logprobs=top_logprobs,
        on_prefill=on_prefill,
    )


def _run(
    session: Session,
    ids: list[int],
    sampler: Sampler,
    answer: Answer,
    *,
    max_tokens: int,
    limit: int,
    top_logprobs: int | None,
    on_prefill: Callable[[int, int], None] | None,
) -> Iterator[Event]:
    """Prefill, then one token at a time. Keeps the states before the prompt's last token and after the answer."""
    stats = Stats(prompt_tokens=len(ids), cached_tokens=session.resume(ids), seed=sampler.seed)
    mx.reset_peak_memory()
    begin = time.perf_counter()
    *most, last = ids[stats.cached_tokens :]
    if most:
        session.feed(most, last_only=True, on_progress=on_prefill)
        session.keep()  # the next prompt often differs from the last token on: <think> becomes </think>
    logits = session.feed([last], last_only=True)[-1]
    mx.eval(logits)
    stats.prefill_seconds = time.perf_counter() - begin
    begin = time.perf_counter()
    drawing = Drawing(session, sampler, logits)
    try:
        while stats.finish_reason is None:
            is_last = stats.limit_reached(max_tokens, limit, more=1) is not None
            chosen = drawing.next(is_last=is_last)
            logs = None if top_logprobs is None else np.array(log_softmax(drawing.logits))
            token = Token.of(chosen, session.model.tokenizer.token_bytes(chosen), logs, top_logprobs or 0)
            stats.generated_tokens += 1
            stats.decode_seconds = time.perf_counter() - begin
            stats.finish_reason = answer.feed(token)
            stats.finish_reason = stats.finish_reason or stats.limit_reached(max_tokens, limit)
            stats.peak_memory_bytes = mx.get_peak_memory()
            yield from _events(answer, answer.take(), stats)
    finally:  # be it that the caller went away
        drawing.close()
        session.sequence.keep()
    yield from _events(answer, answer.finish(), stats)
    done = answer.done(stats)
    yield Event("done", tokens=done.tokens, stats=done.stats)


def _events(answer: Answer, pieces: list[Piece], stats: Stats) -> Iterator[Event]:
    """Pieces as events: a tool call is one, when it is complete."""
    tokens: tuple[Token, ...] = ()
    for piece in pieces:
        if isinstance(piece, (Text, CallBegin, CallArguments, CallEnd)):
            tokens += piece.tokens
        if isinstance(piece, Text):
            yield Event(piece.kind, piece.text, tokens=tokens, stats=replace(stats))
            tokens = ()
        elif isinstance(piece, CallEnd):
            call = dict(answer.calls[piece.index])
            yield Event("tool_call", tool_call=call, tokens=tokens, stats=replace(stats))
            tokens = ()
