"""`python -m ds4_mlx.chat`: a plain conversation in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ds4_mlx.commands.sessions_app import KvDir
from ds4_mlx.errors import UserError
from ds4_mlx.terminal import DEFAULT_NOTE, AnswerPrinter, Collected, loading_progress, note, prompt_progress, stats_line

if TYPE_CHECKING:
    from ds4_mlx.engine.language_model import LanguageModel
    from ds4_mlx.engine.session import Session

HELP = """\
/help   show this
/new    forget the conversation and start a new one
/quit   leave (so does Ctrl-D)
Ctrl-C stops an answer; the conversation goes on.
Anything else is sent to the model."""


class Chat:
    """A conversation: the messages so far and the session that holds them."""

    def __init__(
        self,
        model: LanguageModel,
        system: str | None,
        options: dict[str, Any],
        *,
        session: Session | None = None,
        name: str | None = None,
    ) -> None:
        """session: a restored one, whose conversation goes on. name: what a new one is saved under."""
        self._model = model
        self._system = system
        self._options = options
        self._name = name
        self._session = session or model.session()
        self.messages: list[dict[str, Any]] = []
        if self._session.head is None:
            self.new()
        else:
            self.messages = list(self._session.head.messages or [])

    def _save(self) -> None:
        """Hands the conversation to the policy: it knows whether and what to do if that fails."""
        thinking = self._options.get("thinking", True)
        try:
            self._model.saving.message_ended(self._session, self.messages, name=self._name, thinking=thinking)
        except KeyboardInterrupt:  # meant for the answer; the next one is saved with this
            note("(not saved)")
        if self._session.head is not None:
            self._name = None  # what /new begins is another session

    def new(self) -> None:
        """Starts over."""
        self.messages = [] if self._system is None else [{"role": "system", "content": self._system}]
        self._session.reset()

    def say(self, text: str) -> None:
        """Sends a message and prints the answer. What was answered before an interruption stays in the conversation."""
        self.messages.append({"role": "user", "content": text})
        printer, answer, stats = AnswerPrinter(), Collected(), None
        try:
            with prompt_progress() as on_prefill:
                for event in self._model.stream(
                    self.messages, session=self._session, on_prefill=on_prefill, **self._options
                ):
                    stats = event.stats
                    answer.add(event)
                    printer.show(event)
        except KeyboardInterrupt:
            printer.end()
            note("(stopped)")
        except UserError:
            self.messages.pop()  # the message was not taken: too long, say
            raise
        printer.end()
        if stats is None:  # stopped before a word was said
            self.messages.pop()
            return
        self.messages.append(answer.message())
        self._save()
        note(stats_line(stats))


def run(chat: Chat) -> None:
    """Reads lines until /quit or the end of input."""
    interactive = sys.stdin.isatty()
    if interactive:
        import readline  # noqa: F401  # gives input() line editing and history
    while True:
        try:
            line = input("> " if interactive else "").strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            note("\n(/quit or Ctrl-D to leave)")
            continue
        except UnicodeDecodeError:
            note("(that was not valid UTF-8)")
            continue
        word = line.lower()
        if word in ("/quit", "/exit"):
            return
        if word == "/help":
            print(HELP)
        elif word == "/new":
            chat.new()
            note("(new conversation)")
        elif line.startswith("/"):
            note(f"(unknown command {line.split()[0]}; /help lists them)")
        elif line:
            try:
                chat.say(line)
            except UserError as error:
                note(f"({error})")


def chat(
    model: Annotated[
        str | None, typer.Option("-m", "--model", help="Model folder or hub repository; ds4-tiny by default.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    think: Annotated[bool, typer.Option("--think/--no-think", help="Reason before answering.")] = True,
    temp: Annotated[float, typer.Option(min=0, max=100, help="Temperature; 0 is greedy.")] = 1.0,
    seed: Annotated[int | None, typer.Option(min=0, help="Same seed, same answers; random by default.")] = None,
    max_tokens: Annotated[int, typer.Option("-n", "--max-tokens", min=1, help="Longest answer, in tokens.")] = 4096,
    ctx: Annotated[int, typer.Option(min=2, help="Context: the whole conversation, in tokens.")] = 32768,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the last conversation.")] = False,
    session: Annotated[
        str | None, typer.Option(metavar="NAME", help="Go on with the one of this name or id, or begin it.")
    ] = None,
    save: Annotated[bool, typer.Option("--save/--no-save", help="Save the conversation after every answer.")] = True,
    kv_dir: KvDir = None,
) -> None:
    """Chat with a model. /help inside lists the commands."""
    from ds4_mlx.engine.language_model import open_model
    from ds4_mlx.engine.sampling import SamplingOptions

    SamplingOptions(temperature=temp, seed=seed)  # refused before the model is read
    if resume and session is not None:
        raise UserError("Give either --resume or --session, not both.")
    loaded = open_model(model, kv_dir=kv_dir)
    loaded.store.warn = loaded.saving.tell = note
    loaded.saving.which = "all" if save else "none"
    earlier = _earlier(loaded, resume, session)
    if earlier is not None and system is not None:
        raise UserError("The conversation has begun already; leave --system away.")
    with loading_progress() as on_load:
        loaded.fill(on_load)
    options = {"thinking": think, "temperature": temp, "seed": seed, "max_tokens": max_tokens, "context": ctx}
    if model is None:
        note(DEFAULT_NOTE)
    note("/help lists the commands.")
    conversation = Chat(loaded, system, options, session=earlier, name=None if earlier else session)
    if earlier is not None and earlier.head is not None:
        note(f"(session {earlier.head.label}: {len(conversation.messages)} messages, {earlier.position:,} tokens)")
    run(conversation)


def _earlier(model: LanguageModel, resume: bool, name: str | None) -> Session | None:
    """The session to go on with: the one named, if it exists, or the last one of this model that has messages."""
    if name is not None:
        if not name.strip():
            raise UserError("--session is empty; give the conversation a name.")
        return model.restore(name) if model.store.has(name) else None
    if not resume:
        return None
    fitting = [head for head in model.store.heads() if head.mark == model.mark and head.title]
    if not fitting:
        raise UserError(f"There is no saved conversation with this model in {model.store.directory}.")
    return model.restore(fitting[0].id)


def main() -> None:
    """Entry point of `python -m ds4_mlx.chat`."""
    from ds4_mlx.cli import run_app

    names = {"help_option_names": ["-h", "--help"]}
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False, context_settings=names)
    app.command()(chat)
    run_app(app)


if __name__ == "__main__":
    main()
