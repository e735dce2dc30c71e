"""A conversation and what can be done with it. Knows nothing of terminals."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ds4_mlx.cache.head import Head
from ds4_mlx.engine.generation import DEFAULT_CONTEXT, DEFAULT_MAX_TOKENS, Event, render_prompt
from ds4_mlx.engine.stats import Stats
from ds4_mlx.errors import UserError
from ds4_mlx.terminal import Collected

if TYPE_CHECKING:
    from ds4_mlx.engine.language_model import LanguageModel
    from ds4_mlx.engine.session import Session

Message = dict[str, Any]
Show = Callable[[Event], None]
Progress = Callable[[int, int], None]


@dataclass
class Settings:
    """How answers are generated. effort: None, or what the model's prompts know (spec 15.7)."""

    thinking: bool = True
    effort: str | None = None
    temperature: float = 1.0
    seed: int | None = None  # None: another one for every answer
    max_tokens: int = DEFAULT_MAX_TOKENS
    context: int = DEFAULT_CONTEXT
    folded: bool = True  # whether reasoning goes from the screen when the answer begins


@dataclass(frozen=True)
class Totals:
    """Of all answers since the program began."""

    answers: int = 0
    read: int = 0  # tokens of prompts, those from the cache left out
    cached: int = 0
    generated: int = 0
    seconds: float = 0.0

    def plus(self, stats: Stats) -> Totals:
        """With one more answer."""
        return Totals(
            self.answers + 1,
            self.read + stats.prompt_tokens - stats.cached_tokens,
            self.cached + stats.cached_tokens,
            self.generated + stats.generated_tokens,
            self.seconds + stats.prefill_seconds + stats.decode_seconds,
        )


@dataclass(frozen=True)
class _Place:
    """Where `undo` goes back to. No session: it would keep pages in memory that nobody may ever want."""

    what: str  # the change that was made from here
    messages: list[Message]
    head: Head | None
    name: str | None


@dataclass
class Conversation:
    """The messages, the session that holds them, and how the next answer is made.

    `messages` is never changed in place, and only when an answer is there: whatever fails or is interrupted before
    leaves the conversation as it was. tell: gets a sentence where something went wrong beside the answer.
    """

    model: LanguageModel
    settings: Settings = field(default_factory=Settings)
    tell: Callable[[str], None] = lambda text: None
    messages: list[Message] = field(default_factory=list)
    name: str | None = None  # what the session will be called when it is first saved
    last: Stats | None = field(default=None, init=False)  # of the last answer
    totals: Totals = field(default=Totals(), init=False)

    def __post_init__(self) -> None:
        self.session = self.model.session()
        self._places: list[_Place] = []
        self._retries = 0

    # Asking

    def say(self, message: Message, show: Show, on_prefill: Progress | None = None) -> bool:
        """Sends a user's message; `show` gets the answer's events. Ctrl-C stops it: what there is of it is kept.

        Returns whether there is an answer. If not, or if an error is raised, the message was not taken.
        """
        return self._ask("message", [*self.messages, message], show, on_prefill)

    def retry(self, show: Show, on_prefill: Progress | None = None) -> bool:
        """Asks for another answer to the last message; the earlier one is left only when the new one is there."""
        self._retries += 1  # a seed that was given must not give the same answer again
        return self._ask("retry", self.messages[: self._last_question() + 1], show, on_prefill)

    def replace(self, message: Message, show: Show, on_prefill: Progress | None = None) -> bool:
        """Asks this instead of the last message, which is left only when the answer is there."""
        return self._ask("edit", [*self.messages[: self._last_question()], message], show, on_prefill)

    def _ask(self, what: str, messages: list[Message], show: Show, on_prefill: Progress | None) -> bool:
        settings, answer, stats = self.settings, Collected(), None
        seed = settings.seed if settings.seed is None else settings.seed + self._retries
        events = self.model.stream(
            [{key: value for key, value in message.items() if key != "typed"} for message in messages],
            session=self.session,
            on_prefill=on_prefill,
            thinking=settings.thinking,
            reasoning_effort=settings.effort if settings.thinking else None,
            temperature=settings.temperature,
            seed=seed,
            max_tokens=settings.max_tokens,
            context=settings.context,
        )
        try:
            with closing(events):  # type: ignore[type-var]  # a generator: its `finally` comes before the save
                for event in events:
                    stats = event.stats
                    answer.add(event)
                    show(event)
        except KeyboardInterrupt:
            if stats is None:
                return False
        assert stats is not None
        self._change(what, [*messages, answer.message()])
        self.last, self.totals = stats, self.totals.plus(stats)
        self._keep()
        return True

    # Going back

    def questions(self) -> list[int]:
        """Where the user's messages are in `messages`."""
        return [i for i, message in enumerate(self.messages) if message["role"] == "user"]

    def last_question(self) -> Message:
        """The last message of the user. Raises `UserError` if there is none."""
        return self.messages[self._last_question()]

    def last_answer(self) -> Message:
        """The last message of the model. Raises `UserError` if there is none."""
        for message in reversed(self.messages):
            if message["role"] == "assistant":
                return message
        raise UserError("There is no answer yet.")

    def rewind(self, exchanges: int = 1) -> list[Message]:
        """Takes the last questions and their answers back; returns them. Raises `UserError` if there are fewer."""
        asked = self.questions()
        if not 1 <= exchanges <= len(asked):
            raise UserError(f"There are {len(asked)} messages to go back over, not {exchanges}.")
        gone = self.messages[asked[-exchanges] :]
        self._change("rewind", self.messages[: asked[-exchanges]])
        self._go_back()
        return gone

    def undo(self) -> str:
        """Takes the last change back, whatever it was; returns what it was. Raises `UserError` if there is none."""
        if not self._places:
            raise UserError("There is nothing to undo.")
        place = self._places[-1]
        if _id(place.head) != _id(self.session.head):
            self._leave(self.model.session() if place.head is None else self.model.restore(place.head.id))
        self._places.pop()
        self.messages, self.name = place.messages, place.name
        self._go_back()
        return place.what

    def system(self, text: str | None) -> None:
        """Sets the system message, or with None removes it. The conversation is read again with the next message."""
        rest = self.messages[1:] if self.system_text is not None else self.messages
        self._change("system", rest if text is None else [{"role": "system", "content": text}, *rest])

    @property
    def system_text(self) -> str | None:
        """The system message."""
        first = self.messages[0] if self.messages else {"role": ""}
        return str(first["content"]) if first["role"] == "system" else None

    def _last_question(self) -> int:
        asked = self.questions()
        if not asked:
            raise UserError("There is no message yet.")
        return asked[-1]

    def _change(self, what: str, messages: list[Message]) -> None:
        self._places.append(_Place(what, self.messages, self.session.head, self.name))
        self.messages = messages

    def _go_back(self) -> None:
        """The session follows the messages; no token is computed."""
        prompt = render_prompt(self.model, self.messages, thinking=self.settings.thinking)
        self.session.resume(self.model.tokenizer.encode(prompt))
        if self.session.head is not None:
            self._keep()

    # Sessions

    def begin(self, name: str | None = None) -> None:
        """Starts a new conversation with the same system message. The old one stays as it was saved."""
        self._check_free(name)
        self._change("new", [] if self.system_text is None else self.messages[:1])
        self._leave(self.model.session())
        self.name, self.last = name, None

    def load(self, reference: str, *, allow_other_weights: bool = False) -> None:
        """Goes on with a saved conversation, by name, id, the beginning of an id, or its place in `saved`.

        Raises `UserError` if there is none, if it is another model's, or if it holds no messages.
        """
        saved = self.saved()
        if not self.model.store.has(reference) and reference.isdecimal() and 1 <= int(reference) <= len(saved):
            reference = saved[int(reference) - 1].id
        session = self.model.restore(reference, allow_other_weights=allow_other_weights)
        head = session.head
        assert head is not None
        if head.messages is None:
            self.model.store.in_use.discard(head.id)
            raise UserError(f"Session {head.label} holds no conversation to go on with.")
        self._change("load", head.messages)
        self._leave(session)
        self.name, self.last = None, None
        known = {key: head.options[key] for key in ("thinking", "effort") if key in head.options}
        self.settings = replace(self.settings, **known)

    def save(self, name: str | None = None) -> Head:
        """Saves the conversation now, under a name if one is given. Raises `UserError` if that fails."""
        if not self.questions():
            raise UserError("There is nothing to save yet.")
        head = self.session.save(name or self.name, messages=self.messages, options=self._options())
        self.name = None
        return head

    def fork(self, name: str | None = None) -> tuple[Head, Head]:
        """Leaves the conversation saved as it is and goes on with a copy; returns the heads of both."""
        self._check_free(name)
        original = self.save()
        twin = self.session.fork()
        copy = twin.save(name, messages=self.messages, options=self._options())
        self._places.append(_Place("fork", self.messages, original, None))
        self._leave(twin)
        return original, copy

    def saved(self) -> list[Head]:
        """The conversations of this model in the store, the last used first."""
        return [head for head in self.model.store.heads() if head.mark == self.model.mark and head.title]

    @property
    def label(self) -> str:
        """What the session is called."""
        return self.session.head.name or self.session.head.id if self.session.head else self.name or "new"

    @property
    def limit(self) -> int:
        """Most tokens the conversation may have."""
        return min(self.settings.context, self.model.config.max_position_embeddings)

    def _options(self) -> dict[str, Any]:
        return {"thinking": self.settings.thinking, "effort": self.settings.effort}

    def _check_free(self, name: str | None) -> None:
        if name is not None and self.model.store.has(name):
            raise UserError(f"There is another session named {name!r}; choose another name.")

    def _leave(self, session: Session) -> None:
        """Goes on with another session."""
        if self.session.head is not None:
            self.model.store.in_use.discard(self.session.head.id)
        self.session = session
        if session.head is not None:
            self.model.store.in_use.add(session.head.id)

    def _keep(self) -> None:
        """Hands the conversation to the policy: it knows whether to save and what to do if that fails."""
        try:
            self.model.saving.message_ended(self.session, self.messages, name=self.name, **self._options())
        except KeyboardInterrupt:  # meant for the answer; the next one is saved with this
            self.tell("(not saved)")
        if self.session.head is not None:
            self.name = None


def _id(head: Head | None) -> str | None:
    return None if head is None else head.id
