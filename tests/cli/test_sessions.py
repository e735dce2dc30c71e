"""`ds4-mlx sessions`, `generate --session` and `chat --resume`."""

import json
from pathlib import Path

import pytest
from cli.command import Command

from ds4_mlx.chat.__main__ import main as chat

from support import GOLDEN_CHECKPOINT

FLAGS = ("--no-think", "--temp", "0", "-n", "16")


@pytest.fixture
def kv(tmp_path: Path) -> tuple[str, str]:
    return "--kv-dir", str(tmp_path / "kv")


def test_a_named_session_is_begun_and_continued(command: Command, kv: tuple[str, str]) -> None:
    first = command("generate", *FLAGS, *kv, "--session", "bob", "-p", "My name is Bob.")
    second = command("generate", *FLAGS, *kv, "--session", "bob", "-p", "What is 12 + 30?", "--stats")
    assert (first.code, second.code) == (0, 0)
    assert " cached)" in second.err
    shown = json.loads(command("sessions", "show", "bob", "--json", *kv).out)
    assert [m["content"] for m in shown["messages"]] == [
        "My name is Bob.",
        first.out.strip(),
        "What is 12 + 30?",
        second.out.strip(),
    ]


def test_listing_showing_verifying_carrying_and_removing(command: Command, kv: tuple[str, str], tmp_path: Path) -> None:
    assert "no sessions" in command("sessions", *kv).err
    command("generate", *FLAGS, *kv, "--session", "bob", "-p", "My name is Bob.")
    listed = command("sessions", *kv)
    assert "bob" in listed.out
    assert "My name is Bob." in listed.out
    (entry,) = json.loads(command("sessions", "list", "--json", *kv).out)
    assert entry["name"] == "bob"
    assert "[user]\nMy name is Bob." in command("sessions", "show", entry["id"], *kv).out
    assert command("sessions", "verify", *kv).code == 0
    assert command("sessions", "export", "bob", str(tmp_path / "bob.tar"), *kv).code == 0
    assert command("sessions", "rm", "bob", *kv).code == 0
    assert json.loads(command("sessions", "--json", *kv).out) == []
    assert command("sessions", "import", str(tmp_path / "bob.tar"), *kv).code == 0
    assert "bob" in command("sessions", *kv).out
    assert command("sessions", "prune", "--budget", "20G", *kv).code == 0


def test_prune_says_why_a_session_just_used_stays(command: Command, kv: tuple[str, str]) -> None:
    command("generate", *FLAGS, *kv, "--session", "bob", "-p", "My name is Bob.")
    result = command("sessions", "prune", "--budget", "0", *kv)
    assert (result.code, result.out) == (0, "")
    assert "used within the last minute stay" in result.err


def test_verify_tells_of_damage(command: Command, kv: tuple[str, str]) -> None:
    command("generate", *FLAGS, *kv, "--session", "bob", "-p", "My name is Bob.")
    (path,) = (Path(kv[1]) / "segments").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    result = command("sessions", "verify", *kv)
    assert result.code == 1
    assert "quarantine" in result.err
    # The conversation is still there, and is read again.
    again = command("generate", *FLAGS, *kv, "--session", "bob", "-p", "What is 12 + 30?")
    assert (again.code, again.out.strip()) == (0, "12 + 30 = 42")
    assert command("sessions", "verify", *kv).code == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("sessions", "show", "nope"), "no session 'nope'"),
        (("sessions", "rm", "nope"), "no session 'nope'"),
        (("sessions", "prune", "--budget", "much"), "is no size"),
        (("sessions", "import", "nope.tar"), "no file nope.tar"),
        (("generate", "--session", "a", "--raw", "-p", "x"), "--raw"),
        (("generate", "--session", " ", "-p", "x"), "--session is empty"),
    ],
)
def test_what_cannot_be_done_is_said(
    command: Command, kv: tuple[str, str], args: tuple[str, ...], message: str
) -> None:
    result = command(*args, *kv)
    assert result.code == 2
    assert message in result.err


def test_a_session_of_another_model_is_refused(command: Command, kv: tuple[str, str]) -> None:
    command("generate", *FLAGS, *kv, "--session", "bob", "-p", "My name is Bob.")
    result = command("generate", *FLAGS, *kv, "--session", "bob", "-p", "hi", "-m", str(GOLDEN_CHECKPOINT))
    assert result.code == 2
    assert "another checkpoint" in result.err


def test_the_chat_resumes_the_last_conversation(command: Command, kv: tuple[str, str]) -> None:
    nothing = command.run(chat, *FLAGS, *kv, "--resume")
    assert nothing.code == 2
    assert "no saved conversation" in nothing.err
    command.run(chat, *FLAGS, *kv, stdin=b"What is 12 + 30?\n")
    result = command.run(chat, *FLAGS, *kv, "--resume", stdin=b"What is 408 + 226?\n")
    assert result.out.strip() == "408 + 226 = 634"
    assert "2 messages" in result.err
    (entry,) = json.loads(command("sessions", "--json", *kv).out)
    assert entry["title"] == "What is 12 + 30?"


def test_a_chat_may_have_a_name_or_leave_nothing(command: Command, kv: tuple[str, str]) -> None:
    command.run(chat, *FLAGS, *kv, "--no-save", stdin=b"What is 12 + 30?\n")
    assert json.loads(command("sessions", "--json", *kv).out) == []
    command.run(chat, *FLAGS, *kv, "--session", "sums", stdin=b"What is 12 + 30?\n/new\nWhat is 1 + 2?\n")
    entries = json.loads(command("sessions", "--json", *kv).out)
    assert sorted(str(entry["name"]) for entry in entries) == ["None", "sums"]
