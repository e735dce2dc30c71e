"""Conversations whose answers are scripted or come from the golden checkpoint, and screens that only remember."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ds4_mlx.cache.store import SessionStore
from ds4_mlx.chat.conversation import Conversation, Message, Settings
from ds4_mlx.engine.generation import Event
from ds4_mlx.engine.language_model import LanguageModel


def conversation(model: LanguageModel, folder: Path, **settings: Any) -> Conversation:
    """A new one that is saved in a folder of its own."""
    twin = LanguageModel(model.checkpoint, model.tokenizer, model.numerics, store=SessionStore(folder))
    twin._network = model.network
    twin.saving.which = "all"
    return Conversation(twin, Settings(**{"thinking": False, "seed": 1, "max_tokens": 3, **settings}))


def say(talk: Conversation, text: str) -> bool:
    """A message whose answer nobody watches."""
    return talk.say({"role": "user", "content": text}, ignore)


def said(talk: Conversation) -> list[Any]:
    """What the user said."""
    return [message["content"] for message in talk.messages if message["role"] == "user"]


def ignore(event: Event) -> None:
    """Watches nothing."""


class Script:
    """Lines for a loop; an exception among them is raised. What they were to begin with is in `drafts`."""

    def __init__(self, *lines: str | type[BaseException]) -> None:
        self._lines = list(lines)
        self.drafts: list[tuple[str, bool]] = []

    def read(self, draft: str, editing: bool) -> str:
        self.drafts.append((draft, editing))
        if not self._lines:
            raise EOFError
        line = self._lines.pop(0)
        if isinstance(line, str):
            return line
        raise line


class Screen:
    """Keeps what it is told."""

    def __init__(self, interrupt_after: int | None = None) -> None:
        self.notes: list[str] = []
        self.replies: list[str] = []
        self.pasts: list[Message] = []
        self.copied: list[str] = []
        self.events: list[Event] = []
        self.on_prefill = None
        self._interrupt_after = interrupt_after

    def note(self, text: str) -> None:
        self.notes.append(text)

    def reply(self, text: str) -> None:
        self.replies.append(text)

    @contextmanager
    def answer(self, folded: bool) -> Iterator[Screen]:
        yield self

    def show(self, event: Event) -> None:
        self.events.append(event)
        if len(self.events) == self._interrupt_after:
            raise KeyboardInterrupt

    def ended(self, conversation: Conversation) -> None:
        pass

    def past(self, messages: tuple[Message, ...]) -> None:
        self.pasts += messages

    def copy(self, text: str) -> str | None:
        self.copied.append(text)
        return None
