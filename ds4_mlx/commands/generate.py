"""`ds4-mlx generate`: one prompt in, one answer out."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ds4_mlx.errors import UserError
from ds4_mlx.terminal import (
    DEFAULT_NOTE,
    AnswerPrinter,
    Collected,
    loading_progress,
    note,
    prompt_progress,
    stats_line,
)

if TYPE_CHECKING:
    from ds4_mlx.engine.generation import Stats, Token
    from ds4_mlx.engine.language_model import LanguageModel
    from ds4_mlx.engine.session import Session

DEFAULT_TOP_LOGPROBS = 5


@dataclass(frozen=True)
class Request:
    """The flags of the command."""

    prompt: str | None
    prompt_file: str | None
    system: str | None
    raw: bool
    model: str | None
    session: str | None  # name or id of a saved conversation
    kv_dir: Path | None
    allow_other_weights: bool
    thinking: bool
    effort: str | None
    max_tokens: int
    context: int
    stop: list[str]
    sampling: dict[str, Any]  # temperature, top_p, top_k, min_p, seed
    as_json: bool
    dump_tokens: bool
    dump_logprobs: Path | None
    top_logprobs: int | None
    stats: bool


def run(request: Request) -> int:
    """Generates and prints; returns the exit code (130 when interrupted). Raises `UserError` for anything unusable."""
    prompt = read_prompt(request.prompt, request.prompt_file)
    if request.raw and (request.system is not None or request.effort is not None):
        raise UserError("--raw takes the prompt as it is, so --system and --effort cannot be used with it.")
    if request.raw and request.session is not None:
        raise UserError("--session continues a conversation; --raw takes the prompt as it is. Use one of them.")
    # The shell's bytes arrive as surrogates where they are not UTF-8.
    for name, text in (
        ("--system", request.system),
        ("--session", request.session),
        *(("--stop", stop) for stop in request.stop),
    ):
        decode(os.fsencode(text or ""), f"The text given with {name}")
    if request.top_logprobs is not None and request.dump_logprobs is None:
        raise UserError("--top-logprobs needs --dump-logprobs FILE to write to.")
    from ds4_mlx.engine.language_model import open_model

    model = open_model(request.model, kv_dir=request.kv_dir)
    model.store.warn = model.saving.tell = note
    if request.effort == "low" and model.prompt_profile == "april":
        raise UserError("--effort low needs a 0731 model; this one knows high and max.")
    messages: list[dict[str, Any]] | str = prompt
    if request.system is not None:
        messages = [{"role": "system", "content": request.system}, {"role": "user", "content": prompt}]
    session = None
    if request.session is not None:
        session, messages = _session(model, prompt, request)
    if request.dump_tokens:
        return _dump_tokens(model, messages, request)
    return _generate(model, messages, request, session)


def _session(model: LanguageModel, prompt: str, request: Request) -> tuple[Session, list[dict[str, Any]]]:
    """The session that --session names, or a new one, and the conversation with the prompt at its end."""
    assert request.session is not None
    if not request.session.strip():
        raise UserError("--session is empty; give the conversation a name.")
    said = [{"role": "user", "content": prompt}]
    system = [] if request.system is None else [{"role": "system", "content": request.system}]
    if not model.store.has(request.session):
        return model.session(), system + said
    session = model.restore(request.session, allow_other_weights=request.allow_other_weights)
    assert session.head is not None
    earlier = session.head.messages
    if earlier is None:
        raise UserError(f"Session {session.head.label} holds no conversation to go on with.")
    if system and earlier[:1] != system:
        raise UserError(f"Session {session.head.label} has begun without this system message; leave --system away.")
    return session, earlier + said


def _generate(
    model: LanguageModel, messages: list[dict[str, Any]] | str, request: Request, session: Session | None
) -> int:
    printer, collected, stats = AnswerPrinter(), Collected(), None
    top = DEFAULT_TOP_LOGPROBS if request.top_logprobs is None else request.top_logprobs
    code = 0
    try:
        with ExitStack() as stack:
            # Checks the prompt and every option; only then is a file opened and are the weights read.
            events = model.stream(
                messages,
                session=session,
                raw=request.raw,
                thinking=request.thinking,
                reasoning_effort=request.effort,
                max_tokens=request.max_tokens,
                context=request.context,
                stop=request.stop,
                top_logprobs=top if request.dump_logprobs else None,
                on_prefill=stack.enter_context(prompt_progress()),
                **request.sampling,
            )
            logprobs = stack.enter_context(_open_output(request.dump_logprobs)) if request.dump_logprobs else None
            if request.model is None:
                note(DEFAULT_NOTE)
            model.fill(stack.enter_context(loading_progress()))
            for event in events:
                stats = event.stats
                collected.add(event)
                if logprobs:
                    _write_logprobs(logprobs, model, event.tokens)
                if not request.as_json:
                    printer.show(event)
    except KeyboardInterrupt:
        code = 130
    if session is not None and stats is not None and isinstance(messages, list):
        _save(model, session, [*messages, collected.message()], request)
    if request.as_json:
        print(json.dumps(_json(collected, stats), ensure_ascii=False, indent=2))
    else:
        printer.end()
    if stats and stats.finish_reason == "length":
        note(f"(stopped after -n {request.max_tokens} tokens)")
    if stats and stats.finish_reason == "context":
        note(f"(stopped: the context of --ctx {request.context} tokens is full)")
    if code:
        note("(interrupted)")
    if stats and request.stats:
        note(stats_line(stats))
    return code


def _save(model: LanguageModel, session: Session, messages: list[dict[str, Any]], request: Request) -> None:
    """Saves the conversation under its name; a failure is told, and the answer is printed all the same."""
    options = {"thinking": request.thinking}
    model.saving.message_ended(session, messages, name=None if session.head else request.session, **options)


def read_prompt(prompt: str | None, prompt_file: str | None) -> str:
    """The prompt from -p, from --prompt-file (a path, or - for stdin), or from stdin when neither is given.

    Raises `UserError` if there is none, if there are two, or if it is empty or not UTF-8.
    """
    if prompt is not None and prompt_file is not None:
        raise UserError("Give either -p or --prompt-file, not both.")
    if prompt_file == "":
        raise UserError("--prompt-file is empty; name a file, or - for standard input.")
    if prompt is not None:
        data, where = os.fsencode(prompt), "The prompt given with -p"
    elif prompt_file is None or prompt_file == "-":
        if prompt_file is None and sys.stdin.isatty():
            raise UserError(
                'There is no prompt. Give one with -p "...", with --prompt-file FILE, or on standard input.'
            )
        data, where = sys.stdin.buffer.read(), "Standard input"
    else:
        data, where = _read_file(Path(prompt_file)), str(prompt_file)
    text = decode(data, where)
    if not text.strip():
        raise UserError(f"{where} is empty; a prompt needs at least one character.")
    return text


def decode(data: bytes, where: str) -> str:
    """UTF-8 to text. Raises `UserError` that names the place and the first wrong byte."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not valid UTF-8 (byte {error.start} is {data[error.start]:#04x}).") from None


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"The prompt file {path} cannot be read: {error.strerror}.") from None


def _open_output(path: Path) -> TextIO:
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from None


def _dump_tokens(model: LanguageModel, messages: list[dict[str, Any]] | str, request: Request) -> int:
    from ds4_mlx.engine.generation import render_prompt

    prompt = render_prompt(model, messages, thinking=request.thinking, reasoning_effort=request.effort, raw=request.raw)
    for token_id in model.tokenizer.encode(prompt):
        print(f"{token_id}\t{_printable(model, token_id)}")
    return 0


def _printable(model: LanguageModel, token_id: int) -> str:
    """A token's text as a JSON string; bytes that are no whole character show as U+FFFD."""
    return json.dumps(model.tokenizer.token_bytes(token_id).decode("utf-8", "replace"), ensure_ascii=False)


def _write_logprobs(file: TextIO, model: LanguageModel, tokens: tuple[Token, ...]) -> None:
    def entry(token_id: int, logprob: float | None) -> dict[str, Any]:
        data = model.tokenizer.token_bytes(token_id)
        return {"id": token_id, "text": data.decode("utf-8", "replace"), "bytes": list(data), "logprob": logprob}

    for token in tokens:
        top = [entry(token_id, logprob) for token_id, logprob in token.top]
        file.write(json.dumps({**entry(token.id, token.logprob), "top": top}, ensure_ascii=False) + "\n")
    file.flush()


def _json(collected: Collected, stats: Stats | None) -> dict[str, Any]:
    result: dict[str, Any] = {
        "content": collected.content,
        "reasoning_content": collected.reasoning,
        "tool_calls": collected.tool_calls,
        "token_ids": collected.token_ids,
        "finish_reason": (stats.finish_reason if stats else None) or "interrupted",
    }
    if stats:
        result["stats"] = {
            "prompt_tokens": stats.prompt_tokens,
            "generated_tokens": stats.generated_tokens,
            "prefill_tokens_per_second": round(stats.prefill_tps, 2),
            "decode_tokens_per_second": round(stats.decode_tps, 2),
            "peak_memory_bytes": stats.peak_memory_bytes,
            "seed": stats.seed,
        }
    return result
