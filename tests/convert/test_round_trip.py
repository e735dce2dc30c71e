"""Converting changes no weight, says the same twice, and keeps what belongs to a model."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest
from rich.console import Console

from ds4_convert import convert
from ds4_convert.restore import Released, differing_tensors
from ds4_mlx.checkpoint import open_checkpoint
from ds4_mlx.errors import UserError

from checkpoint.damage import copy_of_golden, overwrite, shard_of
from support import DSPARK_CHECKPOINT, GOLDEN_CHECKPOINT

BOTH = pytest.mark.parametrize("source", [GOLDEN_CHECKPOINT, DSPARK_CHECKPOINT], ids=["april", "0731"])


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@BOTH
def test_every_tensor_comes_back_bit_for_bit(source: Path, tmp_path: Path, quiet: Console) -> None:
    convert(source, tmp_path / "out", console=quiet)
    official, converted = open_checkpoint(source), open_checkpoint(tmp_path / "out")
    assert Released(converted).expected.keys() == official.tensors.keys()
    assert differing_tensors(official, converted) == []


@BOTH
def test_both_folders_load_the_same_arrays(source: Path, tmp_path: Path, quiet: Console) -> None:
    convert(source, tmp_path / "out", console=quiet)
    official, converted = open_checkpoint(source), open_checkpoint(tmp_path / "out")
    assert converted.kind == "converted"
    assert converted.identity() == official.identity()
    assert converted.memory_bytes() == official.memory_bytes()
    ours, theirs = dict(converted.load()), dict(official.load())
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert array.dtype == theirs[name].dtype
        assert mx.array_equal(array.view(mx.uint8), theirs[name].view(mx.uint8)), name


def test_a_damaged_square_does_not_pass_for_a_scale(converted: Path) -> None:
    overwrite(converted, "layers.3.attn.wq_a.scales", b"\x01", at=9)
    with pytest.raises(UserError, match="several scales within one 128x128 square"):
        differing_tensors(open_checkpoint(GOLDEN_CHECKPOINT), open_checkpoint(converted))


def test_a_changed_weight_is_seen_by_the_round_trip(converted: Path) -> None:
    path = shard_of(converted, "layers.3.ffn.experts.w2.weight")
    tensor = open_checkpoint(converted).tensors["layers.3.ffn.experts.w2.weight"]
    data = bytearray(path.read_bytes())
    data[tensor.offset + tensor.nbytes - 1] ^= 1  # the last expert
    path.write_bytes(bytes(data))
    differing = differing_tensors(open_checkpoint(GOLDEN_CHECKPOINT), open_checkpoint(converted))
    assert differing == ["layers.3.ffn.experts.4.w2.weight"]


def test_the_same_source_gives_the_same_bytes(tmp_path: Path, quiet: Console) -> None:
    first = convert(GOLDEN_CHECKPOINT, tmp_path / "a", console=quiet)
    second = convert(GOLDEN_CHECKPOINT, tmp_path / "b", console=quiet)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert first.fingerprint == second.fingerprint
    assert not list(tmp_path.glob("*.partial"))


def test_config_keeps_the_source_and_tells_how_it_was_made(converted: Path) -> None:
    config = json.loads((converted / "config.json").read_text())
    released = json.loads((GOLDEN_CHECKPOINT / "config.json").read_text())
    assert {key: config[key] for key in released} == released
    own = config["ds4_mlx"]
    assert own["profile"] == "exact"
    assert own["formats"]["layers.*.ffn.experts.w1"] == "mxfp4"
    assert own["formats"]["layers.*.attn.wq_a"] == "mxfp8"
    assert own["formats"]["layers.*.attn_norm"] == "BF16"
    assert own["source"] == {"name": GOLDEN_CHECKPOINT.name, "tensors": 529, "bytes": 9448104}
    assert config["model_file"] == "ds4_mlx_model.py"
    assert (converted / "ds4_mlx_model.py").is_file()


def test_one_shard_per_layer_and_stage_and_an_index_of_all(tmp_path: Path, quiet: Console) -> None:
    convert(DSPARK_CHECKPOINT, tmp_path / "out", console=quiet)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    names = sorted(p.name for p in (tmp_path / "out").glob("model*.safetensors"))
    assert names == [f"model-{n:05d}-of-00008.safetensors" for n in range(1, 9)]  # 1 + 4 layers + 3 stages
    assert sorted(set(index["weight_map"].values())) == names
    for name in names:
        parts = {tuple(t.split(".")[:2]) for t, shard in index["weight_map"].items() if shard == name}
        assert len(parts) == 1 or {part[0] for part in parts} <= {
            "embed", "head", "norm", "hc_head_fn", "hc_head_base", "hc_head_scale",
        }  # fmt: skip


def test_tokenizer_licence_and_encoder_travel_along(tmp_path: Path, quiet: Console) -> None:
    source = copy_of_golden(tmp_path)
    (source / "encoding").mkdir()
    (source / "encoding" / "encoding_dsv4.py").write_text("# encoder")
    (source / "LICENSE").write_text("MIT")
    (source / "README.md").write_text("A card.")
    (source / "notes.txt").write_text("not ours")
    convert(source, tmp_path / "out", console=quiet)
    found = contents(tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_id_remap.json", "LICENSE"):
        assert found[name] == (source / name).read_bytes()
    assert found["encoding/encoding_dsv4.py"] == b"# encoder"
    assert found["SOURCE_README.md"] == b"A card."
    assert "notes.txt" not in found
    recorded = json.loads(found["checksums.json"])["files"]
    shards = {name for name in found if name.endswith(".safetensors")}
    assert recorded.keys() == found.keys() - shards - {"checksums.json"}
