"""A folder that came from DeepSeek's checkpoint becomes a file like ds4's own."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import gguf
import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from rich.console import Console

from ds4_convert import convert
from ds4_convert.gguf.export import export_gguf
from ds4_convert.gguf.names import item_name
from ds4_convert.verify import verify
from ds4_mlx.checkpoint import Checkpoint, open_checkpoint
from ds4_mlx.checkpoint.items import Item
from ds4_mlx.errors import UserError
from ds4_mlx.quant import FORMATS, get_format

from checkpoint import imatrix_file, random_gguf, random_released
from checkpoint.damage import edit_json, overwrite
from support import DSPARK_CHECKPOINT, GOLDEN_CHECKPOINT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model, converted to q2 with an imatrix."""
    base = tmp_path_factory.mktemp("small")
    imatrix = imatrix_file.write(base / "small.dat", imatrix_file.for_experts(2, 3, 256, 256))
    source = random_released.write_small(base / "Small-Flash")
    convert(source, base / "q2", profile="q2", imatrix=imatrix, console=Console(quiet=True))
    return base / "q2"


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    """The folder as a GGUF."""
    export_gguf(folder, folder.with_name("q2.gguf"), console=Console(quiet=True))
    return folder.with_name("q2.gguf")


def values(checkpoint: Checkpoint, arrays: dict[str, mx.array], item: Item) -> np.ndarray:
    """An item's numbers as a folder holds them: float32, or int32 as it is."""
    storage = checkpoint.formats.of(item.name)
    stored = [arrays[array.name] for array in item.arrays(storage)]
    if storage in FORMATS:
        return np.array(get_format(storage).decode(*stored))
    return np.array(stored[0] if storage == "I32" else stored[0].astype(mx.float32))


def refusal(source: Path, destination: Path) -> str:
    existed = destination.exists()
    with pytest.raises(UserError) as caught:
        export_gguf(source, destination, console=Console(quiet=True))
    message = str(caught.value)
    assert "\n" not in message
    assert destination.exists() == existed
    assert not list(destination.parent.glob("*.tmp"))
    return message


def test_tensors_have_ds4s_names_types_and_order(file: Path) -> None:
    """The small model's layers are like the first and the third of `random_gguf`."""
    expected = [
        (name.replace("blk.2.", "blk.1."), kind)
        for name, (_, kind) in random_gguf.tensors().items()
        if not name.startswith(("blk.1.", "blk.3."))
    ]
    tensors = gguf.GGUFReader(file).tensors
    assert [(tensor.name, tensor.tensor_type) for tensor in tensors] == expected
    assert all(tensor.data_offset % 32 == 0 for tensor in tensors)


def test_every_key_of_ds4s_files_is_there_with_its_type(file: Path) -> None:
    found = {name: field for name, field in gguf.GGUFReader(file).fields.items() if not name.startswith("GGUF.")}
    other = {"block_count", "expert_count", "hash_layer_count", "compress_ratios", "swiglu_clamp_exp"}
    for key, (kind, value) in random_gguf.keys().items():
        if kind == "array":
            assert found[key].types[0] == gguf.GGUFValueType.ARRAY, key
        else:
            assert found[key].types[0].name.lower() == kind, key
        if key.startswith("deepseek4.") and key.split(".")[-1] not in other:
            assert found[key].contents() == pytest.approx(value), key
    assert found["general.architecture"].contents() == "deepseek4"
    assert found["general.name"].contents() == "Small-Flash"
    assert found["quantize.imatrix.file"].contents() == "small.dat"
    assert found["deepseek4.attention.compress_ratios"].contents() == [0, 4]


def test_weights_are_exact_but_for_what_the_types_cannot_hold(folder: Path, file: Path) -> None:
    checkpoint = open_checkpoint(folder)
    arrays, items = dict(checkpoint.load()), {item.name: item for item in checkpoint.items}
    for tensor in gguf.GGUFReader(file).tensors:
        ours = values(checkpoint, arrays, items[item_name(tensor.name)])
        if tensor.tensor_type == Type.Q8_0:
            assert np.array_equal(tensor.data, gguf.quants.quantize(ours, Type.Q8_0)), tensor.name
        elif tensor.tensor_type == Type.F16:
            assert np.array_equal(tensor.data, ours.astype(np.float16)), tensor.name
        else:
            theirs = (
                tensor.data
                if tensor.data.dtype != np.uint8
                else gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            )
            assert np.array_equal(theirs, ours), tensor.name


def test_the_outcome_tells_what_was_rounded_and_left_out(folder: Path, tmp_path: Path, quiet: Console) -> None:
    outcome = export_gguf(folder, tmp_path / "again.gguf", console=quiet)
    tensors = gguf.GGUFReader(tmp_path / "again.gguf").tensors
    assert outcome.rounded == sum(t.tensor_type in (Type.Q8_0, Type.F16) for t in tensors)
    assert outcome.left_out > 0
    assert outcome.nbytes == (tmp_path / "again.gguf").stat().st_size


def test_it_can_be_converted_and_comes_back_byte_for_byte(file: Path, tmp_path: Path, quiet: Console) -> None:
    convert(file, tmp_path / "out", console=quiet)
    assert verify(tmp_path / "out", console=quiet).sound
    export_gguf(tmp_path / "out", tmp_path / "back.gguf", console=quiet)
    assert (tmp_path / "back.gguf").read_bytes() == file.read_bytes()


def test_exact_experts_are_mxfp4_and_keep_their_bits(tmp_path: Path, quiet: Console) -> None:
    convert(GOLDEN_CHECKPOINT, tmp_path / "exact", console=quiet)
    export_gguf(tmp_path / "exact", tmp_path / "exact.gguf", console=quiet)
    convert(tmp_path / "exact.gguf", tmp_path / "back", console=quiet)
    before, after = (dict(open_checkpoint(tmp_path / name).load()) for name in ("exact", "back"))
    for name, array in before.items():
        if name.startswith("layers.") and ".ffn.experts." in name:
            assert mx.array_equal(after[name], array), name


def test_a_0731_model_goes_without_its_drafter(tmp_path: Path, quiet: Console) -> None:
    convert(DSPARK_CHECKPOINT, tmp_path / "exact", console=quiet)
    outcome = export_gguf(tmp_path / "exact", tmp_path / "exact.gguf", console=quiet)
    assert outcome.left_out > 0
    assert not any(tensor.name.startswith("mtp") for tensor in gguf.GGUFReader(tmp_path / "exact.gguf").tensors)


def test_a_released_folder_is_converted_first(tmp_path: Path) -> None:
    assert "Convert it first" in refusal(GOLDEN_CHECKPOINT, tmp_path / "file.gguf")


def test_destinations_that_cannot_be(folder: Path, file: Path, tmp_path: Path) -> None:
    assert "exists already" in refusal(folder, file)
    assert "Create it first" in refusal(folder, tmp_path / "no" / "file.gguf")


def test_a_disk_that_is_too_small(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ds4_convert.files.free_bytes", lambda folder: 1_000_000)
    assert "only 1.0 MB are free" in refusal(folder, tmp_path / "file.gguf")


def test_a_disk_that_becomes_full(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert "became full while writing" in refusal(folder, tmp_path / "file.gguf")


def test_values_too_large_for_ds4s_types(tmp_path: Path, quiet: Console) -> None:
    source = random_released.write_small(tmp_path / "small")
    overwrite(source, "layers.1.attn.compressor.wkv.weight", b"\x00\x48")  # 131,072
    convert(source, tmp_path / "exact", console=quiet)
    message = refusal(tmp_path / "exact", tmp_path / "file.gguf")
    assert "layers.1.attn.compressor.wkv has values beyond 65,504" in message


@pytest.mark.parametrize("damage", ["gone", "cut off", "another file's"])
def test_a_kept_header_that_does_not_fit(damage: str, tmp_path: Path, quiet: Console) -> None:
    convert(random_gguf.write(tmp_path / "model.gguf"), tmp_path / "out", console=quiet)
    header = tmp_path / "out" / "gguf_header.bin"
    if damage == "gone":
        header.unlink()
    elif damage == "cut off":
        header.write_bytes(header.read_bytes()[:5000])
    else:
        other = random_gguf.write(tmp_path / "other.gguf", experts=random_gguf.Q4)
        header.write_bytes(other.read_bytes()[: header.stat().st_size])
    assert "gguf_header.bin" in refusal(tmp_path / "out", tmp_path / "back.gguf")


@pytest.mark.parametrize("record", [{"gguf": {}}, {"gguf": None}, {"gguf": {"header": 3}}, {"source": {}}])
def test_a_record_that_makes_no_sense(record: dict[str, object], folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    edit_json(copy / "config.json", lambda config: config["ds4_mlx"].update(record))
    assert "does not say where the folder came from" in refusal(copy, tmp_path / "file.gguf")
