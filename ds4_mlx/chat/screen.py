"""Answers on a terminal: Markdown as it is written, reasoning dimmed and folded, progress while a prompt is read.

Finished blocks are printed for good; only the block being written, and a line of figures, are drawn again and again.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

from ds4_mlx.chat import clipboard
from ds4_mlx.chat.conversation import Conversation
from ds4_mlx.chat.markdown import AnswerMarkdown, split_finished
from ds4_mlx.engine.generation import Event
from ds4_mlx.terminal import safe

_REFRESH = 0.1  # seconds between two drawings
_REASONING_LINES = 6  # how many of its last lines are in sight while it is written
_THEME = Theme(
    {"markdown.code": "cyan", "markdown.code_block": "default", "bar.complete": "cyan", "bar.finished": "cyan"}
)
_ENDINGS = {
    "length": "cut at -n tokens; /retry, or say: go on",
    "context": "cut: the context is full; /ctx makes it longer, /rewind goes back",
    "tool_calls": "waits for tool results, which a chat has none of",
    None: "stopped",
}


class _Lines:
    """The lines of something without blank ones at its ends; of what is taller than the screen, the last ones."""

    def __init__(self, content: RenderableType, height: int | None = None) -> None:
        self._content, self._height = content, height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._content, options.update(height=None), pad=False)
        filled = [i for i, line in enumerate(lines) if "".join(part.text for part in line).strip()]
        lines = lines[filled[0] : filled[-1] + 1] if filled else []
        for line in lines if self._height is None else lines[-max(1, self._height) :]:
            yield from line
            yield Segment.line()


class LiveAnswer:
    """One answer while it comes. `show` takes its events, `on_prefill` the progress of the prompt."""

    def __init__(self, console: Console, folded: bool) -> None:
        self._console, self._folded = console, folded
        self._live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False)
        self._kind = ""
        self._tail = ""  # what is not printed for good yet
        self._blocks = 0  # printed for good
        self._drawn = 0.0
        self._begin = self._reasoning_began = time.perf_counter()
        self._reasoning_tokens = 0
        self._figures = ""
        self._drawing = self._interrupted = False

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C comes between two drawings: one that breaks off would leave half of itself on the screen."""

        def interrupt(number: int, frame: FrameType | None) -> None:
            if not self._drawing:
                raise KeyboardInterrupt
            self._interrupted = True

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Around a drawing."""
        self._drawing = True
        try:
            yield
        finally:
            self._drawing = False
        if self._interrupted:
            self._interrupted = False
            raise KeyboardInterrupt

    def start(self) -> None:
        """Something is on the screen from the first moment."""
        with self._whole():
            self._live.start()
            self._live.update(Text("reading the prompt", style="dim"), refresh=True)

    def on_prefill(self, done: int, total: int) -> None:
        """A bar: tokens read, rate, time left."""
        rate = done / max(time.perf_counter() - self._begin, 1e-9)
        figures = f"{done:,}/{total:,}  {rate:,.0f} t/s  {_duration((total - done) / rate)} left"
        row = Table.grid(padding=(0, 1))
        row.add_row("[dim]reading the prompt", ProgressBar(total, done, width=16), f"[dim]{figures}")
        with self._whole():
            self._live.update(row, refresh=True)

    def show(self, event: Event) -> None:
        """One event."""
        if event.kind == "done":
            return
        if event.kind != self._kind:
            with self._whole():
                self._close_part()
            self._kind, self._reasoning_began = event.kind, time.perf_counter()
        text = event.text
        if event.kind == "tool_call" and event.tool_call:
            text = f"[calls {event.tool_call['name']} {event.tool_call['arguments']}]"
        self._tail += safe(text)
        if self._kind == "reasoning":
            self._reasoning_tokens += len(event.tokens)
        self._figures = f"{event.stats.generated_tokens:,} tokens  {event.stats.decode_tps:.1f} t/s  Ctrl-C stops"
        if time.perf_counter() - self._drawn >= _REFRESH:
            with self._whole():
                self._draw()

    def end(self) -> None:
        """What was drawn becomes lines for good. A Ctrl-C now has nothing left to stop."""
        self._drawing = True
        self._close_part()
        self._live.stop()

    def _draw(self) -> None:
        height = self._console.height - 3
        tail: RenderableType
        if self._kind == "reasoning":
            if not self._folded:
                self._print_lines()
            tail = _Lines(Text(self._tail.strip("\n"), style="dim italic"), min(height, _REASONING_LINES))
        else:
            self._print_blocks()
            tail = _Lines(self._rendered(self._tail), height)
        self._live.update(Group(tail, Text(self._figures, style="dim")), refresh=True)
        self._drawn = time.perf_counter()

    def _print_lines(self) -> None:
        """Whole lines of reasoning that is to stay."""
        whole, newline, self._tail = self._tail.rpartition("\n")
        if newline:
            self._live.update(Group())
            self._live.console.print(Text(whole, style="dim italic"))

    def _print_blocks(self) -> None:
        blocks, self._tail = split_finished(self._tail)
        for block in blocks:
            self._print_block(block)

    def _print_block(self, block: str) -> None:
        self._live.update(Group())  # printed again otherwise, below what is printed now
        if self._blocks:
            self._live.console.print()
        self._live.console.print(_Lines(self._rendered(block)), end="")
        self._blocks += 1

    def _rendered(self, text: str) -> RenderableType:
        return Text(text, style="yellow") if self._kind == "tool_call" else AnswerMarkdown(text)

    def _close_part(self) -> None:
        """The part of this kind is over: it is folded, or printed for good."""
        self._live.update(Group(), refresh=True)
        if self._kind == "reasoning":
            self._close_reasoning()
        elif self._kind and self._tail.strip():
            self._print_blocks()
            self._print_block(self._tail)
        self._tail = ""

    def _close_reasoning(self) -> None:
        console = self._live.console
        if self._folded:
            took = _duration(time.perf_counter() - self._reasoning_began)
            line = f"thought for {took}, {self._reasoning_tokens:,} tokens; Ctrl-T shows it"
            console.print(Text(f"{'>' if console.options.ascii_only else '▸'} {line}", style="dim"))
        elif self._tail.strip():
            console.print(Text(self._tail.strip("\n"), style="dim italic"))
        console.print()


class TerminalScreen:
    """A terminal that can move its cursor."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, emoji=False, theme=_THEME)

    def note(self, text: str) -> None:
        """A remark."""
        self._console.print(Text(safe(text), style="dim"))

    def reply(self, text: str) -> None:
        """What a command has to say."""
        self.note(text)

    @contextmanager
    def answer(self, folded: bool) -> Iterator[LiveAnswer]:
        """A blank line, the answer, a blank line."""
        self._console.print()
        view = LiveAnswer(self._console, folded)
        with view.interruptible():
            try:
                view.start()
                yield view
            finally:
                view.end()
                self._console.print()

    def ended(self, conversation: Conversation) -> None:
        """Only what is out of the ordinary; the status line has the figures."""
        assert conversation.last is not None
        reason = conversation.last.finish_reason
        if reason != "stop":
            self.note(f"({_ENDINGS[reason]})")

    def past(self, messages: tuple[dict[str, Any], ...]) -> None:
        """As they looked when they were said."""
        for message in messages:
            content = str(message.get("typed") or message.get("content") or "")
            if message["role"] == "user":
                self._console.print(Text(f"> {safe(content)}"))
            elif message["role"] == "assistant":
                self._console.print()
                self._console.print(AnswerMarkdown(safe(content)))
                self._console.print()

    def reasoning(self, conversation: Conversation) -> None:
        """Unfolds what was thought before the last answer."""
        answers = [message for message in conversation.messages if message["role"] == "assistant"]
        thought = (answers[-1].get("reasoning_content") if answers else "") or ""
        self._console.print(Text(safe(thought).strip() or "(nothing was thought)", style="dim italic"))
        self._console.print()

    def copy(self, text: str) -> str | None:
        """By a program, and through the terminal."""
        return clipboard.copy(text, sys.stdout)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    if minutes:
        return f"{minutes} min {rest} s"
    return f"{seconds:.1f} s" if seconds < 10 else f"{rest} s"
