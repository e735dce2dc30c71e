"""Lines in, answers and remarks out: commands, and that nothing typed is lost."""

import json
from pathlib import Path

import pytest

from ds4_mlx.chat.commands import COMMANDS, is_command
from ds4_mlx.chat.conversation import Conversation
from ds4_mlx.chat.loop import Loop

from chat.talk import Screen, Script, conversation, said
from support import ModelIn


@pytest.fixture
def talk(model_in: ModelIn, tmp_path: Path) -> Conversation:
    return conversation(model_in("bf16"), tmp_path / "kv")


def hold(talk: Conversation, *lines: str | type[BaseException], screen: Screen | None = None) -> tuple[Screen, Script]:
    screen, script = screen or Screen(), Script(*lines)
    Loop(talk, script, screen).run()
    return screen, script


def test_help_names_every_command_within_80_columns(talk: Conversation) -> None:
    (text,) = hold(talk, "/help")[0].replies
    assert all(name in text for name in COMMANDS)
    assert max(map(len, text.splitlines())) <= 80


def test_the_commands() -> None:
    wanted = (
        "help new sessions load save fork rewind undo retry edit system think nothink effort temp ctx read copy export "
        "stats quit"
    )
    assert set(COMMANDS) == {f"/{name}" for name in wanted.split()}


def test_quit_leaves(talk: Conversation) -> None:
    hold(talk, "/quit", "never sent")
    assert talk.messages == []


def test_an_unknown_command_is_handed_back(talk: Conversation) -> None:
    screen, script = hold(talk, "/frobnicate now")
    assert "unknown command /frobnicate" in screen.notes[0]
    assert script.drafts[1] == ("/frobnicate now", False)
    assert talk.messages == []


@pytest.mark.parametrize(
    ("line", "command"), [("/help", True), ("/HELP me", True), ("/usr/bin is", False), (" /help", False)]
)
def test_what_is_a_command(line: str, command: bool) -> None:
    assert is_command(line) == command


def test_a_message_that_does_not_fit_is_handed_back(talk: Conversation) -> None:
    talk.settings.context = 30
    screen, script = hold(talk, "long " * 40)
    assert "leaves no room" in screen.notes[0]
    assert script.drafts[1] == ("long " * 40, False)


def test_a_failing_device_does_not_end_the_conversation(talk: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("ds4_mlx.engine.language_model.Session.feed", fail)
    screen, script = hold(talk, "hello")
    assert "out of memory" in screen.notes[0]
    assert script.drafts[1] == ("hello", False)


def test_ctrl_c_while_the_prompt_is_read_hands_the_message_back(
    talk: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ds4_mlx.engine.language_model.Session.feed", interrupt)
    _, script = hold(talk, "hello")
    assert script.drafts[1] == ("hello", False)


def test_ctrl_c_in_an_answer_keeps_what_there_is(talk: Conversation) -> None:
    _, script = hold(talk, "hello", screen=Screen(interrupt_after=1))
    assert said(talk) == ["hello"]
    assert script.drafts[1] == ("", False)


def test_edit_puts_the_last_message_on_the_line_and_replaces_it(talk: Conversation) -> None:
    _, script = hold(talk, "one", "/edit", "two")
    assert script.drafts[2] == ("one", True)
    assert said(talk) == ["two"]


def test_an_edit_given_up_changes_nothing(talk: Conversation) -> None:
    hold(talk, "one", "/edit", KeyboardInterrupt, "two")
    assert said(talk) == ["one", "two"]


def test_an_edit_with_its_text_needs_no_second_line(talk: Conversation) -> None:
    hold(talk, "one", "/edit two words")
    assert said(talk) == ["two words"]


def test_retry_without_a_message_says_so(talk: Conversation) -> None:
    assert "no message yet" in hold(talk, "/retry")[0].notes[0]


def test_rewind_and_undo_say_where_they_are(talk: Conversation) -> None:
    screen, _ = hold(talk, "one", "two", "/rewind", "/undo")
    assert "back before: two" in screen.replies[0]
    assert "undone: /rewind; the last message is: two" in screen.replies[1]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("/rewind x", "'x' is no whole number"),
        ("/temp hot", "'hot' is no number"),
        ("/temp 1000", "temperature is 1000"),
        ("/ctx 1", "takes from 2 to"),
        ("/effort low", "'low' is no effort of this model"),
        ("/load nothing", "no session 'nothing'"),
        ("/load", "Name a conversation"),
        ("/think loud", "/think takes show"),
        ("/read", "Name a file"),
        ("/read /nowhere", "/nowhere cannot be read"),
        ("/copy", "no answer yet"),
        ("/export x.md", "nothing to export"),
        ("/save", "nothing to save"),
    ],
)
def test_what_cannot_be_done_is_said_and_handed_back(talk: Conversation, line: str, complaint: str) -> None:
    screen, script = hold(talk, line)
    assert complaint in screen.notes[0]
    assert script.drafts[1] == (line, False)


def test_settings_are_set_and_told(talk: Conversation) -> None:
    screen, _ = hold(talk, "/temp 0.5", "/ctx 4k", "/effort max", "/think show", "/temp", "/ctx", "/effort")
    settings = talk.settings
    assert (settings.temperature, settings.context, settings.effort) == (0.5, 4096, "max")
    assert (settings.thinking, settings.folded) == (True, False)
    assert screen.replies[4:] == ["temperature: 0.5", "context: 0 of 4,096 tokens", "effort: max (of none, high, max)"]
    hold(talk, "/nothink", "/effort none")
    assert talk.settings.effort is None


def test_the_context_is_never_longer_than_the_model_takes(talk: Conversation) -> None:
    talk.settings.context = 1 << 40
    assert talk.limit == talk.model.config.max_position_embeddings


def test_system_shows_sets_and_removes(talk: Conversation) -> None:
    screen, _ = hold(talk, "/system", "/system Be brief.", "/system", "/system -")
    assert screen.replies[0] == "there is no system message"
    assert screen.replies[2] == "Be brief."
    assert talk.messages == []


def test_sessions_are_listed_loaded_and_shown(talk: Conversation) -> None:
    screen, _ = hold(talk, "first words", "/save mine", "/new", "/sessions", "/load mine")
    assert screen.replies[0].startswith("saved as ")
    assert "mine" in screen.replies[2]
    assert "first words" in screen.replies[2]
    assert "2 messages" in screen.replies[3]
    assert [m["role"] for m in screen.pasts] == ["user", "assistant"]


def test_stats_fit_80_columns(talk: Conversation) -> None:
    screen, _ = hold(talk, "hello", "/stats")
    assert "1 answers" in screen.replies[0]
    assert max(map(len, screen.replies[0].splitlines())) <= 80


def test_copy_takes_the_last_answer_and_says_if_it_cannot(talk: Conversation) -> None:
    screen, _ = hold(talk, "hello", "/copy")
    assert screen.copied == [talk.messages[-1]["content"]]
    assert screen.notes == ["(there is no clipboard here)"]


def test_export_writes_json_that_can_be_sent_again(talk: Conversation, tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    hold(talk, "hello", f"/export {path}")
    assert json.loads(path.read_text())["messages"] == talk.messages


def test_export_writes_markdown_with_the_reasoning_folded(talk: Conversation, tmp_path: Path) -> None:
    path = tmp_path / "talk.md"
    talk.messages = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Hi.", "reasoning_content": "A greeting."},
    ]
    hold(talk, f"/export {path}")
    assert path.read_text() == (
        "## You\n\nhello\n\n## Answer\n\n<details><summary>Reasoning</summary>\n\nA greeting.\n\n</details>\n\nHi.\n"
    )


def test_export_never_overwrites(talk: Conversation, tmp_path: Path) -> None:
    path = tmp_path / "talk.md"
    path.write_text("mine")
    screen, _ = hold(talk, "hello", f"/export {path}")
    assert "exists already" in screen.notes[0]
    assert path.read_text() == "mine"


def test_read_sends_a_file_and_edit_brings_the_command_back(talk: Conversation, tmp_path: Path) -> None:
    path = tmp_path / "question.txt"
    path.write_text("what is it?\n")
    _, script = hold(talk, f"/read {path}", "/edit", KeyboardInterrupt)
    assert said(talk) == ["what is it?\n"]
    assert script.drafts[2] == (f"/read {path}", True)


def test_a_mentioned_file_is_attached_and_named(talk: Conversation, tmp_path: Path) -> None:
    path = tmp_path / "notes.py"
    path.write_text("x = 1")
    screen, script = hold(talk, f"Explain @{path}.", "/edit", KeyboardInterrupt)
    assert said(talk) == [f"Explain @{path}.\n\n{path}:\n```py\nx = 1\n```"]
    assert str(path) in screen.notes[0]
    assert script.drafts[2] == (f"Explain @{path}.", True)


def test_a_file_that_is_no_text_hands_the_message_back(talk: Conversation, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(b"\x89PNG")
    screen, script = hold(talk, f"Look @{path}")
    assert "is no text" in screen.notes[1]
    assert script.drafts[1] == (f"Look @{path}", False)


def test_ctrl_c_on_an_empty_line_says_how_to_leave(talk: Conversation) -> None:
    assert "Ctrl-D" in hold(talk, KeyboardInterrupt)[0].notes[0]


def test_an_error_of_ours_is_not_swallowed(talk: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object) -> bool:
        raise TypeError("a defect")

    monkeypatch.setattr(Conversation, "say", wrong)
    with pytest.raises(TypeError, match="a defect"):
        hold(talk, "hello")
