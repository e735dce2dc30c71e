"""The loop: a line comes in, a command or an answer goes out. What was typed and not taken is handed back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from ds4_mlx.chat import commands
from ds4_mlx.chat.conversation import Conversation, Progress, Show
from ds4_mlx.chat.files import mentioned, user_message
from ds4_mlx.errors import UserError


class Input(Protocol):
    """Where lines come from."""

    def read(self, draft: str, editing: bool) -> str:
        """The next message or command; `draft` is what it begins with, editing whether it replaces the last message.
        EOFError at the end, KeyboardInterrupt for Ctrl-C on an empty line or a draft.
        """


class View(Protocol):
    """An answer on its way to the eye."""

    @property
    def show(self) -> Show:
        """Takes what is new in the answer."""

    @property
    def on_prefill(self) -> Progress | None:
        """Takes how much of the prompt is read."""


class Screen(Protocol):
    """Where answers go."""

    def note(self, text: str) -> None:
        """A remark."""

    def reply(self, text: str) -> None:
        """What a command has to say."""

    def answer(self, folded: bool) -> AbstractContextManager[View]:
        """A place for one answer."""

    def ended(self, conversation: Conversation) -> None:
        """After an answer: how it ended, how fast it was."""

    def past(self, messages: tuple[dict[str, Any], ...]) -> None:
        """Messages of an earlier day."""

    def copy(self, text: str) -> str | None:
        """To the clipboard; returns how, None if it cannot be done."""


class Loop:
    """Reads until /quit or the end of the input."""

    def __init__(self, conversation: Conversation, lines: Input, screen: Screen) -> None:
        self.conversation, self._lines, self._screen = conversation, lines, screen
        self._draft = ""  # what the next line begins with
        self._editing = False  # whether it replaces the last message

    def welcome_back(self) -> None:
        """Which conversation goes on, and how it ended last time."""
        reply = commands.welcome_back(self.conversation)
        self._screen.past(reply.past)
        self._screen.note(f"({reply.text})")

    def run(self) -> None:
        """Until it ends. What a person can mend is said; the loop goes on."""
        while True:
            draft, self._draft = self._draft, ""
            try:
                line = self._lines.read(draft, self._editing)
            except EOFError:
                return
            except KeyboardInterrupt:
                self._screen.note("(given up)" if draft else "(/quit or Ctrl-D leaves)")
                self._editing = False
                continue
            except UnicodeDecodeError:
                self._screen.note("(that was not valid UTF-8)")
                continue
            if not line.strip():
                self._editing = False
            elif not self._take(line):
                return

    def _take(self, line: str) -> bool:
        """One line; whether to go on."""
        editing, self._editing = self._editing, False
        try:
            if commands.is_command(line):
                return self._command(line, editing)
            attached = mentioned(line)
            if attached:
                self._screen.note(f"(with {', '.join(map(str, attached))})")
            conversation = self.conversation
            self._ask(conversation.replace if editing else conversation.say, user_message(line.strip()), line, editing)
        except UserError as error:
            self._hand_back(line, str(error), editing)
        except (RuntimeError, MemoryError) as error:  # of the device; the session stands where it stood
            self._hand_back(line, f"The answer failed: {error}", editing)
        return True

    def _command(self, line: str, editing: bool) -> bool:
        reply = commands.run(self.conversation, line)
        if reply.past:
            self._screen.past(reply.past)
        if reply.text:
            self._screen.reply(reply.text)
        if reply.copy is not None:
            how = self._screen.copy(reply.copy)
            self._screen.note(f"(copied by {how})" if how else "(there is no clipboard here)")
        if reply.draft is not None:
            self._draft, self._editing = reply.draft, True
        if reply.ask == "retry":
            self._ask(lambda _, *to: self.conversation.retry(*to), {}, "", False)
        elif reply.ask is not None and reply.message is not None:
            instead = editing or reply.ask == "replace"
            self._ask(self.conversation.replace if instead else self.conversation.say, reply.message, line, editing)
        return not reply.leave

    def _ask(self, ask: Callable[..., bool], message: dict[str, Any], line: str, editing: bool) -> None:
        """line: handed back if there is no answer."""
        answered = False
        try:
            with self._screen.answer(self.conversation.settings.folded) as view:
                answered = ask(message, view.show, view.on_prefill)
        except KeyboardInterrupt:  # between the answer and here
            pass
        if answered:
            self._screen.ended(self.conversation)
        else:
            self._hand_back(line, "stopped; your message was not taken" if line else "stopped", editing)

    def _hand_back(self, line: str, why: str, editing: bool) -> None:
        self._draft, self._editing = line, editing
        self._screen.note(f"({why})")
