"""The beginning of a GGUF file: read as the gguf library reads it; what is wrong with it told in one sentence."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from ds4_convert.gguf.header import header_bytes, read_header
from ds4_convert.gguf.writing import TensorInfo, array, boolean, float32, header, int32, string, uint32, uint64
from ds4_mlx.errors import UserError

from checkpoint import random_gguf


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return random_gguf.write(tmp_path / "model.gguf")


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_header(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


def edit(path: Path, change: Callable[[bytearray], None]) -> Path:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    return path


def tensor_info(data: bytes, name: str) -> int:
    """Where the dimensions of a tensor begin in a header."""
    text = name.encode()
    return data.index(struct.pack("<Q", len(text)) + text) + 8 + len(text)


def test_keys_and_tensors_are_those_the_gguf_library_reads(file: Path) -> None:
    ours, theirs = read_header(file), gguf.GGUFReader(file)
    fields = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert ours.keys.keys() == fields.keys()
    for key, value in fields.items():
        assert ours.keys[key] == (value if not isinstance(value, float) else float(str(np.float32(value)))), key
    assert [(t.name, t.shape, t.type, t.offset, t.nbytes) for t in ours.tensors.values()] == [
        (t.name, tuple(int(n) for n in reversed(t.shape)), t.tensor_type, t.data_offset, t.n_bytes)
        for t in theirs.tensors
    ]
    assert ours.data_start == theirs.data_offset
    assert header_bytes(ours) == file.read_bytes()[: ours.data_start]


def test_numbers_are_the_ones_a_person_wrote(file: Path) -> None:
    assert read_header(file).keys["deepseek4.attention.layer_norm_rms_epsilon"] == 1e-6


def test_a_header_of_ours_is_read_by_the_gguf_library(tmp_path: Path) -> None:
    keys = {
        "general.architecture": string("deepseek4"), "a": uint32(7), "b": int32(-7), "c": float32(0.5),
        "d": boolean(True), "e": uint64(1 << 40), "f": array(string, ["x", "öß"]), "g": array(uint32, [1, 2]),
    }  # fmt: skip
    infos = [TensorInfo("one", (2, 3), Type.F32, 0), TensorInfo("two", (4, 256), Type.Q2_K, 32)]
    path = tmp_path / "ours.gguf"
    path.write_bytes(header(keys, infos, 32) + bytes(32 + 4 * 84))
    read = gguf.GGUFReader(path)
    values = {name: field.contents() for name, field in read.fields.items() if not name.startswith("GGUF.")}
    assert values == {
        "general.architecture": "deepseek4", "a": 7, "b": -7, "c": 0.5, "d": True, "e": 1 << 40, "f": ["x", "öß"],
        "g": [1, 2],
    }  # fmt: skip
    assert [(t.name, [*t.shape], t.n_bytes) for t in read.tensors] == [("one", [3, 2], 24), ("two", [256, 4], 336)]
    assert read_header(path).tensors["two"].shape == (4, 256)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"<!DOCTYPE html><html>not found</html>", b"PK\x03\x04" + bytes(40)])
def test_what_is_no_gguf_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    assert "is not a GGUF file" in refusal(tmp_path / "model.gguf")


def test_a_big_endian_file(file: Path) -> None:
    def turn(data: bytearray) -> None:
        data[4:8] = struct.pack(">I", 3)

    assert "big-endian" in refusal(edit(file, turn))


@pytest.mark.parametrize(("version", "advice"), [(1, "Download a newer file"), (4, "Update ds4-mlx")])
def test_another_version(file: Path, version: int, advice: str) -> None:
    def change(data: bytearray) -> None:
        data[4:8] = struct.pack("<I", version)

    message = refusal(edit(file, change))
    assert f"version {version}" in message
    assert advice in message


def test_a_file_cut_off_in_its_header(file: Path) -> None:
    data = file.read_bytes()
    end = read_header(file).data_start
    for length in random.Random(1).sample(range(24, end - 32), 60):
        file.write_bytes(data[:length])
        assert "truncated" in refusal(file)


def test_a_file_cut_off_in_its_data_names_the_first_tensor_that_is_not_whole(file: Path) -> None:
    tensor = read_header(file).tensors["blk.2.ffn_up_exps.weight"]
    file.write_bytes(file.read_bytes()[: tensor.offset + tensor.nbytes - 1])
    message = refusal(file)
    assert "is truncated: tensor blk.2.ffn_up_exps.weight ends at byte" in message


def test_counts_beyond_reason(file: Path) -> None:
    def change(data: bytearray) -> None:
        data[8:16] = struct.pack("<Q", 1 << 60)

    assert "claims 1152921504606846976 tensors" in refusal(edit(file, change))


def test_a_type_that_nobody_knows(file: Path) -> None:
    def change(data: bytearray) -> None:
        at = tensor_info(data, "blk.2.ffn_up_exps.weight") + 4 + 3 * 8
        data[at : at + 4] = struct.pack("<I", 99)

    message = refusal(edit(file, change))
    assert "blk.2.ffn_up_exps.weight has ggml type 99, which is unknown" in message


def test_rows_that_are_no_whole_blocks(file: Path) -> None:
    def change(data: bytearray) -> None:
        at = tensor_info(data, "blk.2.ffn_up_exps.weight") + 4
        data[at : at + 8] = struct.pack("<Q", random_gguf.SMALL.width - 8)

    message = refusal(edit(file, change))
    assert "hold 248 weights, which is no whole number of IQ2_XXS blocks of 256" in message


@pytest.mark.parametrize(
    ("offset", "words"), [(1, "is not aligned to 32 bytes"), (32, "overlap"), (1 << 40, "is truncated")]
)
def test_a_tensor_somewhere_else(file: Path, offset: int, words: str) -> None:
    def change(data: bytearray) -> None:
        at = tensor_info(data, "blk.2.ffn_up_exps.weight") + 4 + 3 * 8 + 4
        data[at : at + 8] = struct.pack("<Q", offset)

    assert words in refusal(edit(file, change))


def test_a_name_that_occurs_twice(file: Path) -> None:
    def change(data: bytearray) -> None:
        at = data.index(b"blk.2.ffn_up_exps.weight")
        data[at : at + 24] = b"blk.3.ffn_up_exps.weight"

    assert "a name occurs twice" in refusal(edit(file, change))


def test_any_damage_of_the_header_is_told_in_a_sentence_or_harmless(file: Path) -> None:
    data, end, dice = file.read_bytes(), read_header(file).data_start, random.Random(7)
    for _ in range(400):
        damaged, at = bytearray(data), dice.randrange(end - 8)
        damaged[at : at + 8] = dice.randbytes(8)
        file.write_bytes(damaged)
        with suppress(UserError):
            read_header(file)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "missing.gguf")
