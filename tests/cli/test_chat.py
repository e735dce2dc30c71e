"""`python -m ds4_mlx.chat`: a conversation over a pipe, and its commands."""

import pytest
from cli.command import Command

from ds4_mlx import chat
from ds4_mlx.engine.language_model import LanguageModel

from support import GOLDEN_CHECKPOINT, ModelIn

FLAGS = ("--no-think", "--seed", "1", "-n", "6")


@pytest.fixture
def model(model_in: ModelIn) -> LanguageModel:
    return model_in("bf16")


def talk(model: LanguageModel, **options: object) -> chat.Chat:
    return chat.Chat(model, None, {"thinking": False, "seed": 1, "max_tokens": 6, "temperature": 1.0, **options})


def test_it_answers_every_line_of_a_pipe(command: Command) -> None:
    result = command.run(chat.main, "--no-think", "--temp", "0", stdin=b"What is 12 + 30?\nWhat is 408 + 226?\n")
    assert result.code == 0
    assert result.out == "12 + 30 = 42\n408 + 226 = 634\n"


def test_an_answer_cut_at_n_tokens_says_so(command: Command) -> None:
    result = command.run(chat.main, *FLAGS, "-m", str(GOLDEN_CHECKPOINT), stdin=b"hello\n")
    assert "cut at -n tokens" in result.err


def test_it_says_which_model_answers_when_none_is_named(command: Command) -> None:
    assert "ds4-tiny" in command.run(chat.main, *FLAGS).err


def test_help_and_quit(command: Command) -> None:
    result = command.run(chat.main, *FLAGS, stdin=b"/help\n/quit\nnever sent\n")
    assert "/new" in result.out
    assert "decode" not in result.err


def test_an_unknown_command_is_not_sent_to_the_model(command: Command) -> None:
    result = command.run(chat.main, *FLAGS, stdin=b"/frobnicate now\n")
    assert "unknown command /frobnicate" in result.err
    assert "decode" not in result.err


def test_a_second_turn_reads_only_what_is_new(model: LanguageModel, capfd: pytest.CaptureFixture[str]) -> None:
    conversation = talk(model)
    conversation.say("hello")
    assert [m["role"] for m in conversation.messages] == ["user", "assistant"]
    conversation.say("again")
    assert [m["role"] for m in conversation.messages] == ["user", "assistant"] * 2
    capfd.readouterr()


def test_new_forgets_everything_but_the_system_message(model: LanguageModel, capfd: pytest.CaptureFixture[str]) -> None:
    conversation = chat.Chat(model, "Be brief.", {"thinking": False, "seed": 1, "max_tokens": 2})
    conversation.say("hello")
    conversation.new()
    assert conversation.messages == [{"role": "system", "content": "Be brief."}]
    assert conversation._session.position == 0
    capfd.readouterr()


def test_ctrl_c_stops_the_answer_and_keeps_the_conversation(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    conversation = talk(model, max_tokens=50)
    shown = []

    def show(self: object, event: object) -> None:
        shown.append(event)
        if len(shown) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(chat.AnswerPrinter, "show", show)
    conversation.say("hello")
    assert "(stopped)" in capfd.readouterr().err
    assert conversation.messages[-1]["content"] == "".join(event.text for event in shown)
    conversation.say("go on")
    assert len(conversation.messages) == 4


def test_a_message_that_does_not_fit_is_given_back(command: Command) -> None:
    result = command.run(chat.main, *FLAGS, "--ctx", "30", stdin=b"hello\n" + b"long " * 40 + b"\nshort\n")
    assert "leaves no room" in result.err
    assert result.code == 0


def test_ctrl_c_while_the_prompt_is_read_takes_the_message_back(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    conversation = talk(model)
    monkeypatch.setattr("ds4_mlx.engine.language_model.Session.feed", interrupt)
    conversation.say("a long paste")
    assert conversation.messages == []
    capfd.readouterr()


def test_a_thinking_conversation_is_not_read_again_from_the_start(
    model: LanguageModel, capfd: pytest.CaptureFixture[str]
) -> None:
    conversation = talk(model, thinking=True)
    conversation.say("hello")
    conversation.say("again")
    assert " cached)" in capfd.readouterr().err
