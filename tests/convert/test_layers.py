"""`--layers`: a folder of some layers says that it is a part, and is not run."""

from __future__ import annotations

import io
from pathlib import Path

import mlx.core as mx
import pytest
from rich.console import Console

import ds4_mlx
from ds4_convert import convert
from ds4_convert.gguf.export import export_gguf
from ds4_convert.inspect import inspect, render
from ds4_convert.verify import verify
from ds4_mlx.checkpoint import open_checkpoint
from ds4_mlx.errors import UserError

from checkpoint import random_gguf
from checkpoint.damage import edit_json
from support import DSPARK_CHECKPOINT, GOLDEN_CHECKPOINT


@pytest.fixture(params=["released", "0731", "gguf"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "gguf":
        return random_gguf.write(tmp_path / "model.gguf")
    return GOLDEN_CHECKPOINT if request.param == "released" else DSPARK_CHECKPOINT


def test_it_holds_these_layers_and_nothing_else(source: Path, tmp_path: Path, quiet: Console) -> None:
    convert(source, tmp_path / "whole", console=quiet)
    convert(source, tmp_path / "part", layers="1-2", console=quiet)
    part, whole = open_checkpoint(tmp_path / "part", allow_part=True), dict(open_checkpoint(tmp_path / "whole").load())
    assert part.layers == (1, 2)
    arrays = dict(part.load())
    assert arrays.keys() == {name for name in whole if name.startswith(("layers.1.", "layers.2."))}
    for name, array in arrays.items():
        assert mx.array_equal(array.view(mx.uint8), whole[name].view(mx.uint8)), name


def test_it_is_refused_wherever_a_whole_model_is_needed(source: Path, tmp_path: Path, quiet: Console) -> None:
    convert(source, tmp_path / "part", layers="1", console=quiet)
    for use in (open_checkpoint, ds4_mlx.load, lambda folder: export_gguf(folder, tmp_path / "file.gguf")):
        with pytest.raises(UserError, match=r"holds layers 1 to 1 only, .* cannot run"):
            use(tmp_path / "part")


def test_it_can_be_inspected_and_verified(source: Path, tmp_path: Path, quiet: Console) -> None:
    convert(source, tmp_path / "part", layers="1-2", console=quiet)
    report = inspect(tmp_path / "part")
    assert report.only_layers == (1, 2)
    shown = io.StringIO()
    render(report, Console(file=shown, width=120))
    assert "only layers 1 to 2" in shown.getvalue()
    assert verify(tmp_path / "part", console=quiet).sound


@pytest.mark.parametrize("text", ["", "x", "3-", "-1", "5-4", "0-7", "7", "1,2", "99999"])
def test_ranges_that_are_none(text: str, tmp_path: Path, quiet: Console) -> None:
    with pytest.raises(UserError, match=r"expected a range such as 0-6, within this model's layers"):
        convert(GOLDEN_CHECKPOINT, tmp_path / "out", layers=text, console=quiet)


def test_other_layers_are_another_conversion(tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("ds4_convert.conversion._write_rest", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            convert(GOLDEN_CHECKPOINT, tmp_path / "out", layers="1-2", console=quiet)
    with pytest.raises(UserError, match="with another range of layers"):
        convert(GOLDEN_CHECKPOINT, tmp_path / "out", layers="1-3", console=quiet)


@pytest.mark.parametrize("layers", [[0], [2, 1], [0, 7], ["0", "1"], None])
def test_a_record_that_makes_no_sense(layers: object, tmp_path: Path, quiet: Console) -> None:
    convert(GOLDEN_CHECKPOINT, tmp_path / "part", layers="1-2", console=quiet)
    edit_json(tmp_path / "part" / "config.json", lambda config: config["ds4_mlx"].update(layers=layers))
    with pytest.raises(UserError, match=r"says layers .* expected two of 0\.\.6"):
        open_checkpoint(tmp_path / "part", allow_part=True)
