"""`ds4-mlx convert`, `export`, `inspect` and `verify` from the command line."""

import json
from pathlib import Path

import pytest
from cli.command import Command

from checkpoint import random_gguf
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
        (("convert", __file__, "-o", "/tmp/never"), "is not a GGUF file"),
        (("convert", str(GOLDEN_CHECKPOINT), "-o", "/tmp/never", "--layers", "x"), "expected a range such as 0-6"),
        (("convert", str(GOLDEN_CHECKPOINT), "-o", "/tmp/never", "--imatrix", "x.dat"), "serves quantising"),
        (
            ("convert", str(GOLDEN_CHECKPOINT), "-o", "/tmp/never", "--profile", "q2", "--imatrix", "/no"),
            "/no cannot be",
        ),
        (("export", "/nowhere", "--gguf", "/tmp/never.gguf"), "no model folder at /nowhere"),
        (("export", str(GOLDEN_CHECKPOINT), "--gguf", "/tmp/never.gguf"), "Convert it first"),
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


def test_a_gguf_goes_in_and_comes_out_again(command: Command, tmp_path: Path) -> None:
    source = random_gguf.write(tmp_path / "model.gguf")
    result = command("convert", str(source), "-o", str(tmp_path / "out"), "--jobs", "2")
    assert result.code == 0
    assert "(q2)" in result.err
    assert "of memory" in result.out
    result = command("export", str(tmp_path / "out"), "--gguf", str(tmp_path / "back.gguf"))
    assert result.code == 0
    assert "116 tensors" in result.out
    assert (tmp_path / "back.gguf").read_bytes() == source.read_bytes()


def test_an_export_says_what_it_rounded_and_left_out(command: Command, converted: Path, tmp_path: Path) -> None:
    out = command("export", str(converted), "--gguf", str(tmp_path / "file.gguf")).out
    assert "were rounded" in out
    assert "drafter was left out" in out


def test_some_layers_are_not_run(command: Command, tmp_path: Path) -> None:
    result = command("convert", str(GOLDEN_CHECKPOINT), "-o", str(tmp_path / "out"), "--layers", "2-3")
    assert result.code == 0
    assert "generate" not in result.out
    result = command("generate", "-p", "Hi", "-m", str(tmp_path / "out"))
    assert result.code == 2
    assert "holds layers 2 to 3 only" in result.err
    assert "only layers 2 to 3" in command("inspect", str(tmp_path / "out")).out


def test_jobs_are_at_least_one(command: Command, tmp_path: Path) -> None:
    assert command("convert", str(GOLDEN_CHECKPOINT), "-o", str(tmp_path / "out"), "--jobs", "0").code == 2
