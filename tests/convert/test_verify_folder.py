"""Verifying reads everything again and names what is damaged."""

from __future__ import annotations

import io
import json
import os
import random
from pathlib import Path

import pytest
from rich.console import Console

from ds4_convert.verify import Report, render, to_json, verify
from ds4_mlx.checkpoint.safetensors_file import read_header
from ds4_mlx.errors import UserError

from checkpoint.damage import copy_of_golden, edit_header, edit_json, overwrite, shard_of
from support import DSPARK_CHECKPOINT, GOLDEN_CHECKPOINT

W2 = "layers.3.ffn.experts.w2.weight"


def problems(folder: Path, quiet: Console) -> list[tuple[str, str]]:
    return [(problem.file, problem.tensor) for problem in verify(folder, console=quiet).problems]


def flip_bit(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0] ^ 1 << bit % 8
        file.seek(bit // 8)
        file.write(bytes([byte]))


def test_a_sound_folder(converted: Path, quiet: Console) -> None:
    report = verify(converted, console=quiet)
    assert report.sound
    assert report.checksums_recorded
    assert report.tensors == 337
    assert "All checksums agree" in rendered(report)
    assert json.loads(json.dumps(to_json(report)))["sound"] is True


def test_any_flipped_bit_is_noticed(converted: Path, quiet: Console) -> None:
    dice = random.Random(4)
    for shard in sorted(converted.glob("*.safetensors")):
        for tensor in dice.sample(sorted(read_header(shard)[0].values(), key=lambda t: t.name), 3):
            bit = 8 * tensor.offset + dice.randrange(8 * tensor.nbytes)
            flip_bit(shard, bit)
            assert problems(converted, quiet) == [(shard.name, tensor.name)]
            flip_bit(shard, bit)
    assert verify(converted, console=quiet).sound


def test_a_truncated_and_a_lengthened_shard(converted: Path, quiet: Console) -> None:
    shard = shard_of(converted, W2)
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    assert problems(converted, quiet) == [(shard.name, "")]
    shard.write_bytes(content + b"\0")
    assert problems(converted, quiet) == [(shard.name, "")]


def test_a_missing_shard(converted: Path, quiet: Console) -> None:
    shard = shard_of(converted, W2)
    shard.unlink()
    assert problems(converted, quiet) == [(shard.name, "")]


def test_swapped_shards(converted: Path, quiet: Console) -> None:
    a, b = shard_of(converted, "layers.2.attn.wq_a.weight"), shard_of(converted, "layers.4.attn.wq_a.weight")
    aside = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(aside)
    assert not verify(converted, console=quiet).sound


def test_a_shard_of_another_conversion(tmp_path: Path, converted: Path, quiet: Console) -> None:
    """Same names and shapes, other weights: only the checksums tell."""
    from ds4_convert import convert

    other = copy_of_golden(tmp_path)
    overwrite(other, "layers.3.ffn.experts.1.w2.weight", b"\x12\x34\x56")
    convert(other, tmp_path / "other", console=quiet)
    shard = shard_of(converted, W2)
    shard.write_bytes((tmp_path / "other" / shard.name).read_bytes())
    assert problems(converted, quiet) == [(shard.name, W2)]


def test_an_edited_header(converted: Path, quiet: Console) -> None:
    """A shape that was changed leaves every checksum as it was, but not the fingerprint."""
    shard = shard_of(converted, "layers.3.attn.wq_a.weight")
    data = shard.read_bytes()
    entry = b'"layers.3.attn.wq_a.weight":{"dtype":"U32","shape":[128,64]'
    assert entry in data
    shard.write_bytes(data.replace(entry, entry.replace(b"[128,64]", b"[64,128]")))
    assert problems(converted, quiet) == [("config.json", "")]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "ds4_mlx_model.py"])
def test_a_changed_file(name: str, converted: Path, quiet: Console) -> None:
    path = converted / name
    path.write_bytes(path.read_bytes() + b" ")
    assert problems(converted, quiet) == [(name, "")]
    path.unlink()
    if name == "config.json":
        with pytest.raises(UserError, match=r"config\.json is missing"):
            verify(converted, console=quiet)
    else:
        assert problems(converted, quiet) == [(name, "")]


def test_a_config_that_is_no_json(converted: Path, quiet: Console) -> None:
    (converted / "config.json").write_text("{")
    assert ("config.json", "") in problems(converted, quiet)


def test_a_damaged_index(converted: Path, quiet: Console) -> None:
    (converted / "model.safetensors.index.json").write_text("{")
    assert set(problems(converted, quiet)) == {("model.safetensors.index.json", "")}


def test_lost_checksums_are_told_but_the_fingerprint_still_judges(converted: Path, quiet: Console) -> None:
    (converted / "checksums.json").unlink()
    assert problems(converted, quiet) == [("checksums.json", "")]


def test_a_damaged_checksum_is_not_blamed_on_the_tensor(converted: Path, quiet: Console) -> None:
    edit_json(converted / "checksums.json", lambda recorded: recorded["tensors"].update({W2: "0" * 64}))
    report = verify(converted, console=quiet)
    assert [p.file for p in report.problems] == ["checksums.json"]
    assert "the tensors are sound" in report.problems[0].message


def test_a_stray_shard(converted: Path, quiet: Console) -> None:
    """mlx-lm loads every model*.safetensors it finds."""
    (converted / "model-extra.safetensors").write_bytes(shard_of(converted, W2).read_bytes())
    assert problems(converted, quiet) == [("model-extra.safetensors", "")]


def test_several_problems_are_all_told(converted: Path, quiet: Console) -> None:
    overwrite(converted, W2, b"\xaa\xaa\xaa")
    overwrite(converted, "layers.5.attn.wq_b.scales", b"\x01")
    (converted / "tokenizer.json").unlink()
    report = verify(converted, console=quiet)
    assert {p.tensor or p.file for p in report.problems} == {W2, "layers.5.attn.wq_b.scales", "tokenizer.json"}
    text = rendered(report)
    assert "3 problems found" in text
    assert W2 in text
    assert not to_json(report)["sound"]


@pytest.mark.parametrize("source", [GOLDEN_CHECKPOINT, DSPARK_CHECKPOINT], ids=["april", "0731"])
def test_a_released_checkpoint_has_no_checksums(source: Path, quiet: Console) -> None:
    report = verify(source, console=quiet)
    assert report.sound
    assert not report.checksums_recorded
    assert "records no checksums" in rendered(report)


def test_damage_in_a_released_checkpoint(tmp_path: Path, quiet: Console) -> None:
    folder = copy_of_golden(tmp_path)
    overwrite(folder, "layers.3.attn.wq_a.scale", b"\xff")
    overwrite(folder, "layers.0.ffn.gate.tid2eid", b"\x09")
    found = {tensor for _, tensor in problems(folder, quiet)}
    assert found == {"layers.3.attn.wq_a.scale", "layers.0.ffn.gate.tid2eid"}
    last = sorted(folder.glob("*.safetensors"))[-1]
    os.truncate(last, last.stat().st_size - 1)
    assert (last.name, "") in problems(folder, quiet)


def test_no_model_at_all(tmp_path: Path, quiet: Console) -> None:
    with pytest.raises(UserError, match="no model folder"):
        verify(tmp_path / "nothing", console=quiet)
    with pytest.raises(UserError, match=r"config\.json is missing"):
        verify(tmp_path, console=quiet)


def rendered(report: Report) -> str:
    shown = io.StringIO()
    render(report, Console(file=shown, width=100))
    return shown.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        {"algorithm": "crc32"},
        {"tensors": {}},
        {"files": {}},
        {"files": {"../../etc/passwd": "0"}},
        {"files": []},
    ],
    ids=str,
)
def test_checksums_that_leave_something_out_are_not_believed(
    change: dict[str, object], converted: Path, quiet: Console
) -> None:
    edit_json(converted / "checksums.json", lambda checksums: checksums.update(change))
    assert ("checksums.json", "") in problems(converted, quiet)


def test_a_released_tensor_of_an_unknown_kind_is_told(tmp_path: Path, quiet: Console) -> None:
    folder = copy_of_golden(tmp_path)
    tensor = "layers.3.attn_norm.weight"
    edit_header(shard_of(folder, tensor), lambda header: header[tensor].update(dtype="F16"))
    assert problems(folder, quiet)


def test_a_config_that_is_no_object(tmp_path: Path, quiet: Console) -> None:
    folder = copy_of_golden(tmp_path)
    (folder / "config.json").write_text("null")
    with pytest.raises(UserError, match="JSON object"):
        verify(folder, console=quiet)
