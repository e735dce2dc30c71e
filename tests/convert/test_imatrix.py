"""ds4's imatrix files: what they say about a matrix, and what is told when they do not fit."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from ds4_convert.imatrix import open_imatrix
from ds4_mlx.errors import UserError

from checkpoint import imatrix_file

ENTRIES = imatrix_file.for_experts(layers=2, experts=3, width=8, inner=4)
W1, W2 = "layers.1.ffn.experts.w1", "layers.1.ffn.experts.w2"
DOWN = "blk.1.ffn_down_exps.weight"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return imatrix_file.write(tmp_path / "some.dat", ENTRIES)


def refusal(path: Path, item: str = W2, experts: int = 3, width: int = 4) -> str:
    with pytest.raises(UserError) as caught:
        open_imatrix(path).importance(item, experts, width)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


def test_gate_up_and_down_have_values_of_their_own(file: Path) -> None:
    imatrix = open_imatrix(file)
    for matrix, name, width in (("w1", "gate", 8), ("w3", "up", 8), ("w2", "down", 4)):
        found = imatrix.importance(f"layers.1.ffn.experts.{matrix}", 3, width)
        assert np.array_equal(found, ENTRIES[f"blk.1.ffn_{name}_exps.weight"].reshape(3, width))


def test_sums_are_divided_by_the_calls(tmp_path: Path) -> None:
    path = imatrix_file.write(tmp_path / "some.dat", ENTRIES, calls=4)
    assert np.array_equal(open_imatrix(path).importance(W2, 3, 4), ENTRIES[DOWN].reshape(3, 4) / np.float32(4))


def test_the_hash_is_that_of_the_file(file: Path) -> None:
    assert open_imatrix(file).sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_files_without_chunks_and_dataset_are_older_ones(tmp_path: Path) -> None:
    path = imatrix_file.write(tmp_path / "old.dat", ENTRIES, tail=b"")
    assert open_imatrix(path).importance(W1, 3, 8).shape == (3, 8)


def test_another_model_has_other_layers_or_sizes(file: Path) -> None:
    assert "no values for blk.7.ffn_gate_exps.weight: it was made with another model" in refusal(
        file, "layers.7.ffn.experts.w1"
    )
    message = refusal(file, W2, experts=3, width=8)
    assert "has 12 values" in message
    assert "3 experts of 8 columns need 24: it was made with another model" in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_values_that_are_no_mean_squares(value: float, tmp_path: Path) -> None:
    bad = ENTRIES[DOWN].copy()
    bad[5] = value
    assert "no mean squares" in refusal(imatrix_file.write(tmp_path / "bad.dat", {**ENTRIES, DOWN: bad}))


def test_only_zeros(tmp_path: Path) -> None:
    path = imatrix_file.write(tmp_path / "zeros.dat", {**ENTRIES, DOWN: np.zeros(12)})
    assert "only zeros" in refusal(path)


def test_a_file_cut_off_anywhere(file: Path) -> None:
    data = file.read_bytes()
    whole = len(data) - 4 - 4 - len("prompts.txt")
    for length in range(0, whole, 5):
        file.write_bytes(data[:length])
        assert "is no imatrix .dat file, or was cut off" in refusal(file)


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html></html>", bytes(64), struct.pack("<ii", 3, -1)])
def test_what_is_no_imatrix(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "some.dat").write_bytes(content)
    assert "is no imatrix .dat file" in refusal(tmp_path / "some.dat")


def test_the_newer_kind_of_llama_cpp(tmp_path: Path) -> None:
    (tmp_path / "some.gguf").write_bytes(b"GGUF" + bytes(100))
    assert "newer GGUF form; give one in the .dat form" in refusal(tmp_path / "some.gguf")


def test_no_file(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "missing.dat")
