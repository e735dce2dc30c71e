"""The input line: real prompt_toolkit sessions fed with keys."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from ds4_mlx.chat.conversation import Conversation
from ds4_mlx.chat.prompt import ChatCompleter, PromptInput, status_line

from chat.talk import conversation, say
from support import ModelIn


@pytest.fixture
def talk(model_in: ModelIn, tmp_path: Path) -> Conversation:
    return conversation(model_in("bf16"), tmp_path / "kv")


@pytest.fixture
def keys() -> Iterator[PipeInput]:
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        yield pipe


def line(talk: Conversation, history: Path | None = None) -> PromptInput:
    return PromptInput(talk, lambda: None, history=history)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("hello\r", "hello"),
        ("one\x1b\rtwo\r", "one\ntwo"),
        ('"""one\rtwo"""\r', "one\ntwo"),
        ('"""\r/help\r"""\r', " /help"),
        ("\x1b[200~a\nb\n\x1b[201~ c\r", "a\nb\n c"),
    ],
    ids=["enter", "alt-enter", "quotes", "quoted-command", "paste"],
)
def test_what_keys_make(talk: Conversation, keys: PipeInput, typed: str, expected: str) -> None:
    keys.send_text(typed)
    assert line(talk).read("", False) == expected


def test_a_draft_is_on_the_line(talk: Conversation, keys: PipeInput) -> None:
    keys.send_text(" more\r")
    assert line(talk).read("draft", False) == "draft more"


def test_ctrl_c_gives_a_draft_up(talk: Conversation, keys: PipeInput) -> None:
    keys.send_text("\x03")
    with pytest.raises(KeyboardInterrupt):
        line(talk).read("draft", True)


def test_ctrl_c_on_an_empty_line_and_ctrl_d(talk: Conversation, keys: PipeInput) -> None:
    prompt = line(talk)
    keys.send_text("\x03")
    with pytest.raises(KeyboardInterrupt):
        prompt.read("", False)
    keys.send_text("\x04")
    with pytest.raises(EOFError):
        prompt.read("", False)


def test_history_outlives_the_program_and_is_private(talk: Conversation, keys: PipeInput, tmp_path: Path) -> None:
    path = tmp_path / "state" / "chat_history"
    keys.send_text("precious\r")
    line(talk, path).read("", False)
    assert path.stat().st_mode & 0o077 == 0
    keys.send_text("\x1b[A\r")
    assert line(talk, path).read("", False) == "precious"


def test_a_history_that_cannot_be_written_is_told_once(talk: Conversation, keys: PipeInput, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told: list[str] = []
    talk.tell = told.append
    prompt = line(talk, tmp_path / "file" / "history")
    for text in ("one", "two"):
        keys.send_text(f"{text}\r")
        assert prompt.read("", False) == text
    assert len(told) == 1
    assert "cannot be used" in told[0]


def completions(talk: Conversation, text: str) -> list[str]:
    found = ChatCompleter(talk).get_completions(Document(text), CompleteEvent())
    return [text[: len(text) + one.start_position] + one.text for one in found]


def test_commands_and_their_arguments_are_completed(talk: Conversation) -> None:
    say(talk, "one")
    talk.save("mine")
    assert completions(talk, "/re") == ["/rewind", "/retry", "/read"]
    assert completions(talk, "/load m") == ["/load mine"]
    assert completions(talk, "/effort h") == ["/effort high"]
    assert completions(talk, "/think s") == ["/think show"]
    assert completions(talk, "a plain /re") == []


def test_paths_are_completed_behind_an_at_sign(talk: Conversation, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "a b.txt").touch()
    assert f"see @{tmp_path}/folder/" in completions(talk, f"see @{tmp_path}/fol")
    assert completions(talk, f"see @{tmp_path}/a") == [f'see @"{tmp_path}/a b.txt"']
    assert completions(talk, f"/read {tmp_path}/a") == [f'/read "{tmp_path}/a b.txt"']


def test_the_status_line_drops_what_has_no_room(talk: Conversation) -> None:
    say(talk, "one")
    name = talk.model.checkpoint.path.name
    whole = status_line(talk, 200)
    assert whole.startswith(f"{name} exact · {talk.session.position:,}/32,768 tokens · 0 cached · ")
    assert whole.endswith(f"no thinking · {talk.label}")
    assert len(status_line(talk, 40)) <= 40
