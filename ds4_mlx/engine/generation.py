"""Generation: prompt in, events out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import mlx.core as mx
import numpy as np

from ds4_mlx.engine.sampling import Sampler, SamplingOptions, log_softmax
from ds4_mlx.errors import UserError
from ds4_mlx.text import CompletionStream, StopMatcher, TextStream, encode_messages
from ds4_mlx.text.special import THINK

if TYPE_CHECKING:
    from ds4_mlx.engine.language_model import LanguageModel
    from ds4_mlx.engine.session import Session

DEFAULT_MAX_TOKENS = 4096
DEFAULT_CONTEXT = 32768

EventKind = Literal["reasoning", "content", "tool_call", "done"]
FinishReason = Literal["stop", "tool_calls", "length", "context"]


@dataclass(frozen=True)
class Token:
    """One sampled token. Logprobs are natural logs under the model's own distribution (temperature 1, nothing cut)."""

    id: int
    data: bytes
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()  # the most likely tokens, (id, logprob), best first


@dataclass
class Stats:
    """Counts and seconds of one generation."""

    prompt_tokens: int = 0
    cached_tokens: int = 0  # of those, how many were in the cache
    generated_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    peak_memory_bytes: int = 0
    seed: int = 0
    finish_reason: FinishReason | None = None

    @property
    def prefill_tps(self) -> float:
        """Prompt tokens computed per second."""
        return (self.prompt_tokens - self.cached_tokens) / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_tps(self) -> float:
        """Generated tokens per second, the first excluded: it comes with the prefill."""
        return (self.generated_tokens - 1) / self.decode_seconds if self.decode_seconds else 0.0


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
    if max_tokens < 1:
        raise UserError(f"max_tokens is {max_tokens}; expected at least 1.")
    if top_logprobs is not None and not 0 <= top_logprobs <= model.config.vocab_size:
        raise UserError(f"top_logprobs is {top_logprobs}; expected 0 to {model.config.vocab_size}.")
    sampler = Sampler(SamplingOptions(temperature, top_p, top_k, min_p, seed))
    prompt = render_prompt(model, messages_or_text, thinking=thinking, reasoning_effort=reasoning_effort, raw=raw)
    ids = model.tokenizer.encode(prompt)
    if not ids:
        raise UserError("The prompt is empty; give it at least one character.")
    limit = min(context, model.config.max_position_embeddings)
    if len(ids) >= limit:
        raise UserError(
            f"The prompt has {len(ids)} tokens; a context of {limit} leaves no room for an answer. "
            "Shorten the prompt or raise the context."
        )
    # A conversation that ends in an unfinished assistant message is continued after its reasoning.
    answer = _Answer(model, raw=raw, thinking=prompt.endswith(THINK), stop=stop)
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
    answer: _Answer,
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
    pending: list[Token] = []
    try:
        while stats.finish_reason is None:
            token = _token(session.model, sampler.sample(logits), logits, top_logprobs)
            stats.generated_tokens += 1
            stats.decode_seconds = time.perf_counter() - begin
            pending.append(token)
            stats.finish_reason = answer.feed(token.id)
            if stats.finish_reason is None:
                if stats.generated_tokens == max_tokens:
                    stats.finish_reason = "length"
                elif session.position + 1 >= limit:
                    stats.finish_reason = "context"
            stats.peak_memory_bytes = mx.get_peak_memory()
            for event in answer.take():
                yield replace(event, tokens=tuple(pending), stats=replace(stats))
                pending = []
            if stats.finish_reason is None:
                logits = session.feed([token.id], last_only=True)[-1]
    finally:  # be it that the caller went away
        session.sequence.keep()
    for event in answer.finish():
        yield replace(event, tokens=tuple(pending), stats=replace(stats))
        pending = []
    if answer.called_tools and stats.finish_reason == "stop":
        stats.finish_reason = "tool_calls"
    yield Event("done", tokens=tuple(pending), stats=stats)


def _token(model: LanguageModel, chosen: int, logits: mx.array, top: int | None) -> Token:
    data = model.tokenizer.token_bytes(chosen)
    if top is None:
        return Token(chosen, data)
    logs = np.array(log_softmax(logits))
    best = np.argsort(-logs, kind="stable")[:top]
    return Token(chosen, data, float(logs[chosen]), tuple((int(i), float(logs[i])) for i in best))


class _Answer:
    """Turns token ids into events: bytes to text, text to reasoning, content and calls, content to where it stops."""

    def __init__(self, model: LanguageModel, *, raw: bool, thinking: bool, stop: Sequence[str]) -> None:
        self._eos = {model.config.eos_token_id, model.tokenizer.eos_id}
        self._text = TextStream(model.tokenizer)
        self._parser = None if raw else CompletionStream("thinking" if thinking else "chat")
        self._stop = StopMatcher(list(stop))
        self._events: list[Event] = []
        self._stopped = False
        self.called_tools = False

    def feed(self, token_id: int) -> FinishReason | None:
        """Takes a token; says whether it ends the answer."""
        if token_id in self._eos:
            return "stop"
        self._split(self._text.feed(token_id))
        return "stop" if self._stopped else None

    def take(self) -> list[Event]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events

    def finish(self) -> list[Event]:
        """What was held back, once no token follows."""
        if not self._stopped:
            self._split(self._text.finish())
        if not self._stopped and self._parser is not None:
            for piece in self._parser.finish():
                self._add(piece.kind, piece.text, piece.tool_call)
        if not self._stopped:
            self._put_content(self._stop.finish())
        return self.take()

    def _split(self, text: str) -> None:
        if self._parser is None:
            self._add("content", text, None)
        else:
            for piece in self._parser.feed(text):
                self._add(piece.kind, piece.text, piece.tool_call)

    def _add(self, kind: EventKind, text: str, tool_call: dict[str, str] | None) -> None:
        if self._stopped:
            return
        if kind == "content":
            text, self._stopped = self._stop.feed(text)
            self._put_content(text)
        elif kind == "tool_call":
            self._put_content(self._stop.finish())  # text held back before a call comes before it
            self.called_tools = True
            self._events.append(Event(kind, tool_call=tool_call))
        elif text:
            self._events.append(Event(kind, text))

    def _put_content(self, text: str) -> None:
        if text:
            self._events.append(Event("content", text))
