"""A folder is used only when it is whole; otherwise one sentence says what is wrong and what to do."""

import json
import shutil
import struct
from pathlib import Path

import mlx.core as mx
import pytest

import ds4_mlx
from ds4_mlx.checkpoint import open_checkpoint
from ds4_mlx.engine.memory import check_fits
from ds4_mlx.errors import UserError

from checkpoint.damage import copy_of_golden, edit_header, edit_json, overwrite, shard_of
from support import DSPARK_CHECKPOINT, GOLDEN_CHECKPOINT

WQ_A = "layers.3.attn.wq_a.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_of_golden(tmp_path)


def refusal(folder: Path) -> str:
    """The sentence with which opening and loading the folder is refused: one line, no traceback words."""
    with pytest.raises(UserError) as caught:
        for _ in open_checkpoint(folder).load():
            pass
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_missing_folder(tmp_path: Path) -> None:
    assert "no model folder" in refusal(tmp_path / "nothing")


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert "is a file" in refusal(tmp_path / "model.gguf")


def test_an_empty_folder(tmp_path: Path) -> None:
    assert "config.json is missing" in refusal(tmp_path)


def test_a_config_that_is_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    assert "not valid JSON" in refusal(folder)


def test_a_config_nested_beyond_reason(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)
    assert "not valid JSON" in refusal(folder)


def test_tensors_on_top_of_each_other(folder: Path) -> None:
    def overlap(header: dict[str, dict[str, list[int]]]) -> None:
        other = "layers.3.attn.wkv.weight"
        begin, end = header[other]["data_offsets"]
        header[WQ_A]["data_offsets"] = [begin, begin + 128 * 256]
        assert end - begin == 128 * 256

    edit_header(shard_of(folder, WQ_A), overlap)
    assert "on top of another" in refusal(folder)


def test_a_0731_config_whose_drafter_lacks_its_projection(tmp_path: Path) -> None:
    dspark = Path(shutil.copytree(DSPARK_CHECKPOINT, tmp_path / "dspark"))

    def drop(index: dict[str, dict[str, str]]) -> None:
        index["weight_map"].pop("mtp.0.main_proj.weight")

    edit_json(dspark / "model.safetensors.index.json", drop)
    assert "lacks tensor mtp.0.main_proj.weight" in refusal(dspark)


def test_a_config_that_is_no_object(folder: Path) -> None:
    (folder / "config.json").write_text("[]")
    assert "list" in refusal(folder)


def test_another_model_type_names_the_supported_ones(folder: Path) -> None:
    edit_json(folder / "config.json", lambda c: c.update(model_type="llama"))
    message = refusal(folder)
    assert "'llama'" in message
    assert "DeepSeek-V4-Flash" in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"compress_ratios": [0, 0, 8, 128, 4, 128, 4, 0]}, "compress_ratios 8; known are 0, 4, 128"),
        ({"compress_ratios": [0, 4]}, "one entry per layer"),
        ({"hidden_size": "256"}, "hidden_size = '256'"),
        ({"hidden_size": 0}, "hidden_size = 0"),
        ({"compress_ratios": [0, 0, 4.0, 128, 4, 128, 4, 0]}, "compress_ratios 4.0"),
        ({"n_routed_experts": 10**30}, "n_routed_experts"),
        ({"sliding_window": 2**63}, "sliding_window"),
        ({"hc_sinkhorn_iters": 10**9}, "hc_sinkhorn_iters"),
        ({"eos_token_id": 400}, "eos_token_id"),
        ({"compress_rope_theta": 1}, "rope_theta"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"scoring_func": "softmax"}, "scoring_func = 'softmax'"),
        ({"quantization_config": None}, "quantization_config"),
        ({"rope_scaling": {"type": "linear"}}, "'linear'"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok"),
        ({"o_groups": 3}, "o_groups 3"),
    ],
)
def test_a_config_that_describes_no_v4_model(folder: Path, change: dict[str, object], words: str) -> None:
    edit_json(folder / "config.json", lambda c: c.update(change))
    assert words in refusal(folder)


def test_a_config_without_a_key_it_needs(folder: Path) -> None:
    edit_json(folder / "config.json", lambda c: c.pop("index_topk"))
    assert "lacks the key 'index_topk'" in refusal(folder)


def test_a_missing_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()
    assert "model.safetensors.index.json is missing" in refusal(folder)


def test_an_index_that_names_a_file_that_is_not_there(folder: Path) -> None:
    shard_of(folder, WQ_A).unlink()
    message = refusal(folder)
    assert "which is not there" in message
    assert ".safetensors" in message


def test_an_index_that_leaves_the_folder(folder: Path) -> None:
    def point_outside(index: dict[str, dict[str, str]]) -> None:
        index["weight_map"][WQ_A] = "../elsewhere.safetensors"

    edit_json(folder / "model.safetensors.index.json", point_outside)
    assert "no .safetensors file of this folder" in refusal(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, 200_000])
def test_a_truncated_shard(folder: Path, keep: int) -> None:
    path = shard_of(folder, WQ_A)
    path.write_bytes(path.read_bytes()[:keep])
    message = refusal(folder)
    assert "truncated" in message
    assert path.name in message


def test_a_shard_that_is_something_else(folder: Path) -> None:
    path = shard_of(folder, WQ_A)
    path.write_bytes(b"<!DOCTYPE html><html>404</html>" * 1000)
    assert "not a safetensors file" in refusal(folder)


def test_a_shard_whose_header_is_damaged(folder: Path) -> None:
    path = shard_of(folder, WQ_A)
    data = bytearray(path.read_bytes())
    data[8:12] = b"\xff\xff\xff\xff"
    path.write_bytes(bytes(data))
    assert "header is damaged" in refusal(folder)


def test_a_header_that_claims_more_bytes_than_the_shape(folder: Path) -> None:
    edit_header(shard_of(folder, WQ_A), lambda h: h[WQ_A].update(shape=[1, 1]))
    assert "needs 1 bytes but has" in refusal(folder)


def test_a_missing_tensor(folder: Path) -> None:
    edit_json(folder / "model.safetensors.index.json", lambda i: i["weight_map"].pop(WQ_A))
    assert f"lacks tensor {WQ_A} (1 missing" in refusal(folder)


def test_a_tensor_the_index_places_in_the_wrong_file(folder: Path) -> None:
    edit_header(shard_of(folder, WQ_A), lambda h: h.update({"renamed": h.pop(WQ_A)}))
    assert f"does not hold tensor {WQ_A}" in refusal(folder)


def test_a_tensor_nobody_knows(folder: Path) -> None:
    path = shard_of(folder, WQ_A)
    edit_header(path, lambda h: h.update({"vision.weight": {**h[WQ_A], "shape": [0], "data_offsets": [0, 0]}}))
    edit_json(folder / "model.safetensors.index.json", lambda i: i["weight_map"].update({"vision.weight": path.name}))
    assert "such as vision.weight" in refusal(folder)


def test_a_wrong_shape(folder: Path) -> None:
    edit_header(shard_of(folder, WQ_A), lambda h: h[WQ_A].update(shape=[256, 128]))
    message = refusal(folder)
    assert "[256, 128]" in message
    assert "asks for F8_E4M3 [128, 256]" in message


def test_a_wrong_dtype(folder: Path) -> None:
    edit_header(shard_of(folder, WQ_A), lambda h: h[WQ_A].update(dtype="I8"))
    assert "is I8" in refusal(folder)


def test_a_dtype_nobody_knows(folder: Path) -> None:
    edit_header(shard_of(folder, WQ_A), lambda h: h[WQ_A].update(dtype="F6"))
    assert "dtype F6" in refusal(folder)


@pytest.mark.parametrize(
    ("tensor", "value", "words"),
    [
        ("layers.3.attn.wq_a.scale", b"\xff", "NaN scale"),
        ("layers.3.ffn.experts.2.w1.scale", b"\xff", "NaN scale"),
        (WQ_A, b"\x7f", "NaN weight"),
        ("layers.3.hc_attn_scale", struct.pack("<f", float("nan")), "NaN or infinite"),
        ("layers.3.attn_norm.weight", b"\x80\x7f", "NaN or infinite"),
        ("layers.0.ffn.gate.tid2eid", struct.pack("<q", 5), "outside 0..4"),
    ],
)
def test_values_no_sound_checkpoint_holds(folder: Path, tensor: str, value: bytes, words: str) -> None:
    overwrite(folder, tensor, value)
    message = refusal(folder)
    assert words in message
    assert tensor in message


def test_a_drafter_without_its_config_keys(folder: Path, tmp_path: Path) -> None:
    dspark = Path(shutil.copytree(DSPARK_CHECKPOINT, tmp_path / "dspark"))
    edit_json(dspark / "config.json", lambda c: c.pop("dspark_block_size"))
    assert "lacks its dspark_ keys" in refusal(dspark)


def test_a_named_drafter_that_lacks_a_tensor_is_refused(folder: Path) -> None:
    edit_json(folder / "model.safetensors.index.json", lambda i: i["weight_map"].pop("mtp.0.e_proj.weight"))
    assert "lacks tensor mtp.0.e_proj.weight" in refusal(folder)


def test_a_checkpoint_without_any_drafter_just_runs(folder: Path) -> None:
    def drop(index: dict[str, dict[str, str]]) -> None:
        index["weight_map"] = {n: f for n, f in index["weight_map"].items() if not n.startswith("mtp.")}

    edit_json(folder / "model.safetensors.index.json", drop)
    model = ds4_mlx.load(folder, dtype=mx.float32)
    assert model.config.num_nextn_predict_layers == 0
    whole = ds4_mlx.load(GOLDEN_CHECKPOINT, dtype=mx.float32)
    assert mx.array_equal(model.session().feed([1, 2]), whole.session().feed([1, 2]))


def test_a_model_larger_than_memory_is_refused_with_both_numbers() -> None:
    with pytest.raises(UserError, match=r"needs 149\.2 GB .* has 96\.0 GB"):
        check_fits(149_200_000_000, "model", available=96_000_000_000)


def test_loading_asks_whether_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ds4_mlx.engine.memory.total_memory", lambda: 1000)
    with pytest.raises(UserError, match="memory"):
        ds4_mlx.load()


def test_a_repository_that_cannot_be_had_is_refused_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(UserError, match=r"someone/some-model is no folder here.*no network"):
        ds4_mlx.load("someone/some-model")


def test_identity_tells_checkpoints_apart(folder: Path) -> None:
    golden = open_checkpoint(GOLDEN_CHECKPOINT).identity()
    assert open_checkpoint(folder).identity() == golden
    assert open_checkpoint(DSPARK_CHECKPOINT).identity() != golden
    overwrite(folder, "layers.3.attn_norm.weight", b"\x01\x3f")
    assert open_checkpoint(folder).identity() != golden


def test_the_prompt_profile_follows_the_encoder_a_checkpoint_brings(folder: Path) -> None:
    model = ds4_mlx.engine.language_model.open_model(folder)
    assert model.prompt_profile == "april"
    (folder / "encoding").mkdir()
    (folder / "encoding" / "encoding_dsv4.py").write_text("REASONING_EFFORT_PROMPTS = {}")
    assert model.prompt_profile == "0731"


def test_a_0731_config_means_the_0731_profile_without_an_encoder() -> None:
    assert ds4_mlx.engine.language_model.open_model(DSPARK_CHECKPOINT).prompt_profile == "0731"


def test_the_golden_config_is_valid_json() -> None:
    assert json.loads((GOLDEN_CHECKPOINT / "config.json").read_text())["model_type"] == "deepseek_v4"
