"""`ds4-mlx chat` and `python -m ds4_mlx.chat`: flags, and a conversation over a pipe."""

from pathlib import Path

import pytest
from cli.command import Command

from ds4_mlx.chat.__main__ import main

from support import GOLDEN_CHECKPOINT

FLAGS = ("--no-think", "--seed", "1", "-n", "6")


def test_it_answers_every_line_of_a_pipe(command: Command) -> None:
    result = command.run(main, "--no-think", "--temp", "0", stdin=b"What is 12 + 30?\nWhat is 408 + 226?\n")
    assert result.code == 0
    assert result.out == "12 + 30 = 42\n408 + 226 = 634\n"


def test_it_is_a_command_of_ds4_mlx_too(command: Command) -> None:
    assert "show this" in command("chat", *FLAGS, stdin=b"/help\n").out


def test_an_answer_cut_at_n_tokens_says_so(command: Command) -> None:
    result = command.run(main, *FLAGS, "-m", str(GOLDEN_CHECKPOINT), stdin=b"hello\n")
    assert "cut at -n tokens" in result.err


def test_it_says_which_model_answers_when_none_is_named(command: Command) -> None:
    assert "ds4-tiny" in command.run(main, *FLAGS).err


def test_an_unknown_command_is_not_sent_to_the_model(command: Command) -> None:
    result = command.run(main, *FLAGS, stdin=b"/frobnicate now\n")
    assert "unknown command /frobnicate" in result.err
    assert "decode" not in result.err


def test_a_message_that_does_not_fit_is_told_and_the_next_one_is_read(command: Command) -> None:
    result = command.run(main, *FLAGS, "--ctx", "30", stdin=b"hello\n" + b"long " * 40 + b"\n/quit\n")
    assert "leaves no room" in result.err
    assert result.code == 0


def test_bytes_that_are_no_text_are_told(command: Command) -> None:
    result = command.run(main, *FLAGS, stdin=b"\xff\xfe\n")
    assert "not valid UTF-8" in result.err
    assert result.code == 0


def test_quotes_that_nobody_closed_end_with_the_input(command: Command) -> None:
    assert "decode" in command.run(main, *FLAGS, stdin=b'"""\none\ntwo').err


def test_a_session_is_begun_and_gone_on_with(command: Command, tmp_path: Path) -> None:
    flags = (*FLAGS, "--kv-dir", str(tmp_path))
    command("chat", *flags, "--session", "notes", "--system", "Be brief.", stdin=b"hello\n")
    again = command("chat", *flags, "--session", "notes", stdin=b"/rewind\n")
    assert "(notes): 3 messages" in again.err
    assert "back before: hello" in again.out
    refused = command("chat", *flags, "--session", "notes", "--system", "Be long.")
    assert "has begun already" in refused.err


def test_no_save_leaves_nothing(command: Command, tmp_path: Path) -> None:
    command("chat", *FLAGS, "--kv-dir", str(tmp_path / "kv"), "--no-save", stdin=b"hello\n")
    assert not (tmp_path / "kv").exists()


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--resume", "--session", "x"), "either --resume or --session"),
        (("--session", " "), "--session is empty"),
        (("--resume",), "no saved conversation"),
        (("--effort", "low"), "needs a 0731 model"),
    ],
)
def test_flags_that_cannot_be_used(command: Command, flags: tuple[str, ...], complaint: str) -> None:
    result = command("chat", *flags)
    assert result.code == 2
    assert complaint in result.err
