"""A GGUF file becomes a folder of ours: every bit kept, and every odd file refused in one sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from rich.console import Console

from ds4_convert import convert
from ds4_convert.gguf.export import export_gguf
from ds4_convert.gguf.header import read_header
from ds4_convert.gguf.names import item_name
from ds4_convert.inspect import inspect
from ds4_convert.verify import verify
from ds4_mlx.checkpoint import open_checkpoint
from ds4_mlx.errors import UserError
from ds4_mlx.quant import FORMATS, get_format
from ds4_mlx.text import load_tokenizer

from checkpoint import random_gguf
from support import GOLDEN_CHECKPOINT

MIXED = {0: random_gguf.Q2, 1: random_gguf.Q2, 2: random_gguf.Q4, 3: random_gguf.MXFP4}
EXPERTS = {"q2": random_gguf.Q2, "q4": random_gguf.Q4, "mxfp4": random_gguf.MXFP4, "mxfp4-q2-q4": MIXED}
every_kind = pytest.mark.parametrize("profile", EXPERTS)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return random_gguf.write(tmp_path / "model.gguf")


def refusal(source: Path, **options: Any) -> str:
    """The sentence a file is refused with. Nothing that could be taken for a model may be left behind."""
    destination = source.with_name("out")
    with pytest.raises(UserError) as caught:
        convert(source, destination, console=Console(quiet=True), **options)
    message = str(caught.value)
    assert "\n" not in message
    assert not destination.exists()
    return message


def changed(tmp_path: Path, **changes: Any) -> Path:
    return random_gguf.write(tmp_path / "changed.gguf", **changes)


def overwrite(path: Path, tensor: str, value: bytes, at: int = 0) -> Path:
    """Writes bytes into a tensor's data."""
    start = read_header(path).tensors[tensor].offset + at
    with path.open("r+b") as file:
        file.seek(start)
        file.write(value)
    return path


@every_kind
def test_the_file_comes_back_byte_for_byte(profile: str, tmp_path: Path, quiet: Console) -> None:
    source = random_gguf.write(tmp_path / "model.gguf", experts=EXPERTS[profile])
    convert(source, tmp_path / "out", console=quiet)
    outcome = export_gguf(tmp_path / "out", tmp_path / "back.gguf", console=quiet)
    assert (tmp_path / "back.gguf").read_bytes() == source.read_bytes()
    assert (outcome.rounded, outcome.left_out) == (0, 0)
    assert open_checkpoint(tmp_path / "out").profile == profile


@every_kind
def test_every_weight_decodes_to_the_bits_that_gguf_decodes(profile: str, tmp_path: Path, quiet: Console) -> None:
    source = random_gguf.write(tmp_path / "model.gguf", experts=EXPERTS[profile])
    convert(source, tmp_path / "out", console=quiet)
    checkpoint = open_checkpoint(tmp_path / "out")
    arrays, items = dict(checkpoint.load()), {item.name: item for item in checkpoint.items}
    tensors = gguf.GGUFReader(source).tensors
    assert {item_name(tensor.name) for tensor in tensors} == items.keys()
    for tensor in tensors:
        item = items[item_name(tensor.name)]
        storage = checkpoint.formats.of(item.name)
        stored = [arrays.pop(array.name) for array in item.arrays(storage)]
        ours = np.array(get_format(storage).decode(*stored) if storage in FORMATS else stored[0])
        theirs = gguf.quants.dequantize(tensor.data, tensor.tensor_type) if storage in FORMATS else tensor.data
        assert ours.shape == theirs.shape == item.shape
        if storage == "mxfp4":  # ggml has no negative zero
            ours = ours + np.float32(0)
        assert ours.tobytes() == np.ascontiguousarray(theirs).tobytes(), tensor.name
    assert not arrays


def test_the_folder_is_sound_and_tells_what_it_is(file: Path, tmp_path: Path, quiet: Console) -> None:
    convert(file, tmp_path / "out", console=quiet)
    assert verify(tmp_path / "out", console=quiet).sound
    report = inspect(tmp_path / "out")
    assert (report.profile, report.drafter, report.layers) == ("q2", None, 4)
    assert report.ratios == {0: 2, 4: 1, 128: 1}
    assert report.formats["routed experts"] == "iq2_xxs, q2_k"
    assert report.classes["routed experts"].bits_per_weight == 2.25
    own = open_checkpoint(tmp_path / "out").own
    assert own["source"] == {"name": "model.gguf", "tensors": 116, "bytes": own["source"]["bytes"]}
    assert own["gguf"] == {"header": "gguf_header.bin", "bytes": file.stat().st_size}
    assert own["formats"]["layers.*.attn.wq_a"] == "q8_0"
    assert own["formats"]["layers.*.attn.indexer.wq_b"] == "F16"


def test_layers_stored_otherwise_are_named_one_by_one(tmp_path: Path, quiet: Console) -> None:
    convert(changed(tmp_path, experts=MIXED), tmp_path / "out", console=quiet)
    checkpoint = open_checkpoint(tmp_path / "out")
    table = {name: storage for name, storage in checkpoint.own["formats"].items() if name.endswith("experts.w2")}
    assert table["layers.*.ffn.experts.w2"] == "q2_k"
    assert table["layers.3.ffn.experts.w2"] == "mxfp4"
    assert [checkpoint.formats.of(f"layers.{n}.ffn.experts.w2") for n in range(4)] == ["q2_k", "q2_k", "q4_k", "mxfp4"]


def test_config_json_says_what_the_keys_say(file: Path, tmp_path: Path, quiet: Console) -> None:
    convert(file, tmp_path / "out", console=quiet)
    config = open_checkpoint(tmp_path / "out").config
    golden = open_checkpoint(GOLDEN_CHECKPOINT).config
    alike = ("hidden_size", "head_dim", "q_lora_rank", "rms_norm_eps", "hc_eps", "rope_scaling", "swiglu_limit",
             "compress_rope_theta", "routed_scaling_factor", "index_topk", "eos_token_id")  # fmt: skip
    assert {key: getattr(config, key) for key in alike} == {key: getattr(golden, key) for key in alike}
    assert (config.num_nextn_predict_layers, config.dspark) == (0, None)
    assert config.compress_ratios == (0, 0, 4, 128)


def test_the_tokenizer_comes_along(file: Path, tmp_path: Path, quiet: Console) -> None:
    convert(file, tmp_path / "out", console=quiet)
    text = "<｜begin▁of▁sentence｜><｜User｜>Hello, 12345 wörld!\n\n  x = {}\n<｜Assistant｜></think>"
    ours, golden = load_tokenizer(tmp_path / "out"), load_tokenizer(GOLDEN_CHECKPOINT)
    assert ours.encode(text) == golden.encode(text)


@pytest.mark.parametrize("place", ["name of the file", "general.name", "behind a link"])
def test_a_0731_file_is_known_by_its_name(place: str, tmp_path: Path, quiet: Console) -> None:
    if place == "general.name":
        source = changed(tmp_path, changed_keys={"general.name": ("string", "DeepSeek-V4-Flash-0731")})
    else:
        source = random_gguf.write(tmp_path / "Flash-imatrix-0731.gguf")
        if place == "behind a link":
            (tmp_path / "ds4flash.gguf").symlink_to(source)
            source = tmp_path / "ds4flash.gguf"
    convert(source, tmp_path / "out", console=quiet)
    assert open_checkpoint(tmp_path / "out").prompt_profile == "0731"


def test_expert_tensors_may_share_their_bytes(file: Path, tmp_path: Path, quiet: Console) -> None:
    """As in test files that repeat a few layers to stay small."""
    header = read_header(file)
    data = bytearray(file.read_bytes())
    name = b"blk.1.ffn_up_exps.weight"
    at = data.index(name) + len(name) + 4 + 3 * 8 + 4
    twin = header.tensors["blk.0.ffn_up_exps.weight"].offset - header.data_start
    gap = header.tensors["blk.1.ffn_up_exps.weight"]
    data[at : at + 8] = twin.to_bytes(8, "little")
    data[gap.offset : gap.offset + gap.nbytes] = bytes(gap.nbytes)
    file.write_bytes(data)
    convert(file, tmp_path / "out", console=quiet)
    export_gguf(tmp_path / "out", tmp_path / "back.gguf", console=quiet)
    assert (tmp_path / "back.gguf").read_bytes() == bytes(data)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "llama"}, "architecture 'llama'; ds4-mlx converts 'deepseek4'"),
        ({"changed_keys": {"deepseek4.expert_count": None}}, "lacks the key deepseek4.expert_count"),
        ({"changed_keys": {"deepseek4.expert_group_count": ("uint32", 8)}}, "8 groups"),
        ({"changed_keys": {"deepseek4.attention.value_length": ("uint32", 64)}}, "attention.value_length = 64"),
        ({"changed_keys": {"deepseek4.swiglu_clamp_exp": ("array", [10.0, 9.0])}}, "different clamps"),
        ({"changed_keys": {"deepseek4.attention.compress_ratios": ("array", [0, 0, 4, 8])}}, "known are 0, 4, 128"),
        ({"changed_keys": {"deepseek4.expert_weights_norm": ("bool", False)}}, "norm_topk_prob = False"),
        ({"changed_keys": {"split.count": ("uint16", 3)}}, "is part one of 3 of a split GGUF. Join the parts"),
        ({"changed_keys": {"tokenizer.ggml.pre": ("string", "qwen2")}}, "tokenizer.ggml.pre = 'qwen2'"),
        ({"changed_keys": {"tokenizer.ggml.merges": None}}, "lacks the tokens, their kinds or the merges"),
        ({"changed_keys": {"tokenizer.ggml.merges": ("array", ["x qqqqq"])}}, "damaged tokenizer"),
        ({"changed_keys": {"tokenizer.ggml.token_type": ("array", [1, 1])}}, "400 tokens, 2 kinds"),
        ({"changed_keys": {"deepseek4.block_count": ("uint32", 5)}}, "one entry per layer (5)"),
        ({"changed_keys": {"deepseek4.block_count": ("uint32", 3)}}, "holds 28 tensors that a ds4 file"),
        ({"changed_tensors": {"blk.3.attn_sinks.weight": None}}, "lacks tensor blk.3.attn_sinks.weight (1 missing"),
        ({"changed_tensors": {"mtp.0.norm.weight": ((256,), Type.F32)}}, "such as mtp.0.norm.weight"),
        ({"changed_tensors": {"embed": ((400, 256), Type.F16)}}, "such as embed"),
        ({"changed_tensors": {"blk.03.attn_norm.weight": ((256,), Type.F32)}}, "such as blk.03.attn_norm.weight"),
        ({"changed_tensors": {"blk.3.attn_kv.weight": ((64, 256), Type.Q8_0)}}, "has the shape [64, 256]"),
        ({"changed_tensors": {"blk.3.ffn_down_exps.weight": ((4, 256, 256), Type.Q2_K)}}, "keys it is [5, 256, 256]"),
        ({"changed_tensors": {"blk.3.ffn_up_exps.weight": ((5, 256, 256), Type.Q4_K)}}, "stored in two ways"),
        ({"changed_tensors": {"blk.3.attn_norm.weight": ((256,), Type.Q8_0)}}, "as Q8_0, which is not supported"),
        ({"changed_tensors": {"blk.1.ffn_gate_tid2eid.weight": ((400, 2), Type.F32)}}, "stored as F32, which is not"),
    ],
    ids=str,
)  # fmt: skip
def test_files_of_another_kind(changes: Mapping[str, Any], words: str, tmp_path: Path) -> None:
    source = changed(tmp_path, **changes)
    assert words in refusal(source)
    assert not (tmp_path / "out.partial").exists()


def test_a_type_that_ds4_does_not_have(file: Path) -> None:
    data = bytearray(file.read_bytes())
    name = b"blk.3.hc_attn_fn.weight"
    at = data.index(name) + len(name) + 4 + 2 * 8
    data[at : at + 4] = int(Type.I16).to_bytes(4, "little")
    file.write_bytes(data)
    message = refusal(file)
    assert "blk.3.hc_attn_fn.weight is stored as I16, which is not supported for it; ds4's files have F32" in message


@pytest.mark.parametrize(
    ("tensor", "value", "at", "words"),
    [
        ("blk.1.ffn_gate_exps.weight", b"\x00\x7c", 66, "scale that is NaN or infinite"),
        ("blk.1.ffn_down_exps.weight", b"\x01\xfe", 84 + 82, "scale that is NaN or infinite"),
        ("blk.1.attn_q_a.weight", b"\x00\x7e", 34 * 7, "scale that is NaN or infinite"),
        ("token_embd.weight", b"\x00\x7c", 12, "NaN or infinite value"),
        ("blk.1.attn_norm.weight", b"\x00\x00\xc0\x7f", 4, "NaN or infinite value"),
        ("blk.1.ffn_gate_tid2eid.weight", b"\x05\x00\x00\x00", 8, "expert number outside 0..4"),
    ],
)
def test_values_no_sound_file_holds(tensor: str, value: bytes, at: int, words: str, file: Path) -> None:
    message = refusal(overwrite(file, tensor, value, at))
    assert words in message
    assert tensor in message


def test_an_exponent_that_is_no_number(tmp_path: Path) -> None:
    source = changed(tmp_path, experts=random_gguf.MXFP4)
    assert "scale that is NaN or infinite" in refusal(overwrite(source, "blk.1.ffn_down_exps.weight", b"\xff", 17))


def test_something_between_the_tensors(file: Path) -> None:
    tensors = sorted(read_header(file).tensors.values(), key=lambda t: t.offset)
    end = next(a.offset + a.nbytes for a, b in pairwise(tensors) if a.offset + a.nbytes < b.offset)
    with file.open("r+b") as stream:
        stream.seek(end)
        stream.write(b"\x01")
    assert f"holds something at byte {end:,} that is no tensor" in refusal(file)


def test_something_behind_the_last_tensor(file: Path) -> None:
    with file.open("ab") as stream:
        stream.write(b"appended")
    assert "that is no tensor" in refusal(file)


def test_a_part_of_a_split_file_by_its_name(file: Path) -> None:
    part = file.rename(file.with_name("model-00002-of-00003.gguf"))
    assert "part 00002 of 00003 of a split GGUF" in refusal(part)


def test_a_file_that_shrinks_while_it_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ds4_convert.plan.Plan.render", lambda *_: os.truncate(file, file.stat().st_size // 2))
    assert "was cut off while being read" in refusal(file)


def test_options_that_a_gguf_does_not_take(file: Path, tmp_path: Path) -> None:
    assert "is quantised already" in refusal(file, imatrix=tmp_path / "some.dat")
    assert "stored as profile q2 has them" in refusal(file, profile="exact")


def test_the_profile_it_has_may_be_named(file: Path, tmp_path: Path, quiet: Console) -> None:
    convert(file, tmp_path / "out", profile="q2", console=quiet)
    assert open_checkpoint(tmp_path / "out").profile == "q2"


def test_an_interrupted_conversion_goes_on_only_with_the_same_file(
    file: Path, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("ds4_convert.conversion._write_rest", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            convert(file, tmp_path / "out", console=quiet)
    file.write_bytes(changed(tmp_path, seed=1).read_bytes())
    assert "with another checkpoint id" in refusal(file)
    random_gguf.write(file)
    assert convert(file, tmp_path / "out", console=quiet).shards_kept == 5


def test_the_same_file_gives_the_same_bytes(file: Path, tmp_path: Path, quiet: Console) -> None:
    for name, jobs in (("a", 1), ("b", 3)):
        convert(file, tmp_path / name, jobs=jobs, console=quiet)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_the_header_belongs_to_the_checksums(file: Path, tmp_path: Path, quiet: Console) -> None:
    convert(file, tmp_path / "out", console=quiet)
    recorded = json.loads((tmp_path / "out" / "checksums.json").read_text())["files"]
    assert {"gguf_header.bin", "tokenizer.json", "config.json"} <= recorded.keys()
    header = tmp_path / "out" / "gguf_header.bin"
    header.write_bytes(header.read_bytes()[:-1])
    assert [problem.file for problem in verify(tmp_path / "out", console=quiet).problems] == ["gguf_header.bin"]


def test_mlx_itself_loads_the_folder(file: Path, tmp_path: Path, quiet: Console) -> None:
    convert(file, tmp_path / "out", console=quiet)
    loaded = mx.load(str(tmp_path / "out" / "model-00002-of-00005.safetensors"))
    assert loaded["layers.0.ffn.experts.w1.qs"].shape == (5, 256, 8, 2)
    assert loaded["layers.0.attn.wq_a.scales"].dtype == mx.float16
