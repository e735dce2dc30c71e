"""What cannot be converted is refused in one sentence, and leaves nothing behind that could be taken for a model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ds4_convert import convert
from ds4_mlx.checkpoint import open_checkpoint
from ds4_mlx.errors import UserError

from checkpoint.damage import copy_of_golden, edit_header, edit_json, overwrite, shard_of
from support import GOLDEN_CHECKPOINT

WQ_A = "layers.3.attn.wq_a.weight"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the golden checkpoint that may be damaged."""
    return copy_of_golden(tmp_path)


def refusal(source: Path, destination: Path, **options: Any) -> str:
    """The sentence a conversion is refused with; it must not leave a model, whole or in parts, under either name."""
    existed = destination.exists()
    with pytest.raises(UserError) as caught:
        convert(source, destination, console=Console(file=open(os.devnull, "w")), **options)  # noqa: SIM115
    message = str(caught.value)
    assert "\n" not in message
    assert destination.exists() == existed
    partial = destination.with_name(destination.name + ".partial")
    if partial.exists():
        with pytest.raises(UserError):
            open_checkpoint(partial)
    return message


def test_missing_shard(source: Path, tmp_path: Path) -> None:
    shard_of(source, WQ_A).unlink()
    assert "which is not there" in refusal(source, tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()


def test_truncated_shard(source: Path, tmp_path: Path) -> None:
    shard = shard_of(source, WQ_A)
    os.truncate(shard, shard.stat().st_size // 2)
    assert f"{shard} is truncated" in refusal(source, tmp_path / "out")


def test_shard_cut_off_while_it_is_read(
    source: Path, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = shard_of(source, WQ_A)
    monkeypatch.setattr("ds4_convert.plan.Plan.render", lambda *_: os.truncate(shard, shard.stat().st_size // 2))
    assert f"{shard} ends inside tensor" in refusal(source, tmp_path / "out")
    assert list((tmp_path / "out.partial").glob("*.safetensors"))  # what was finished before is kept
    assert not list((tmp_path / "out.partial").glob("*.tmp"))


def test_wrong_shape(source: Path, tmp_path: Path) -> None:
    edit_header(shard_of(source, WQ_A), lambda header: header[WQ_A]["shape"].reverse())
    assert f"tensor {WQ_A} is F8_E4M3 [256, 128], but config.json asks for" in refusal(source, tmp_path / "out")


def test_wrong_dtype(source: Path, tmp_path: Path) -> None:
    edit_header(shard_of(source, WQ_A), lambda header: header[WQ_A].update(dtype="I8"))
    assert "config.json asks for F8_E4M3" in refusal(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("tensor", "value", "what"),
    [
        ("layers.3.attn.wq_a.scale", b"\xff", "a NaN scale"),
        ("layers.3.ffn.experts.2.w1.scale", b"\xff", "a NaN scale"),
        (WQ_A, b"\x7f", "a NaN weight"),
        ("layers.3.attn_norm.weight", b"\xc0\x7f", "a NaN or infinite value"),
        ("layers.3.attn.attn_sink", b"\x00\x00\x80\x7f", "a NaN or infinite value"),
        ("layers.0.ffn.gate.tid2eid", b"\x05", r"an expert number outside 0..4"),
    ],
)
def test_values_no_checkpoint_holds(tensor: str, value: bytes, what: str, source: Path, tmp_path: Path) -> None:
    overwrite(source, tensor, value)
    assert f"tensor {tensor} holds {what}" in refusal(source, tmp_path / "out")
    assert not list((tmp_path / "out.partial").glob("*.tmp"))


def test_goes_on_after_the_damaged_shard_is_replaced(source: Path, tmp_path: Path, quiet: Console) -> None:
    overwrite(source, "layers.3.attn.wq_a.scale", b"\xff")
    refusal(source, tmp_path / "out")
    shard = shard_of(source, WQ_A)
    shard.write_bytes((GOLDEN_CHECKPOINT / shard.name).read_bytes())
    assert convert(source, tmp_path / "out", console=quiet).shards_kept == 4  # embed and head, layers 0 to 2


def test_another_model(source: Path, tmp_path: Path) -> None:
    edit_json(source / "config.json", lambda config: config.update(model_type="llama"))
    assert "DeepSeek-V4-Flash" in refusal(source, tmp_path / "out")


def test_an_already_converted_source(converted: Path, tmp_path: Path) -> None:
    assert "already converted (profile exact)" in refusal(converted, tmp_path / "out")


def test_unknown_profile(tmp_path: Path) -> None:
    assert "Unknown profile 'q9'; known are exact" in refusal(GOLDEN_CHECKPOINT, tmp_path / "out", profile="q9")


def test_destination_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    assert "exists already" in refusal(GOLDEN_CHECKPOINT, tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    assert "exists already" in refusal(GOLDEN_CHECKPOINT, tmp_path / "file")


def test_an_empty_destination_is_fine(tmp_path: Path, quiet: Console) -> None:
    (tmp_path / "out").mkdir()
    convert(GOLDEN_CHECKPOINT, tmp_path / "out", console=quiet)
    assert open_checkpoint(tmp_path / "out").kind == "converted"


def test_destination_without_a_parent(tmp_path: Path) -> None:
    assert "Create it first" in refusal(GOLDEN_CHECKPOINT, tmp_path / "no" / "out")


def test_destination_that_is_the_source(source: Path) -> None:
    assert "the same folder" in refusal(source, source / ".." / source.name)


def test_unwritable_destination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert "cannot be written: Permission denied" in refusal(GOLDEN_CHECKPOINT, tmp_path / "out")


def test_a_disk_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ds4_convert.files.free_bytes", lambda folder: 2_500_000)
    message = refusal(GOLDEN_CHECKPOINT, tmp_path / "out")
    assert "needs 9.7 MB" in message
    assert "only 2.5 MB are free" in message
    assert not (tmp_path / "out.partial").exists()


def test_no_index(source: Path, tmp_path: Path) -> None:
    (source / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}}))
    assert "has no weight_map" in refusal(source, tmp_path / "out")


def test_no_tokenizer_is_noticed_before_the_work(source: Path, tmp_path: Path) -> None:
    (source / "tokenizer.json").unlink()
    assert "neither tokenizer.json nor tokenizer.model" in refusal(source, tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()


def test_a_destination_behind_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match="loop"):
        convert(GOLDEN_CHECKPOINT, tmp_path / "loop" / "out", console=Console(quiet=True))
