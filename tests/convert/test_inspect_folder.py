"""Inspecting tells what a folder holds without reading its weights."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from ds4_convert.inspect import Report, inspect, render, to_json
from ds4_mlx.errors import UserError

from checkpoint.damage import copy_of_golden
from support import DSPARK_CHECKPOINT, GOLDEN_CHECKPOINT


def rendered(report: Report) -> str:
    shown = io.StringIO()
    render(report, Console(file=shown, width=120))
    return shown.getvalue()


def test_a_released_checkpoint() -> None:
    report = inspect(GOLDEN_CHECKPOINT)
    assert (report.kind, report.layers, report.experts, report.context) == ("official", 7, 5, 1048576)
    assert report.ratios == {0: 2, 4: 3, 128: 2}
    assert (report.drafter, report.prompt_profile, report.tokenizer) == ("MTP block", "april", "tokenizer.json")
    assert (report.shards, report.tensors, report.bytes_on_disk) == (3, 529, 9448104)
    assert (report.profile, report.fingerprint, report.source) == ("exact", None, None)
    assert "DeepSeek's released format" in rendered(report)


def test_a_0731_checkpoint() -> None:
    report = inspect(DSPARK_CHECKPOINT)
    assert report.drafter == "DSpark, 3 stages (kept aside)"
    assert report.prompt_profile == "0731"
    assert "0731" in report.model
    assert report.memory_needed < sum(entry.nbytes for entry in report.classes.values())


def test_a_converted_folder(converted: Path) -> None:
    released, report = inspect(GOLDEN_CHECKPOINT), inspect(converted)
    assert report.kind == "converted"
    assert report.identity == released.identity
    assert report.classes == released.classes
    assert report.bits_per_weight == released.bits_per_weight
    assert report.fingerprint is not None
    text = rendered(report)
    assert "ds4-mlx, profile exact" in text
    assert report.fingerprint[:16] in text
    assert f"{GOLDEN_CHECKPOINT.name}, by ds4-mlx" in text


def test_json_holds_the_same(converted: Path) -> None:
    value = json.loads(json.dumps(to_json(inspect(converted))))
    assert value["ratios"] == {"0": 2, "4": 3, "128": 2}
    assert value["classes"]["routed experts"]["bits_per_weight"] == 4.25
    assert value["source"]["tensors"] == 529


def test_a_folder_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    folder = copy_of_golden(tmp_path)
    (folder / "tokenizer.json").unlink()
    assert "lacks tokenizer.json" in rendered(inspect(folder))


def test_an_incomplete_folder_is_refused(tmp_path: Path) -> None:
    folder = copy_of_golden(tmp_path)
    next(folder.glob("*.safetensors")).unlink()
    with pytest.raises(UserError, match="which is not there"):
        inspect(folder)
