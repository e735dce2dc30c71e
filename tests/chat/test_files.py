"""Files in a message."""

from pathlib import Path

import pytest

from ds4_mlx.chat.files import mentioned, read_message, user_message
from ds4_mlx.errors import UserError


def test_a_message_without_a_file_is_just_that() -> None:
    assert user_message("mail me@home.org, @nobody and @/nowhere") == {
        "role": "user",
        "content": "mail me@home.org, @nobody and @/nowhere",
    }


def test_a_mention_may_be_quoted_and_end_a_sentence(tmp_path: Path) -> None:
    plain, spaced = tmp_path / "a.txt", tmp_path / "b c.txt"
    for path in (plain, spaced):
        path.write_text("text")
    assert mentioned(f'See @"{spaced}" and @{plain}, @{plain}!') == [spaced, plain]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert mentioned(f"@{tmp_path}") == []


def test_a_fence_is_longer_than_those_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("```\ncode\n```\n")
    assert user_message(f"@{path}")["content"].endswith(f"{path}:\n````md\n```\ncode\n```\n````")


def test_read_puts_its_text_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a b.txt"
    path.write_text("words")
    message = read_message(f'"{path}" Count them.', "typed")
    assert message == {"role": "user", "content": f"Count them.\n\n{path}:\n```txt\nwords\n```", "typed": "typed"}


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(UserError, match="is empty"):
        read_message(str(tmp_path / "empty"), "")
