"""`ds4-mlx convert`, `inspect` and `verify` from the command line."""

import json
from pathlib import Path

import pytest
from cli.command import Command

from support import GOLDEN_CHECKPOINT


@pytest.fixture
def converted(command: Command, tmp_path: Path) -> Path:
    assert command("convert", str(GOLDEN_CHECKPOINT), "-o", str(tmp_path / "out")).code == 0
    return tmp_path / "out"


def test_convert_prints_the_plan_and_what_to_do_next(command: Command, tmp_path: Path) -> None:
    result = command("convert", str(GOLDEN_CHECKPOINT), "-o", str(tmp_path / "out"))
    assert "bits/weight" in result.err
    assert f"ds4-mlx generate -m {tmp_path / 'out'}" in result.out


def test_a_dry_run_prints_the_plan_and_writes_nothing(command: Command, tmp_path: Path) -> None:
    result = command("convert", str(GOLDEN_CHECKPOINT), "-o", str(tmp_path / "out"), "--dry-run")
    assert result.code == 0
    assert "disk needed" in result.err
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_conversion_says_how_to_go_on(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ds4_convert.conversion._write_rest", interrupt)
    result = command("convert", str(GOLDEN_CHECKPOINT), "-o", str(tmp_path / "out"))
    assert result.code == 130
    assert "the same command goes on from here" in result.err
    assert not (tmp_path / "out").exists()
    assert "unfinished conversion" in command("generate", "-p", "Hi", "-m", str(tmp_path / "out.partial")).err


def test_a_converted_folder_generates_the_same_text(command: Command, converted: Path) -> None:
    args = ("generate", "-p", "Hello", "--no-think", "--seed", "4", "-n", "12", "-m")
    assert command(*args, str(converted)).out == command(*args, str(GOLDEN_CHECKPOINT)).out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("convert", "/nowhere", "-o", "/tmp/never"), "no model folder at /nowhere"),
        (("convert", str(GOLDEN_CHECKPOINT), "-o", "/nowhere/deeper/out"), "no folder /nowhere/deeper"),
        (("convert", str(GOLDEN_CHECKPOINT), "-o", str(GOLDEN_CHECKPOINT)), "same folder"),
        (("convert", str(GOLDEN_CHECKPOINT), "-o", "/proc/out"), "/proc"),
        (("inspect", "/nowhere"), "no model folder at /nowhere"),
        (("verify", "/nowhere"), "no model folder at /nowhere"),
    ],
)
def test_bad_paths_get_one_sentence_and_exit_code_2(command: Command, args: tuple[str, ...], words: str) -> None:
    result = command(*args)
    assert result.code == 2
    assert words in result.err
    assert "Traceback" not in result.err


def test_an_unknown_profile_is_refused(command: Command, tmp_path: Path) -> None:
    result = command("convert", str(GOLDEN_CHECKPOINT), "-o", str(tmp_path / "out"), "--profile", "q1")
    assert result.code == 2
    assert "exact" in result.err


def test_inspect_tells_what_is_there(command: Command, converted: Path) -> None:
    assert "routed experts" in command("inspect", str(converted)).out
    report = json.loads(command("inspect", str(converted), "--json").out)
    assert report["kind"] == "converted"
    assert report["layers"] == 7


def test_verify_is_content_with_a_sound_folder(command: Command, converted: Path) -> None:
    result = command("verify", str(converted))
    assert result.code == 0
    assert "All checksums agree" in result.out


def test_verify_names_the_damaged_tensor_and_exits_with_1(command: Command, converted: Path) -> None:
    shard = converted / "model-00004-of-00009.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(bytes(data))
    result = command("verify", str(converted), "--json")
    assert result.code == 1
    (problem, *_) = json.loads(result.out)["problems"]
    assert problem["file"] == shard.name
    assert problem["tensor"]
