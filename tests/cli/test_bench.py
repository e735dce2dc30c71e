"""`ds4-mlx bench`: the table, the files it writes, and synthetic weights."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from cli.command import Command

from ds4_mlx.commands import bench
from ds4_mlx.engine.synthetic import config_of, synthetic_model
from ds4_mlx.errors import UserError
from ds4_mlx.quant.formats import get_format

SHORT = ("--ctx-start", "8", "--ctx-max", "20", "--step", "8", "--gen-tokens", "2")


def test_a_row_for_every_context(command: Command, tmp_path: Path) -> None:
    files = {name: tmp_path / f"out.{name}" for name in ("csv", "json", "png")}
    result = command(
        *("bench", "--synthetic", "tiny", *SHORT),
        *("--csv", str(files["csv"]), "--json", str(files["json"]), "--plot", str(files["png"])),
    )
    assert result.code == 0
    assert [line.split()[0] for line in result.out.splitlines()[2:]] == ["8", "16"]
    rows = bench.read_csv(files["csv"])
    assert [row.context for row in rows] == [8, 16]
    assert all(min(row.prefill_tps, row.decode_tps, row.first_token_ms, row.cache_bytes) > 0 for row in rows)
    written = json.loads(files["json"].read_text())
    assert written["model"] == "synthetic-tiny-q2"
    assert [row["context"] for row in written["rows"]] == [8, 16]
    assert files["png"].read_bytes().startswith(b"\x89PNG")


def test_messages_after_the_last_context(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    result = command("bench", "--synthetic", "tiny", *SHORT, "--suffixes", "3,9", "--json", str(file))
    assert result.code == 0
    assert result.out.splitlines()[4] == "after 16 tokens"
    suffixes = json.loads(file.read_text())["suffixes"]
    assert [suffix["tokens"] for suffix in suffixes] == [3, 9]
    assert all(suffix["tps"] == pytest.approx(1000 * suffix["tokens"] / suffix["ms"]) for suffix in suffixes)


def test_an_earlier_table_is_drawn_beside(tmp_path: Path) -> None:
    rows = [bench.Row(8, 100.0, 5.0, 20.0, 1, 2), bench.Row(16, 90.0, 5.0, 19.0, 1, 2)]
    bench.write_csv(tmp_path / "before.csv", rows)
    assert bench.read_csv(tmp_path / "before.csv") == rows
    bench.draw(tmp_path / "both.svg", {"before": rows, "after": rows})
    assert "before" in (tmp_path / "both.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--ctx-start", "0"), "make no contexts"),
        (("--ctx-start", "9", "--ctx-max", "8"), "make no contexts"),
        (("--suffixes", "8,x"), "are no lengths"),
        (("--suffixes", "8,0"), "are no lengths"),
        (("--synthetic", "tiny", "-m", "x"), "two models"),
        (("--synthetic", "tiny", "--compare", "x.csv"), "needs --plot"),
    ],
)
def test_what_cannot_be_measured_is_said(command: Command, arguments: tuple[str, ...], problem: str) -> None:
    result = command("bench", *arguments)
    assert (result.code, problem in result.err) == (2, True)


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"x\.csv is no table"):
        bench.read_csv(tmp_path / "x.csv")


@pytest.mark.parametrize("profile", ["exact", "q2"])
def test_synthetic_weights_are_of_unit_size_and_route_to_all_experts(profile: str) -> None:
    model = synthetic_model("tiny", profile)  # type: ignore[arg-type]
    assert model.checkpoint.formats.of("layers.1.ffn.experts.w2") == {"exact": "mxfp4", "q2": "q2_k"}[profile]
    logits = model.session().feed(list(range(40)))
    assert 0.3 < mx.std(logits).item() < 3
    layer = model.network.layers[-1].ffn
    for matrix in (layer.experts.w1, layer.experts.w2, layer.shared_experts.w1):
        rms = mx.sqrt(mx.mean(mx.square(get_format(matrix.storage).decode(*matrix.arrays)))).item()
        assert 0.5 < rms * matrix.decoded().shape[-1] ** 0.5 < 2
    x = mx.random.normal((400, model.config.hidden_size), key=mx.random.key(0))
    for gate in (layer.gate, model.network.layers[0].ffn.gate):
        experts, _ = gate(x, mx.arange(400))
        times = np.bincount(np.array(experts).ravel(), minlength=model.config.n_routed_experts)
        assert times.min() > times.mean() / 2


def test_the_full_model_is_the_released_one_in_size() -> None:
    config = config_of("full")
    assert (config.num_hidden_layers, config.hidden_size, config.n_routed_experts) == (43, 4096, 256)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ds4_mlx.engine.synthetic.check_fits", lambda *_: None)
        model = synthetic_model("full", "q2")
        read = bench.weight_bytes(model)
    # What is read of it: 13 of 284 billion weights, those of the experts 2-bit.
    assert 9.0e9 < read < 10.5e9
    assert 86e9 < model.checkpoint.memory_bytes() < 88e9
