"""The input line of a terminal: several lines, pastes, history, completion, and the status line below."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import platformdirs
from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output
from prompt_toolkit.styles import Style

from ds4_mlx.chat.commands import COMMANDS, efforts
from ds4_mlx.chat.conversation import Conversation
from ds4_mlx.chat.plain import is_open, unquoted

_STYLE = Style.from_dict(
    {
        "prompt": "bold",
        "bottom-toolbar": "noreverse",
        "bottom-toolbar.text": "ansibrightblack",
        "completion-menu.completion": "bg:default",
        "completion-menu.completion.current": "reverse",
        "completion-menu.meta.completion": "bg:default ansibrightblack",
        "completion-menu.meta.completion.current": "reverse",
        "scrollbar.background": "bg:default",
        "scrollbar.button": "bg:ansibrightblack",
    }
)


def history_file() -> Path:
    """Where what was typed is kept, to be had back with the arrow keys."""
    return Path(platformdirs.user_state_dir("ds4-mlx", appauthor=False)) / "chat_history"


class _Kept(FileHistory):
    """A history that goes on in memory where its file cannot be written; readable by its owner alone."""

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        super().__init__(str(path))
        self._tell, self._told = tell, False

    def load_history_strings(self) -> Iterable[str]:
        try:
            return list(super().load_history_strings())
        except OSError as error:
            self._say(error)
            return []

    def store_string(self, string: str) -> None:
        try:
            path = Path(os.fsdecode(self.filename))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            super().store_string(string)
        except OSError as error:
            self._say(error)

    def _say(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            self._tell(f"({os.fsdecode(self.filename)} cannot be used: {error.strerror}; history ends with this chat)")


class ChatCompleter(Completer):
    """Commands and what follows them; paths behind @."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Of the text before the cursor."""
        text = document.text_before_cursor
        name, space, argument = text.partition(" ")
        word = document.get_word_before_cursor(WORD=True)
        if text.startswith("/") and not space and "\n" not in text:
            for name, command in COMMANDS.items():
                if name.startswith(text.lower()):
                    yield Completion(name, -len(text), display_meta=command.help)
        elif word.startswith("@"):
            yield from self._paths_after(word[1:], complete_event)
        elif name in ("/read", "/export") and " " not in argument:
            yield from self._paths_after(argument, complete_event)
        elif name in COMMANDS and space:
            for choice, about in self._arguments(name):
                if choice.startswith(argument):
                    yield Completion(choice, -len(argument), display_meta=about)

    def _paths_after(self, beginning: str, event: CompleteEvent) -> Iterable[Completion]:
        for found in self._paths.get_completions(Document(beginning), event):
            whole = beginning[: len(beginning) + found.start_position] + found.text
            folder = Path(whole).expanduser().is_dir()
            if " " in whole and not folder:
                yield Completion(f'"{whole}"', -len(beginning), display=found.display)
            else:
                yield Completion(found.text + "/" * folder, found.start_position, display=found.display)

    def _arguments(self, name: str) -> list[tuple[str, str]]:
        if name == "/load":
            return [(head.name or head.id, head.title) for head in self._conversation.saved()]
        if name == "/effort":
            return [(level, "") for level in efforts(self._conversation)]
        return [("show", ""), ("fold", "")] if name == "/think" else []


class PromptInput:
    """Reads messages with prompt_toolkit. show_reasoning: what Ctrl-T does."""

    def __init__(
        self,
        conversation: Conversation,
        show_reasoning: Callable[[], None],
        *,
        history: Path | None = None,
        input: Input | None = None,
        output: Output | None = None,
    ) -> None:
        """history: the file to keep what was typed in; None keeps it in memory. input, output: for tests."""
        self._conversation = conversation
        self._given_up_at_once = False  # by Ctrl-C, text or not: what was not typed just now
        kept: History = InMemoryHistory() if history is None else _Kept(history, conversation.tell)
        self._session: PromptSession[str] = PromptSession(
            multiline=True,
            prompt_continuation="  ",
            history=kept,
            completer=ChatCompleter(conversation),
            complete_while_typing=True,
            reserve_space_for_menu=6,
            key_bindings=self._keys(show_reasoning),
            enable_open_in_editor=True,
            tempfile_suffix=".md",
            bottom_toolbar=lambda: [("", status_line(self._conversation, shutil.get_terminal_size().columns))],
            style=_STYLE,
            input=input,
            output=output,
        )

    def read(self, draft: str, editing: bool) -> str:
        """The next message or command, quotes taken off."""
        self._given_up_at_once = bool(draft)
        message = FormattedText([("class:prompt", "edit> " if editing else "> ")])
        return unquoted(self._session.prompt(message, default=draft))

    def _keys(self, show_reasoning: Callable[[], None]) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter")
        def _(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if buffer.complete_state and buffer.complete_state.current_completion:
                buffer.complete_state = None  # taken; the next Enter sends
            elif is_open(buffer.text):
                buffer.insert_text("\n")
            else:
                buffer.validate_and_handle()

        @keys.add("escape", "enter")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        @keys.add("c-c")
        def _(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            text = buffer.text
            buffer.reset(append_to_history=bool(text))  # the arrow keys bring it back
            if self._given_up_at_once or not text:
                event.app.exit(exception=KeyboardInterrupt)

        @keys.add("c-t")
        def _(event: KeyPressEvent) -> None:
            run_in_terminal(show_reasoning)

        return keys


def status_line(conversation: Conversation, columns: int) -> str:
    """Model, profile, context, cache, speed, session: as much as there is room for, the first ones first."""
    model, settings, last = conversation.model, conversation.settings, conversation.last
    parts = [f"{model.checkpoint.path.name} {model.checkpoint.profile}"]
    parts.append(f"{conversation.session.position:,}/{conversation.limit:,} tokens")
    if last is not None:
        parts += [f"{last.cached_tokens:,} cached", f"{last.decode_tps:.1f} t/s"]
    parts.append(f"thinks{' ' + settings.effort if settings.effort else ''}" if settings.thinking else "no thinking")
    parts.append(conversation.label)
    line = parts[0]
    for part in parts[1:]:
        if len(line) + len(part) + 3 > columns:
            break
        line += f" · {part}"
    return line
