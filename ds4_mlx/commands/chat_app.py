"""The flags and help of `ds4-mlx chat`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ds4_mlx.commands.options import Effort, KvDir, Model
from ds4_mlx.errors import UserError

if TYPE_CHECKING:
    from ds4_mlx.chat.conversation import Conversation
    from ds4_mlx.chat.loop import Loop

_SAMPLING, _SESSION = "Sampling", "Session"
HELP = (
    "Chat with a model. /help inside lists the commands.\n\n"
    "On a terminal: several lines, @FILE, Markdown, folded reasoning. In a pipe every line is a message, and so are "
    'the lines between """ and """; answers go to standard output.'
)


def chat(
    model: Model = None,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    think: Annotated[
        bool | None,
        typer.Option("--think/--no-think", help="Reason before answering; yes, unless the session says no."),
    ] = None,
    effort: Annotated[Effort | None, typer.Option(help="How hard to reason; low is for 0731 models only.")] = None,
    temp: Annotated[
        float, typer.Option(min=0, max=100, help="Temperature; 0 is greedy.", rich_help_panel=_SAMPLING)
    ] = 1.0,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Same seed, same answers; random by default.", rich_help_panel=_SAMPLING)
    ] = None,
    max_tokens: Annotated[int, typer.Option("-n", "--max-tokens", min=1, help="Longest answer, in tokens.")] = 4096,
    ctx: Annotated[int, typer.Option(min=2, help="Context: the whole conversation, in tokens.")] = 32768,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the last conversation.", rich_help_panel=_SESSION)
    ] = False,
    session: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Go on with the one of this name or id, or begin it.", rich_help_panel=_SESSION
        ),
    ] = None,
    save: Annotated[
        bool,
        typer.Option(
            "--save/--no-save",
            help="Save the conversation after every answer, and keep what was typed as history.",
            rich_help_panel=_SESSION,
        ),
    ] = True,
    kv_dir: KvDir = None,
) -> None:
    """`ds4-mlx chat`."""
    from ds4_mlx.chat.conversation import Conversation, Settings
    from ds4_mlx.engine.language_model import open_model
    from ds4_mlx.engine.sampling import SamplingOptions
    from ds4_mlx.terminal import DEFAULT_NOTE, loading_progress, note

    SamplingOptions(temperature=temp, seed=seed)  # refused before the model is read
    if resume and session is not None:
        raise UserError("Give either --resume or --session, not both.")
    if session is not None and not session.strip():
        raise UserError("--session is empty; give the conversation a name.")
    loaded = open_model(model, kv_dir=kv_dir)
    if effort is Effort.LOW and loaded.prompt_profile == "april":
        raise UserError("--effort low needs a 0731 model; this one knows high and max.")
    loaded.store.warn = loaded.saving.tell = note
    loaded.saving.which = "all" if save else "none"
    settings = Settings(temperature=temp, seed=seed, max_tokens=max_tokens, context=ctx)
    conversation = Conversation(loaded, settings, tell=note, name=session)
    earlier = _earlier(conversation, resume, session)
    if earlier is not None:
        if system is not None:
            raise UserError("The conversation has begun already; leave --system away, or use /system inside.")
        conversation.load(earlier)
    if think is not None:
        conversation.settings.thinking = think
    if effort is not None:
        conversation.settings.effort = effort.value
    if system is not None:
        conversation.messages = [{"role": "system", "content": system}]
    with loading_progress() as on_load:
        loaded.fill(on_load)
    if model is None:
        note(DEFAULT_NOTE)
    note("/help lists the commands.")
    loop = _loop(conversation, save)
    if earlier is not None:
        loop.welcome_back()
    loop.run()
    if conversation.session.head is not None:
        note(f"(saved as {conversation.label}; ds4-mlx chat --session {conversation.label} goes on with it)")


def _earlier(conversation: Conversation, resume: bool, name: str | None) -> str | None:
    """The session to go on with: the one named, if it exists, or the last one of this model that has messages."""
    if name is not None:
        return name if conversation.model.store.has(name) else None
    if not resume:
        return None
    saved = conversation.saved()
    if not saved:
        raise UserError(f"There is no saved conversation with this model in {conversation.model.store.directory}.")
    return saved[0].id


def _loop(conversation: Conversation, keep_history: bool) -> Loop:
    """With the face that fits where it runs."""
    from ds4_mlx.chat.loop import Loop
    from ds4_mlx.chat.plain import PlainInput, PlainScreen, can_move_cursor

    if not can_move_cursor():
        return Loop(conversation, PlainInput(), PlainScreen())
    from ds4_mlx.chat.prompt import PromptInput, history_file
    from ds4_mlx.chat.screen import TerminalScreen

    screen = TerminalScreen()
    history = history_file() if keep_history else None
    return Loop(
        conversation, PromptInput(conversation, lambda: screen.reasoning(conversation), history=history), screen
    )
