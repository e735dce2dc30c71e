"""Answers on a screen, drawn into a console that is none."""

import io
import signal

import pytest
from rich.console import Console

from ds4_mlx.chat.markdown import AnswerMarkdown, split_finished
from ds4_mlx.chat.screen import LiveAnswer, TerminalScreen
from ds4_mlx.engine.generation import Event
from ds4_mlx.engine.stats import Token


def console(**options: object) -> Console:
    return Console(file=io.StringIO(), width=60, height=10, **options)


def shown(text: str) -> str:
    out = console()
    out.print(AnswerMarkdown(text))
    return "\n".join(line.rstrip() for line in out.file.getvalue().splitlines()).strip("\n")


def answered(*events: Event, folded: bool = True) -> str:
    out = console()
    with TerminalScreen(out).answer(folded) as view:
        for event in events:
            view.show(event)
    return out.file.getvalue()


def test_line_breaks_and_html_are_shown_as_written() -> None:
    assert shown("a\nb <b>c</b>\n\n<think>d</think>") == "a\nb <b>c</b>\n\n<think>d</think>"


def test_a_heading_is_at_the_left_and_code_is_set_in() -> None:
    assert shown("# Head\n\n```py\nx = 1\n```").splitlines() == ["Head", "", "  x = 1"]


@pytest.mark.parametrize(
    ("text", "finished", "rest"),
    [
        ("", [], ""),
        ("one", [], "one"),
        ("one\n\ntwo", ["one\n\n"], "two"),
        ("- a\n\n  more\n\n- b\n", [], "- a\n\n  more\n\n- b\n"),
        ("```\na\n\nb\n", [], "```\na\n\nb\n"),
        ("```\na\n```\nb", ["```\na\n```\n"], "b"),
        ("| a |\n|---|\n| 1 |\n\nx", ["| a |\n|---|\n| 1 |\n\n"], "x"),
        ("# h\ntext", ["# h\n"], "text"),
    ],
)
def test_what_is_finished(text: str, finished: list[str], rest: str) -> None:
    assert split_finished(text) == (finished, rest)


def test_a_text_is_never_lost_by_splitting() -> None:
    text = "# h\n\np\n\n1. a\n2. b\n\n```py\nx\n```\n\n> q\n\n---\n\nlast"
    for end in range(len(text) + 1):
        blocks, rest = split_finished(text[:end])
        assert "".join([*blocks, rest]) == text[:end]


def test_an_answer_in_pieces_looks_like_the_whole() -> None:
    text = "First *words*.\n\n- a\n- b\n\n```\ncode\n```\n\nLast."
    pieces = [Event("content", text[i : i + 3]) for i in range(0, len(text), 3)]
    assert answered(*pieces) == answered(Event("content", text))


def test_folded_reasoning_leaves_one_line() -> None:
    token = Token(1, b"")
    out = answered(Event("reasoning", "secret thoughts", tokens=(token, token)), Event("content", "Hi."))
    assert "secret" not in out
    assert "2 tokens; Ctrl-T shows it" in out
    assert "Hi." in out


def test_unfolded_reasoning_stays() -> None:
    assert "thoughts\n\nHi." in answered(Event("reasoning", "thoughts"), Event("content", "Hi."), folded=False)


def test_control_characters_of_a_model_do_not_reach_the_terminal() -> None:
    assert "\x1b" not in answered(Event("content", "a\x1b[2Jb"), Event("reasoning", "\x07"), folded=False)


def test_a_tall_code_block_is_whole_in_the_end() -> None:
    code = "\n".join(f"line {i}" for i in range(50))
    out = answered(*(Event("content", piece + "\n") for piece in f"```\n{code}\n```".split("\n")))
    assert [f"line {i}" for i in range(50)] == [line.strip() for line in out.splitlines() if "line" in line]


def test_prefill_shows_rate_and_time_left() -> None:
    out = console(force_terminal=True)
    with TerminalScreen(out).answer(True) as view:
        view.on_prefill(10, 1000)
    assert "10/1,000" in out.file.getvalue()
    assert "t/s" in out.file.getvalue()
    assert "left" in out.file.getvalue()


def test_ctrl_c_comes_between_two_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    out = console(force_terminal=True)
    drawn = []

    def draw(view: LiveAnswer) -> None:
        signal.raise_signal(signal.SIGINT)
        drawn.append(view)

    monkeypatch.setattr(LiveAnswer, "_draw", draw)
    with pytest.raises(KeyboardInterrupt), TerminalScreen(out).answer(True) as view:
        view.show(Event("content", "Hi"))
    assert drawn
    assert out.file.getvalue().count("Hi") == 1


def test_an_earlier_exchange_is_shown_with_what_was_typed() -> None:
    out = console()
    typed = {"role": "user", "content": "all of the file", "typed": "/read x"}
    TerminalScreen(out).past((typed, {"role": "assistant", "content": "*Yes*"}))
    assert out.file.getvalue().split() == [">", "/read", "x", "Yes"]
