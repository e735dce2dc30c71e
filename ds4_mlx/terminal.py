"""What the command line and the chat share: showing and gathering an answer as it comes, progress, figures."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ds4_mlx.engine.generation import Event, Stats

# Control characters a model may emit must not reach a terminal: they move the cursor, ring, or start escape sequences.
_UNSAFE = {code: None for code in (*range(0x20), 0x7F, *range(0x80, 0xA0)) if chr(code) not in "\n\t"}


def safe(text: str) -> str:
    """A text without control characters but line breaks and tabs."""
    return text.translate(_UNSAFE)


DEFAULT_NOTE = "(the built-in ds4-tiny answers: 23 M parameters, knows little, see its model card; -m names another)"


@dataclass
class Collected:
    """The parts of an answer, gathered: for --json, and for the next turn of a chat."""

    reasoning: str = ""
    content: str = ""
    tool_calls: list[dict[str, str]] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)

    def add(self, event: Event) -> None:
        """Takes one event."""
        self.token_ids += [token.id for token in event.tokens]
        if event.kind == "reasoning":
            self.reasoning += event.text
        elif event.kind == "content":
            self.content += event.text
        elif event.tool_call is not None:
            self.tool_calls.append(event.tool_call)

    def message(self) -> dict[str, Any]:
        """The answer as a message of the conversation."""
        message: dict[str, Any] = {
            "role": "assistant",
            "content": self.content,
            "reasoning_content": self.reasoning,
        }
        if self.tool_calls:
            message["tool_calls"] = [{"type": "function", "function": call} for call in self.tool_calls]
        return message


class AnswerPrinter:
    """Prints events: content to stdout; reasoning dimmed on a terminal, else to stderr, so a pipe gets the answer."""

    def __init__(self) -> None:
        from rich.console import Console

        self._out = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._err = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._last_kind = ""
        self._open_line = False

    def show(self, event: Event) -> None:
        """Prints one event as soon as it is known."""
        if event.kind == "done":
            return
        if self._last_kind == "reasoning" and event.kind != "reasoning":
            self._reasoning("\n\n" if self._open_line else "\n")
        text = event.text
        if event.kind == "tool_call" and event.tool_call:
            text = f"\n[calls {event.tool_call['name']} {event.tool_call['arguments']}]\n"
        self._last_kind = event.kind
        if event.kind == "reasoning":
            self._reasoning(text)
        else:
            self._content(text)
        self._open_line = not text.endswith("\n")

    def end(self) -> None:
        """Finishes the last line, so that a prompt or a shell begins on a fresh one."""
        if self._open_line:
            (self._reasoning if self._last_kind == "reasoning" else self._content)("\n")
            self._open_line = False

    def _content(self, text: str) -> None:
        if self._out.is_terminal:
            self._out.print(safe(text), end="")
        else:
            sys.stdout.write(text)
            sys.stdout.flush()

    def _reasoning(self, text: str) -> None:
        console = self._out if self._out.is_terminal else self._err
        console.print(safe(text), end="", style="dim")


def note(text: str) -> None:
    """A remark on stderr, dimmed."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    console.print(text, style="dim", soft_wrap=not console.is_terminal)


@contextmanager
def prompt_progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr while the prompt is read: tokens, rate, time left. None when stderr is no terminal."""
    with _bar("reading the prompt", lambda done, total, rate: f"{done}/{total} tokens, {rate:.0f}/s") as advance:
        yield advance


@contextmanager
def loading_progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr while weights are read. None when stderr is no terminal."""

    def figures(done: int, total: int, rate: float) -> str:
        return f"{done / 1e9:.1f}/{total / 1e9:.1f} GB, {rate / 1e9:.1f} GB/s"

    with _bar("loading the model", figures) as advance:
        yield advance


@contextmanager
def counting_progress(title: str, unit: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr while something is counted through. None when stderr is no terminal."""
    with _bar(title, lambda done, total, rate: f"{done:,}/{total:,} {unit}, {rate:,.0f}/s") as advance:
        yield advance


@contextmanager
def _bar(title: str, figures: Callable[[int, int, float], str]) -> Iterator[Callable[[int, int], None] | None]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn(title), BarColumn(20), TextColumn("{task.fields[figures]}"), TimeRemainingColumn())
    progress = Progress(*columns, console=console, transient=True)
    task: TaskID | None = None
    begin = time.perf_counter()

    def advance(done: int, total: int) -> None:
        nonlocal task
        if task is None:
            if done == total:  # over before a bar could help
                return
            progress.start()
            task = progress.add_task("", total=total, figures="")
        rate = done / (time.perf_counter() - begin)
        progress.update(task, completed=done, figures=figures(done, total, rate))
        if done == total:
            progress.stop()

    try:
        yield advance
    finally:
        progress.stop()


_ENDINGS = {
    "stop": "complete",
    "tool_calls": "waits for tool results",
    "length": "cut at -n tokens",
    "context": "cut: the context is full",
    None: "interrupted",
}


def stats_line(stats: Stats) -> str:
    """Prefill and decode rates, memory and how it ended, in one line."""
    fresh = stats.prompt_tokens - stats.cached_tokens
    cached = f" (+{stats.cached_tokens} cached)" if stats.cached_tokens else ""
    return (
        f"prefill {fresh} tokens{cached}, {stats.prefill_tps:.1f} tokens/s; "
        f"decode {stats.generated_tokens} tokens, {stats.decode_tps:.1f} tokens/s; "
        f"peak memory {stats.peak_memory_bytes / 1e9:.2f} GB; seed {stats.seed}; "
        f"{_ENDINGS[stats.finish_reason]}"
    )
