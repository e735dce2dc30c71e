"""The plan tells sizes by part of the model, and a dry run writes nothing."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from ds4_convert import convert
from ds4_convert.classes import class_of, sizes_by_class, total
from ds4_convert.shards import group_into_shards
from ds4_convert.steps import Step, outputs_of
from ds4_mlx.checkpoint.items import Item, model_items
from ds4_mlx.config import ModelConfig

from checkpoint.random_released import FLASH, small_config
from support import DSPARK_CHECKPOINT, GOLDEN_CHECKPOINT


@pytest.fixture(scope="module")
def flash() -> list[Item]:
    """DeepSeek-V4-Flash as its config describes it (spec 1)."""
    return model_items(ModelConfig.from_dict(small_config(**FLASH)))


def test_the_full_model(flash: list[Item]) -> None:
    steps = [Step(item.name, outputs_of(item, item.released), lambda measure: iter(())) for item in flash]
    classes = sizes_by_class(output for step in steps for output in step.outputs)
    assert classes["routed experts"].nbytes == 43 * 256 * 13_369_344
    assert classes["routed experts"].bits_per_weight == 4.25
    assert classes["shared experts"].bits_per_weight == 8.25
    assert classes["embedding and head"].nbytes == 2 * 129280 * 4096 * 2
    assert classes["routed experts"].weights + classes["drafter"].weights > 277e9
    assert 284e9 < total(classes).weights - classes["drafter"].weights < 285e9
    assert len(group_into_shards(steps)) == 45  # outside the layers, 43 layers, 1 MTP block


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("layers.2.ffn.experts.w1.weight", "routed experts"),
        ("layers.2.ffn.shared_experts.w2.scales", "shared experts"),
        ("layers.2.attn.wq_a.weight", "attention"),
        ("layers.2.attn.attn_sink", "attention"),
        ("layers.2.attn.compressor.norm.weight", "compressors"),
        ("layers.2.attn.indexer.compressor.wkv.weight", "indexer"),
        ("layers.2.ffn.gate.tid2eid", "router"),
        ("layers.2.hc_attn_fn", "hyper-connections"),
        ("hc_head_scale", "hyper-connections"),
        ("embed.weight", "embedding and head"),
        ("head.weight", "embedding and head"),
        ("norm.weight", "norms"),
        ("layers.2.attn.kv_norm.weight", "norms"),
        ("layers.2.ffn_norm.weight", "norms"),
        ("mtp.0.ffn.experts.w1.weight", "drafter"),
    ],
)
def test_classes(name: str, label: str) -> None:
    assert class_of(name) == label


@pytest.mark.parametrize("source", [GOLDEN_CHECKPOINT, DSPARK_CHECKPOINT], ids=["april", "0731"])
def test_the_plan_is_what_is_written(source: Path, tmp_path: Path, quiet: Console) -> None:
    plan = convert(source, tmp_path / "out", console=quiet).plan
    written = sum(p.stat().st_size for p in (tmp_path / "out").iterdir())
    assert written <= plan.disk_needed <= 1.05 * written
    assert [(s.name, s.nbytes) for s in plan.shards] == [
        (p.name, p.stat().st_size) for p in sorted((tmp_path / "out").glob("*.safetensors"))
    ]


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    shown = io.StringIO()
    outcome = convert(GOLDEN_CHECKPOINT, tmp_path / "out", dry_run=True, console=Console(file=shown, width=100))
    assert list(tmp_path.iterdir()) == []
    assert (outcome.fingerprint, outcome.shards_written) == ("", 0)
    text = shown.getvalue()
    for part in ("routed experts", "4.250", "drafter", "total", "disk needed", "free", "memory", "529 tensors"):
        assert part in text


def test_a_dry_run_tells_that_the_disk_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ds4_convert.files.free_bytes", lambda folder: 1000)
    shown = io.StringIO()
    convert(GOLDEN_CHECKPOINT, tmp_path / "out", dry_run=True, console=Console(file=shown, width=100))
    assert "1.0 kB free, not enough" in shown.getvalue()


def test_progress_in_a_terminal_and_elsewhere(tmp_path: Path) -> None:
    shown = io.StringIO()
    convert(GOLDEN_CHECKPOINT, tmp_path / "a", console=Console(file=shown, force_terminal=True, width=100))
    assert "Converting" in shown.getvalue()
    assert "9.5/9.5 MB" in shown.getvalue()
    shown = io.StringIO()
    convert(GOLDEN_CHECKPOINT, tmp_path / "b", console=Console(file=shown, width=100))
    assert "[9/9] model-00009-of-00009.safetensors  9.5 MB of 9.5 MB" in shown.getvalue()
