"""The lines that begin with a slash. Each command does its work on the conversation and says what is left to the loop.

Knows nothing of terminals: a reply is text, and what to ask, show or copy next.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ds4_mlx.chat import transcript
from ds4_mlx.chat.conversation import Conversation
from ds4_mlx.chat.files import read_message
from ds4_mlx.commands.sessions import age, size
from ds4_mlx.engine.sampling import SamplingOptions
from ds4_mlx.errors import UserError


@dataclass(frozen=True)
class Reply:
    """What the loop does after a command: shows `text` and the messages `past`, then asks, edits, copies or leaves."""

    text: str = ""
    past: tuple[dict[str, Any], ...] = ()
    ask: Literal["say", "retry", "replace"] | None = None
    message: dict[str, Any] | None = None  # what to ask, for say and replace
    draft: str | None = None  # put into the input line; what comes of it replaces the last message
    copy: str | None = None
    leave: bool = False


@dataclass(frozen=True)
class Command:
    """One command. arguments and help are what /help shows; the function gets what follows the command's name."""

    arguments: str
    help: str
    run: Callable[[Conversation, str], Reply]


_NAME = re.compile(r"/[A-Za-z]+(?=\s|$)")
_COUNT = re.compile(r"(\d+)([km]?)", re.IGNORECASE)


def is_command(line: str) -> bool:
    """Whether a line is meant as a command: a slash and a word. A path such as /usr/bin is not."""
    return _NAME.match(line) is not None


def run(conversation: Conversation, line: str) -> Reply:
    """Runs a command line. Raises `UserError` for an unknown command or one that cannot be done."""
    name, _, argument = line.partition(" ") if " " in line.splitlines()[0] else line.partition("\n")
    name = {"/exit": "/quit"}.get(name.lower(), name.lower())
    if name not in COMMANDS:
        raise UserError(f"unknown command {name}; /help lists them, a space before it sends it as it is")
    return COMMANDS[name].run(conversation, argument.strip())


def _help(conversation: Conversation, argument: str) -> Reply:
    left = {name: f"{name} {command.arguments}".rstrip() for name, command in COMMANDS.items()}
    width = max(map(len, left.values())) + 2
    lines = [f"{left[name]:{width}}{command.help}" for name, command in COMMANDS.items()]
    return Reply("\n".join([*lines, "", *KEYS]))


KEYS = (
    "@FILE in a message attaches a file. Alt-Enter begins a new line; so does Enter",
    'between """ and """. Ctrl-C stops an answer, Ctrl-T shows what was thought,',
    "Ctrl-X Ctrl-E opens your editor, Ctrl-D leaves.",
)


def _new(conversation: Conversation, argument: str) -> Reply:
    left = conversation.session.head
    conversation.begin(argument or None)
    kept = f"; the last one is kept as {left.label}" if left else ""
    return Reply(f"new conversation{kept}")


def _sessions(conversation: Conversation, argument: str) -> Reply:
    saved = conversation.saved()
    if not saved:
        return Reply(f"no saved conversations with this model in {conversation.model.store.directory}")
    here = conversation.session.head
    lines = []
    for number, head in enumerate(saved, 1):
        mark = "*" if here is not None and head.id == here.id else " "
        name = head.name or head.id
        lines.append(
            f"{mark}{number:>3}  {name[:20]:20}{head.tokens:>9,} tokens {age(head.used):>7}  {head.title[:32]}"
        )
    return Reply("\n".join([*lines, "/load NUMBER or NAME goes on with one"]))


def _load(conversation: Conversation, argument: str) -> Reply:
    if not argument:
        raise UserError("Name a conversation: /load NAME, or a number as /sessions shows them.")
    conversation.load(argument)
    return welcome_back(conversation)


def welcome_back(conversation: Conversation) -> Reply:
    """Which conversation goes on, and its last exchange."""
    head, asked = conversation.session.head, conversation.questions()
    assert head is not None
    past = tuple(conversation.messages[asked[-1] :]) if asked else ()
    count = len(conversation.messages)
    return Reply(f"session {head.label}: {count} messages, {conversation.session.position:,} tokens", past)


def _save(conversation: Conversation, argument: str) -> Reply:
    head = conversation.save(argument or None)
    return Reply(f"saved as {head.label}, {size(head.nbytes)}")


def _fork(conversation: Conversation, argument: str) -> Reply:
    original, copy = conversation.fork(argument or None)
    return Reply(f"{original.label} stays as it is; this is {copy.label}")


def _rewind(conversation: Conversation, argument: str) -> Reply:
    gone = conversation.rewind(_number(argument or "1", "/rewind"))
    return Reply(f"back before: {_beginning(gone[0])}\n/undo brings it back")


def _undo(conversation: Conversation, argument: str) -> Reply:
    done = conversation.undo()
    names = {"message": "the last message and its answer", "retry": "the last answer", "edit": "the last edit"}
    asked = conversation.questions()
    now = (
        f"; the last message is: {_beginning(conversation.messages[asked[-1]])}" if asked else "; no messages are left"
    )
    return Reply(f"undone: {names.get(done, '/' + done)}{now}")


def _retry(conversation: Conversation, argument: str) -> Reply:
    conversation.last_question()
    return Reply(ask="retry")


def _edit(conversation: Conversation, argument: str) -> Reply:
    last = conversation.last_question()
    if argument:
        from ds4_mlx.chat.files import user_message

        return Reply(ask="replace", message=user_message(argument))
    return Reply(draft=last.get("typed") or str(last["content"]))


def _system(conversation: Conversation, argument: str) -> Reply:
    if not argument:
        text = conversation.system_text
        return Reply("there is no system message" if text is None else text)
    if argument == "-":
        conversation.system(None)
        return Reply("system message removed")
    conversation.system(argument)
    return Reply("system message set; the conversation is read again with the next message")


def _think(conversation: Conversation, argument: str) -> Reply:
    if argument not in ("", "show", "fold"):
        raise UserError("/think takes show (reasoning stays on the screen) or fold (it goes when the answer begins).")
    folded = conversation.settings.folded if not argument else argument == "fold"
    conversation.settings = replace(conversation.settings, thinking=True, folded=folded)
    return Reply("reasons before it answers" + ("" if folded else ", and shows it"))


def _nothink(conversation: Conversation, argument: str) -> Reply:
    conversation.settings = replace(conversation.settings, thinking=False)
    return Reply("answers without reasoning")


def _effort(conversation: Conversation, argument: str) -> Reply:
    levels = efforts(conversation)
    if not argument:
        return Reply(f"effort: {conversation.settings.effort or 'none'} (of {', '.join(levels)})")
    if argument not in levels:
        raise UserError(f"{argument!r} is no effort of this model; expected one of {', '.join(levels)}.")
    conversation.settings = replace(
        conversation.settings, thinking=True, effort=None if argument == "none" else argument
    )
    return Reply(f"effort: {argument}")


def efforts(conversation: Conversation) -> tuple[str, ...]:
    """The levels that the model's prompts know."""
    low = ("low",) if conversation.model.prompt_profile == "0731" else ()
    return ("none", *low, "high", "max")


def _temp(conversation: Conversation, argument: str) -> Reply:
    if not argument:
        return Reply(f"temperature: {conversation.settings.temperature:g}")
    try:
        temperature = float(argument)
    except ValueError:
        raise UserError(f"{argument!r} is no number; /temp 0.7, say, or /temp 0 for the likeliest tokens.") from None
    SamplingOptions(temperature=temperature)
    conversation.settings = replace(conversation.settings, temperature=temperature)
    return Reply(f"temperature: {temperature:g}")


def _ctx(conversation: Conversation, argument: str) -> Reply:
    if not argument:
        return Reply(f"context: {conversation.session.position:,} of {conversation.limit:,} tokens")
    tokens, most = _number(argument, "/ctx"), conversation.model.config.max_position_embeddings
    if not 2 <= tokens <= most:
        raise UserError(f"The context is {tokens:,}; this model takes from 2 to {most:,} tokens.")
    conversation.settings = replace(conversation.settings, context=tokens)
    return Reply(f"context: {conversation.limit:,} tokens")


def _read(conversation: Conversation, argument: str) -> Reply:
    return Reply(ask="say", message=read_message(argument, f"/read {argument}"))


def _copy(conversation: Conversation, argument: str) -> Reply:
    return Reply(copy=str(conversation.last_answer()["content"]))


def _export(conversation: Conversation, argument: str) -> Reply:
    path = Path(argument.strip('"')).expanduser()
    transcript.write(conversation, path)
    return Reply(f"written: {path}, {len(conversation.messages)} messages")


def _stats(conversation: Conversation, argument: str) -> Reply:
    totals, session, model = conversation.totals, conversation.session, conversation.model
    lines = [
        f"model    {model.checkpoint.path.name}, {model.checkpoint.profile}, {size(model.checkpoint.memory_bytes())}",
        f"session  {conversation.label}: {session.position:,} of {conversation.limit:,} tokens, "
        f"{size(session.nbytes)} in memory",
        f"so far   {totals.answers} answers: {totals.read:,} tokens read, {totals.cached:,} cached, "
        f"{totals.generated:,} written in {totals.seconds:.1f} s",
    ]
    if (last := conversation.last) is not None:
        lines += [
            f"last     read {last.prompt_tokens - last.cached_tokens:,} tokens (+{last.cached_tokens:,} cached) at "
            f"{last.prefill_tps:.1f} t/s,",
            f"         wrote {last.generated_tokens:,} at {last.decode_tps:.1f} t/s; "
            f"peak memory {size(last.peak_memory_bytes)}; seed {last.seed}",
        ]
    return Reply("\n".join(lines))


def _quit(conversation: Conversation, argument: str) -> Reply:
    return Reply(leave=True)


COMMANDS = {
    "/help": Command("", "show this", _help),
    "/new": Command("[NAME]", "begin a new conversation", _new),
    "/sessions": Command("", "list the saved conversations", _sessions),
    "/load": Command("NAME", "go on with one of them", _load),
    "/save": Command("[NAME]", "save now, and give a name", _save),
    "/fork": Command("[NAME]", "go on with a copy; this one stays as it is", _fork),
    "/rewind": Command("[N]", "take the last N questions and answers back", _rewind),
    "/undo": Command("", "undo the last message, /rewind, /edit, /retry, /new, ...", _undo),
    "/retry": Command("", "another answer to the last message", _retry),
    "/edit": Command("[TEXT]", "change the last message and ask again", _edit),
    "/system": Command("[TEXT]", "show or set the system message; - removes it", _system),
    "/think": Command("[show|fold]", "reason first; whether that stays on the screen", _think),
    "/nothink": Command("", "answer at once", _nothink),
    "/effort": Command("[LEVEL]", "how hard to reason", _effort),
    "/temp": Command("[X]", "temperature; 0 takes the likeliest tokens", _temp),
    "/ctx": Command("[TOKENS]", "longest conversation: 8192, 64k, 1m", _ctx),
    "/read": Command("FILE [TEXT]", "send a file, after a text if there is one", _read),
    "/copy": Command("", "copy the last answer to the clipboard", _copy),
    "/export": Command("FILE", "write the conversation: FILE.md or FILE.json", _export),
    "/stats": Command("", "tokens, speeds, memory", _stats),
    "/quit": Command("", "leave; so does Ctrl-D", _quit),
}


def _number(text: str, command: str) -> int:
    match = _COUNT.fullmatch(text)
    if match is None:
        raise UserError(f"{text!r} is no whole number; {command} takes one.")
    return int(match[1]) * {"": 1, "k": 1 << 10, "m": 1 << 20}[match[2].lower()]


def _beginning(message: dict[str, Any]) -> str:
    words = " ".join(str(message.get("typed") or message["content"]).split())
    return words if len(words) <= 50 else words[:49] + "…"
