"""The whole program in a terminal, in a dumb one, and in a pipe."""

import os
import subprocess
import sys
from pathlib import Path

from chat.pseudo_terminal import PseudoTerminal, in_a_new_home

CHAT = [sys.executable, "-m", "ds4_mlx.chat", "--no-think", "--temp", "0"]


def test_a_conversation_on_a_terminal(tmp_path: Path) -> None:
    home = in_a_new_home(tmp_path)
    with PseudoTerminal(CHAT, **home) as terminal:
        terminal.wait_for("0/32,768 tokens")
        terminal.send("/he")
        terminal.wait_for("show this")  # the menu
        terminal.send("\x7f" * 3)
        terminal.paste("What is\n12 + 30?")
        terminal.wait_for("  12 + 30?")
        terminal.send("\x03")  # cleared
        terminal.wait_until_gone("12 + 30")
        terminal.send("\x1b[A")  # and brought back
        terminal.wait_for("  12 + 30?")
        terminal.send("\r")
        terminal.wait_for("cached")  # the status line after the answer
        assert "= 42" in terminal.seen()
        terminal.send("/save sum\r")
        terminal.wait_for("saved as")
        terminal.wait_for("no thinking · sum")  # the next prompt
        terminal.send("\x04")
        assert terminal.wait() == 0
        assert "ds4-mlx chat --session sum goes on" in terminal.seen()
    with PseudoTerminal([*CHAT, "--resume"], NO_COLOR="1", **home) as terminal:
        terminal.wait_for("(sum): 2 messages")
        terminal.wait_for("24/32,768 tokens")
        assert "= 42" in terminal.seen()
        terminal.send("/undo\r")
        terminal.wait_for("undone: /load")
        terminal.wait_for("no thinking · new")
        terminal.send("\x04")
        assert terminal.wait() == 0
        assert b"\x1b[3" not in terminal.raw.replace(b"\x1b[39m", b"").replace(b"\x1b[3m", b"")  # no colour


def test_ctrl_c_while_the_answer_comes(tmp_path: Path) -> None:
    with PseudoTerminal([*CHAT, "-n", "2000", "--temp", "2", "--seed", "3"], **in_a_new_home(tmp_path)) as terminal:
        terminal.wait_for("0/32,768 tokens")
        terminal.send("Tell me a long story.\r")
        terminal.wait_for("Ctrl-C stops")
        terminal.send("\x03")
        terminal.wait_for("(stopped)")
        terminal.send("/stats\r")
        terminal.wait_for("1 answers")
        terminal.wait_for("no thinking")
        terminal.send("\x04")
        assert terminal.wait() == 0


def test_a_dumb_terminal_gets_plain_lines(tmp_path: Path) -> None:
    with PseudoTerminal(CHAT, **{**in_a_new_home(tmp_path), "TERM": "dumb"}) as terminal:
        terminal.wait_for("\n>")
        terminal.send('"""\nWhat is\n12 + 30?\n"""\n')
        terminal.wait_for("= 42")
        terminal.wait_for("complete")
        terminal.send("\x04")
        assert terminal.wait() == 0
        assert b"\x1b" not in terminal.raw


def test_a_pipe_gets_answers_on_one_end_and_remarks_on_the_other(tmp_path: Path) -> None:
    said = 'What is 12 + 30?\n"""\n/tell\nme\n"""\n/rewind\n/quit\n'
    done = subprocess.run(
        [*CHAT, "-n", "12"],
        input=said,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **in_a_new_home(tmp_path)},
    )
    assert done.stdout.startswith("12 + 30 = 42\n")
    assert "back before: /tell me" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert "saved as" in done.stderr
