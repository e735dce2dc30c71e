"""`ds4-mlx generate` as a person uses it."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli.command import Command

import ds4_mlx

from support import GOLDEN_CHECKPOINT

# Random weights hardly ever end an answer by themselves: for what concerns length, interruption and odd bytes.
GENERATE = ("generate", "--no-think", "--seed", "1", "-n", "8", "-m", str(GOLDEN_CHECKPOINT))
SUM = ("generate", "-p", "What is 12 + 30?", "--temp", "0")


def in_a_terminal(*args: str, interrupt_after: str | None = None) -> tuple[int, str]:
    """Runs ds4-mlx with a terminal as stdin, stdout and stderr -> exit code and everything shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS="100")
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # tests run in the background inherit that it is ignored
        os.execv(sys.executable, [sys.executable, "-m", "ds4_mlx.cli", *args])
    shown = b""
    sent = False
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:
            break
        if not data:
            break
        shown += data
        if interrupt_after and not sent and interrupt_after.encode() in shown:
            time.sleep(0.3)
            os.kill(pid, signal.SIGINT)
            sent = True
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), shown.decode("utf-8", "replace")


def test_the_built_in_model_answers_a_sum(command: Command) -> None:
    result = command(*SUM, "--no-think")
    assert result.code == 0
    assert result.out == "12 + 30 = 42\n"


def test_one_line_says_which_model_answers_when_none_is_named(command: Command) -> None:
    (line,) = command(*SUM, "--no-think").err.splitlines()
    assert "ds4-tiny" in line
    assert "-m" in line


def test_a_named_model_needs_no_such_line(command: Command) -> None:
    assert "ds4-tiny" not in command(*GENERATE, "-p", "Hello").err


def test_an_answer_cut_at_n_tokens_says_so(command: Command) -> None:
    result = command(*GENERATE, "-p", "Hello")
    assert result.code == 0
    assert result.out.strip()
    assert "stopped after -n 8 tokens" in result.err


def test_the_same_seed_prints_the_same_text(command: Command) -> None:
    first, second = command(*GENERATE, "-p", "Hello"), command(*GENERATE, "-p", "Hello")
    assert first.out == second.out


def test_prompts_from_flag_file_and_stdin_are_the_same(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("Héllo 你好")
    want = command(*GENERATE, "-p", "Héllo 你好").out
    assert command(*GENERATE, "--prompt-file", str(file)).out == want
    assert command(*GENERATE, "--prompt-file", "-", stdin="Héllo 你好".encode()).out == want
    assert command(*GENERATE, stdin="Héllo 你好".encode()).out == want


def test_a_pipe_gets_the_answer_and_the_reasoning_goes_to_stderr(command: Command) -> None:
    result = command(*SUM, "--think")
    assert result.out == "12 + 30 = 42\n"
    assert "2+0=2" in result.err


def test_json_is_one_object_with_everything(command: Command) -> None:
    result = command(*GENERATE, "-p", "Hello", "--json")
    answer = json.loads(result.out)
    assert answer["finish_reason"] == "length"
    assert len(answer["token_ids"]) == 8
    assert answer["content"]
    assert answer["stats"]["seed"] == 1
    assert set(answer) == {"content", "reasoning_content", "tool_calls", "token_ids", "finish_reason", "stats"}


def test_stats_show_both_rates_and_memory(command: Command) -> None:
    err = command(*GENERATE, "-p", "Hello", "--stats").err
    assert re.search(r"prefill \d+ tokens, [\d.]+ tokens/s; decode 8 tokens, [\d.]+ tokens/s; peak memory", err)


def test_dump_tokens_lists_the_prompt_and_generates_nothing(command: Command) -> None:
    result = command("generate", "-p", "Hi", "--no-think", "--dump-tokens")
    rows = [line.split("\t") for line in result.out.splitlines()]
    assert json.loads(rows[0][1]) == "<｜begin▁of▁sentence｜>"
    assert "".join(json.loads(text) for _, text in rows) == "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜></think>"
    assert result.err == ""


def test_raw_prompts_get_no_chat_format(command: Command) -> None:
    result = command("generate", "-p", "Hi", "--raw", "--dump-tokens")
    assert "".join(json.loads(line.split("\t")[1]) for line in result.out.splitlines()) == "Hi"


def test_a_system_message_comes_before_the_user(command: Command) -> None:
    result = command("generate", "-p", "Hi", "--system", "Be brief.", "--no-think", "--dump-tokens")
    text = "".join(json.loads(line.split("\t")[1]) for line in result.out.splitlines())
    assert text == "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Hi<｜Assistant｜></think>"


def test_effort_max_changes_the_prompt(command: Command) -> None:
    plain = command("generate", "-p", "Hi", "--dump-tokens").out
    hard = command("generate", "-p", "Hi", "--effort", "max", "--dump-tokens").out
    assert len(hard) > len(plain)


def test_logprobs_go_to_a_file_one_json_a_line(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "logprobs.jsonl"
    ids = json.loads(command(*GENERATE, "-p", "Hi", "--json", "--dump-logprobs", str(file), "--top-logprobs", "3").out)[
        "token_ids"
    ]
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["id"] for row in rows] == ids
    assert all(len(row["top"]) == 3 for row in rows)
    assert all(row["logprob"] <= row["top"][0]["logprob"] for row in rows)


def test_sampling_filters_reach_the_sampler(command: Command) -> None:
    greedy = command(*GENERATE, "-p", "Hi", "--temp", "0").out
    assert command(*GENERATE, "-p", "Hi", "--top-k", "1").out == greedy
    assert command(*GENERATE, "-p", "Hi", "--top-p", "0.000001").out == greedy
    assert command(*GENERATE, "-p", "Hi", "--min-p", "1").out == greedy


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("-p", ""), "empty"),
        (("-p", " \n "), "empty"),
        (("--prompt-file", "/nowhere/prompt.txt"), "cannot be read"),
        (("--prompt-file", "/"), "cannot be read"),
        (("-p", "a", "--prompt-file", "b"), "not both"),
        (("-p", "Hi", "--model", "/nowhere"), "no model folder at /nowhere"),
        (("-p", "Hi", "--top-p", "0"), "top_p is 0.0"),
        (("-p", "Hello there", "--ctx", "4"), "a context of 4 leaves no room"),
        (("-p", "Hi", "--dump-logprobs", "/nowhere/file"), "cannot be written"),
        (("-p", "Hi", "--top-logprobs", "3"), "needs --dump-logprobs"),
        (("-p", "Hi", "--prompt-file", ""), "not both"),
        (("--prompt-file", ""), "--prompt-file is empty"),
        (("-p", "Hi", "--model", ""), "name is empty"),
        (("-p", "Hi", "--system", "bad \udcff"), "--system is not valid UTF-8"),
        (("-p", "Hi", "--raw", "--system", "x"), "--raw"),
        (("-p", "Hi", "--effort", "low"), "--effort low needs a 0731 model"),
        (("-p", "bad \udcff byte"), "not valid UTF-8 (byte 4 is 0xff)"),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(command: Command, args: tuple[str, ...], words: str) -> None:
    result = command("generate", *args)
    assert result.code == 2
    assert words in result.err
    assert len(result.err.splitlines()) == 1
    assert "Traceback" not in result.err


def test_an_existing_logprobs_file_survives_a_refused_run(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "keep.jsonl"
    file.write_text("precious")
    for args in (("--ctx", "3"), ("-m", "/nowhere")):
        assert command("generate", "-p", "Hello", "--dump-logprobs", str(file), *args).code == 2
    assert file.read_text() == "precious"


@pytest.mark.parametrize("args", [(), ("--json",), ("--dump-tokens",), ("--dump-logprobs", "/dev/full")])
def test_a_full_disk_is_one_sentence(args: tuple[str, ...]) -> None:
    where = "" if "--dump-logprobs" in args else "> /dev/full"
    line = f"{sys.executable} -m ds4_mlx.cli generate -p Hi --no-think -n 4 {' '.join(args)} {where}"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("redirection", [">&-", "<&-"])
def test_closed_streams_are_no_traceback(redirection: str) -> None:
    prompt = "-p Hi" if redirection == ">&-" else ""
    line = f"{sys.executable} -m ds4_mlx.cli generate {prompt} --no-think -n 4 {redirection}"
    done = subprocess.run(
        line, shell=True, capture_output=True, text=True, check=False, input="" if ">" in redirection else None
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_terminal_that_is_not_utf8_shows_replacements() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "ds4_mlx.cli", *GENERATE, "-p", "Hi", "--raw", "-n", "30"]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert b"?" in done.stdout


def test_stdin_that_is_not_utf8_is_refused(command: Command) -> None:
    result = command("generate", stdin=b"caf\xe9")
    assert result.code == 2
    assert "Standard input is not valid UTF-8 (byte 3 is 0xe9)" in result.err


@pytest.mark.parametrize(
    "args",
    [
        ("--temp", "hot"),
        ("--temp", "-1"),
        ("--effort", "extreme"),
        ("-n", "0"),
        ("--ctx", "1"),
        ("--seed", "-3"),
        ("--no-such-flag",),
    ],
)
def test_unknown_flags_and_values_exit_with_2(command: Command, args: tuple[str, ...]) -> None:
    result = command("generate", "-p", "Hi", *args)
    assert result.code == 2
    assert "Traceback" not in result.err


def test_a_terminal_shows_reasoning_dimmed() -> None:
    code, shown = in_a_terminal(*SUM)
    assert code == 0
    assert re.search(r"\x1b\[2m ?Result\x1b\[0m", shown)
    assert shown.endswith("\r\n12 + 30 = 42\r\n")


def test_a_terminal_shows_progress_of_a_long_prompt(tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text("hello " * 120)
    _, shown = in_a_terminal("generate", "--prompt-file", str(file), "--no-think", "-n", "1")
    assert "reading the prompt" in shown


def test_control_characters_of_the_model_do_not_reach_a_terminal() -> None:
    from ds4_mlx.terminal import _UNSAFE

    assert "a\x1b[31mb\x07\x9b\rc\n\td".translate(_UNSAFE) == "a[31mbc\n\td"


def test_ctrl_c_stops_cleanly() -> None:
    # A prompt that takes many seconds to read; the line that names the model comes before it.
    code, shown = in_a_terminal("generate", "-p", "Hi " * 6000, interrupt_after="ds4-tiny")
    assert code == 130
    assert "(interrupted)" in shown
    assert "Traceback" not in shown


def test_a_closed_pipe_is_no_traceback() -> None:
    done = subprocess.run(
        f"{sys.executable} -m ds4_mlx.cli {' '.join(GENERATE)} -p Hi -n 60 | head -c 1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr


def test_an_mlx_without_backend_says_what_to_install(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_backend(*_: object) -> None:
        raise ImportError("libmlx.so: cannot open shared object file: No such file or directory")

    monkeypatch.setattr("ds4_mlx.engine.language_model.open_checkpoint", no_backend)
    result = command("generate", "-p", "Hi")
    assert result.code == 2
    assert "ds4-mlx[cpu]" in result.err


def test_version(command: Command) -> None:
    lines = command("--version").out.splitlines()
    assert lines[0] == f"ds4-mlx {ds4_mlx.__version__}"
    assert [line.split()[0] for line in lines[1:]] == ["mlx", "mlx-lm", "Python", "backend"]


def test_help_lists_the_commands(command: Command) -> None:
    out = command("--help").out
    for name in ("generate", "convert", "inspect", "verify"):
        assert name in out


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, ds4_mlx, ds4_mlx.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"mlx", "numpy", "tokenizers", "mlx_lm", "transformers"} & set(done.stdout.split())
