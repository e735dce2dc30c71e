"""Profile q2: routed experts in 2 bits, everything else as it was released."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from rich.console import Console

from ds4_convert import convert
from ds4_convert.conversion import partial_folder
from ds4_convert.progress import Meter
from ds4_convert.verify import verify
from ds4_mlx.checkpoint import Checkpoint, open_checkpoint
from ds4_mlx.errors import UserError
from ds4_mlx.quant import get_format
from ds4_mlx.quant.encoders import encode

from checkpoint import imatrix_file, random_released
from checkpoint.damage import overwrite
from support import GOLDEN_CHECKPOINT

FORMATS = {"w1": "iq2_xxs", "w2": "q2_k", "w3": "iq2_xxs"}
ENTRIES = imatrix_file.for_experts(layers=2, experts=3, width=256, inner=256)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_released.write_small(tmp_path_factory.mktemp("source") / "small")


@pytest.fixture(scope="module")
def imatrix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imatrix_file.write(tmp_path_factory.mktemp("imatrix") / "small.dat", ENTRIES)


@pytest.fixture(scope="module")
def plain(released: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Converted without an imatrix."""
    return q2(released, tmp_path_factory.mktemp("plain") / "out")


@pytest.fixture(scope="module")
def weighted(released: Path, imatrix: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Converted with one."""
    return q2(released, tmp_path_factory.mktemp("weighted") / "out", imatrix=imatrix)


def q2(source: Path, destination: Path, **options: Any) -> Checkpoint:
    convert(source, destination, profile="q2", console=Console(quiet=True), **options)
    return open_checkpoint(destination)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def refusal(source: Path, **options: Any) -> str:
    destination = source.with_name("refused")
    with pytest.raises(UserError) as caught:
        convert(source, destination, console=Console(quiet=True), **options)
    message = str(caught.value)
    assert "\n" not in message
    assert not destination.exists()
    assert not partial_folder(destination).exists()
    return message


def released_weights(released: Path, item: str) -> mx.array:
    """The experts of an item as they were released, float32."""
    arrays = dict(open_checkpoint(released).load())
    return get_format("mxfp4").decode(arrays[f"{item}.weight"], arrays[f"{item}.scales"])


def stored_weights(checkpoint: Checkpoint, item: str) -> np.ndarray:
    arrays, fmt = dict(checkpoint.load()), get_format(checkpoint.formats.of(item))
    return np.array(fmt.decode(*[arrays[f"{item}.{part.name}"] for part in fmt.parts]))


def test_only_the_routed_experts_of_the_layers_change(released: Path, plain: Checkpoint) -> None:
    exact, ours = dict(open_checkpoint(released).load()), dict(plain.load())
    assert plain.profile == "q2"
    for name, array in exact.items():
        if not name.startswith("layers.") or ".ffn.experts." not in name:
            assert mx.array_equal(ours.pop(name).view(mx.uint8), array.view(mx.uint8)), name
    parts = {
        f"layers.{n}.ffn.experts.{w}.{p.name}" for n in (0, 1) for w, f in FORMATS.items() for p in get_format(f).parts
    }
    assert ours.keys() == parts


def test_the_drafter_keeps_its_experts(plain: Checkpoint) -> None:
    assert plain.formats.of("mtp.0.ffn.experts.w1") == "mxfp4"


@pytest.mark.parametrize("matrix", FORMATS)
def test_the_arrays_are_those_of_the_encoder(matrix: str, released: Path, weighted: Checkpoint) -> None:
    item = f"layers.1.ffn.experts.{matrix}"
    name = {"w1": "gate", "w2": "down", "w3": "up"}[matrix]
    importance = mx.array(ENTRIES[f"blk.1.ffn_{name}_exps.weight"].reshape(3, 256))
    expected = encode(FORMATS[matrix], released_weights(released, item), importance)
    arrays = dict(weighted.load())
    for part, array in expected.items():
        assert mx.array_equal(arrays[f"{item}.{part}"], array), part


def test_the_recorded_error_is_that_of_the_stored_weights(released: Path, weighted: Checkpoint) -> None:
    losses = weighted.own["losses"]
    assert losses.keys() == {f"layers.{n}.ffn.experts.{w}" for n in (0, 1) for w in FORMATS}
    item = "layers.1.ffn.experts.w2"
    weights = np.array(released_weights(released, item)).astype(np.float64)
    error = stored_weights(weighted, item) - weights
    importance = ENTRIES["blk.1.ffn_down_exps.weight"].reshape(3, 1, 256)
    assert losses[item]["plain"] == pytest.approx((error**2).sum() / (weights**2).sum(), rel=1e-4)
    assert losses[item]["weighted"] == pytest.approx(
        (importance * error**2).sum() / (importance * weights**2).sum(), rel=1e-4
    )


def test_an_imatrix_lowers_the_error_that_counts(released: Path, plain: Checkpoint, weighted: Checkpoint) -> None:
    item = "layers.1.ffn.experts.w2"
    importance = ENTRIES["blk.1.ffn_down_exps.weight"].reshape(3, 1, 256)
    weights = np.array(released_weights(released, item))
    without, with_it = (
        (importance * (stored_weights(checkpoint, item) - weights) ** 2).sum() for checkpoint in (plain, weighted)
    )
    assert with_it < without


def test_what_was_used_is_recorded(imatrix: Path, plain: Checkpoint, weighted: Checkpoint) -> None:
    sha256 = hashlib.sha256(imatrix.read_bytes()).hexdigest()
    assert weighted.own["imatrix"] == {"name": "small.dat", "sha256": sha256}
    assert weighted.own["mlx_version"]
    assert "imatrix" not in plain.own
    assert "weighted" not in plain.own["losses"]["layers.0.ffn.experts.w1"]
    assert weighted.identity() == plain.identity()


def test_each_layer_has_a_line_about_its_error_and_the_plan_speaks_of_the_imatrix(
    released: Path, tmp_path: Path
) -> None:
    shown = io.StringIO()
    convert(released, tmp_path / "out", profile="q2", console=Console(file=shown, width=100))
    text = shown.getvalue()
    assert text.count("ffn.experts  relative error w1 0.") == 2
    assert "--calibration or --imatrix weigh them" in text
    assert "iq2_xxs, q2_k" in text


@pytest.mark.parametrize("jobs", [2, 4])
def test_the_bytes_are_the_same_whatever_the_number_of_jobs(
    jobs: int, released: Path, imatrix: Path, weighted: Checkpoint, tmp_path: Path
) -> None:
    assert contents(q2(released, tmp_path / "out", imatrix=imatrix, jobs=jobs).path) == contents(weighted.path)


@pytest.mark.parametrize("jobs", [1, 3])
def test_interrupted_it_ends_with_the_same_bytes(
    jobs: int, released: Path, imatrix: Path, weighted: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance, calls = Meter.advance, 0

    def stop(meter: Meter, nbytes: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 50:
            raise KeyboardInterrupt
        advance(meter, nbytes)

    with monkeypatch.context() as patch:
        patch.setattr(Meter, "advance", stop)
        with pytest.raises(KeyboardInterrupt):
            q2(released, tmp_path / "out", imatrix=imatrix, jobs=jobs)
    partial = partial_folder(tmp_path / "out")
    assert not list(partial.glob("*.tmp"))
    with pytest.raises(UserError, match="unfinished conversion"):
        open_checkpoint(partial)
    assert contents(q2(released, tmp_path / "out", imatrix=imatrix).path) == contents(weighted.path)


def test_it_does_not_go_on_with_another_imatrix(
    released: Path, imatrix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("ds4_convert.conversion._write_rest", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            q2(released, tmp_path / "out", imatrix=imatrix)
    with pytest.raises(UserError, match="with another imatrix"):
        q2(released, tmp_path / "out")


def test_it_is_sound(weighted: Checkpoint, quiet: Console) -> None:
    assert verify(weighted.path, console=quiet).sound


def test_an_imatrix_is_no_use_for_exact(released: Path, imatrix: Path) -> None:
    assert "--imatrix serves quantising, which profile exact does not do" in refusal(released, imatrix=imatrix)


def test_an_imatrix_of_another_model_is_told_before_the_work(released: Path, tmp_path: Path) -> None:
    other = imatrix_file.write(tmp_path / "other.dat", imatrix_file.for_experts(1, 3, 256, 256))
    assert "no values for blk.1.ffn_gate_exps.weight" in refusal(released, profile="q2", imatrix=other)
    other = imatrix_file.write(tmp_path / "other.dat", imatrix_file.for_experts(2, 4, 256, 256))
    assert "3 experts of 256 columns need 768" in refusal(released, profile="q2", imatrix=other)


def test_a_model_that_blocks_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"experts.w2 cannot be stored as q2_k: .* multiple of 256, got 128"):
        q2(GOLDEN_CHECKPOINT, tmp_path / "out")


def test_experts_of_unequal_shapes(tmp_path: Path) -> None:
    folder = random_released.write_small(tmp_path / "small")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    name = "layers.1.ffn.experts.2.w1.weight"
    path = folder / index["weight_map"][name]
    data = path.read_bytes()
    start = data.index(f'"{name}"'.encode())
    path.write_bytes(data[:start] + data[start:].replace(b"[256,128]", b"[128,256]", 1))
    message = refusal(folder, profile="q2")
    assert f"tensor {name} is I8 [128, 256], but config.json asks for I8 [256, 128]" in message


def test_weights_too_large_for_the_format(tmp_path: Path) -> None:
    folder = random_released.write_small(tmp_path / "small")
    overwrite(folder, "layers.1.ffn.experts.2.w1.scale", b"\xc8")
    with pytest.raises(
        UserError, match=r"layers\.1\.ffn\.experts\.w1 cannot be quantised: A weight of .* is too large"
    ):
        q2(folder, tmp_path / "out")
