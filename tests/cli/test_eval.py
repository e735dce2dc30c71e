"""`ds4-mlx eval`: figures that are known beforehand, files of answers right and wrong."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from cli.command import Command

from ds4_mlx.engine.hub import DEFAULT_MODEL
from ds4_mlx.errors import UserError
from ds4_mlx.evaluation.comparing import ReferenceRows, summary
from ds4_mlx.evaluation.scoring import measure_losses
from ds4_mlx.evaluation.texts import Text
from ds4_mlx.evaluation.vectors import read_cases
from ds4_mlx.text import load_tokenizer

from support import ModelIn


def _text(tokens: list[int]) -> Text:
    return Text("golden", [np.array(tokens[:40]), np.array(tokens[40:60])])


def test_losses_are_those_of_the_logits(model_in: ModelIn, tokens: list[int]) -> None:
    model, text = model_in("fp32_plain"), _text(tokens)
    (found,) = measure_losses(model, [text])
    assert len(found.losses) == text.tokens == 58
    assert found.positions.tolist() == [*range(1, 40), *range(1, 20)]
    logits = model.session().feed(tokens[40:59])
    expected = (
        mx.logsumexp(logits, axis=-1) - mx.take_along_axis(logits, mx.array(tokens[41:60])[:, None], axis=-1)[:, 0]
    )
    np.testing.assert_allclose(found.losses[39:], np.array(expected), atol=1e-4)


def test_a_model_is_no_distance_from_itself_and_some_from_another_precision(
    model_in: ModelIn, tokens: list[int], tmp_path: Path
) -> None:
    model, text = model_in("fp32_plain"), _text(tokens)
    rows = ReferenceRows(model.config.vocab_size, text.tokens, tmp_path)
    rows.fill(model, [text])
    same = summary(rows.distances(model, [text])[0])
    assert (same.same_top, same.change, same.tokens) == (1.0, 0.0, 58)
    assert same.kl_most < 1e-6
    other = summary(rows.distances(model_in("bf16"), [text])[0])
    assert other.kl > 1e-6
    rows.close()
    assert not list(tmp_path.iterdir())


def test_rows_that_no_disk_holds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--tokens"):
        ReferenceRows(129280, 10**12, tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no cases"),
        ("case a 16 1 p.txt\nstep 0 41 1\n", "ends within a case"),
        ("case a 16 1 p.txt\nstep 1 41 0\nend\n", "step 1 where 0"),
        ("case a 16 1 p.txt\nstep 0 4x 0\nend\n", "line 1"),
        ("case a shout 16 8 p.txt 1\ntop 0 5 1.5\nend\n", "mode 'shout'"),
        ("case a chat 16 16 p.txt 1\ntop 0 5 1.5\nend\n", "frontier"),
        ("top 0 5 1.5\n", "line 1"),
    ],
)
def test_a_file_of_answers_that_cannot_be_read_is_said(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "x.vec").write_text(text)
    with pytest.raises(UserError, match=problem):
        read_cases(tmp_path / "x.vec")


def test_right_answers_pass_and_wrong_ones_fail(command: Command, tmp_path: Path) -> None:
    (tmp_path / "sum.txt").write_text("What is 12 + 30?")
    capture = tmp_path / "capture.json"
    assert command("eval", "capture", str(tmp_path / "sum.txt"), "-o", str(capture), "--steps", "2").code == 0
    assert command("eval", "vectors", str(capture)).code == 0
    data = json.loads(capture.read_text())
    said = load_tokenizer(DEFAULT_MODEL).token_bytes(data["cases"][0]["steps"][0]["id"]).hex()
    first = data["cases"][0]["steps"][0]
    first["top"][0][1] -= 1
    capture.write_text(json.dumps(data))
    result = command("eval", "vectors", str(capture), "--json")
    assert (result.code, json.loads(result.out)["passed"]) == (1, 0)
    right = f"case right 64 1 sum.txt\nstep 0 {said} 1\ntop {said} 0\nend\n"
    (tmp_path / "official.vec").write_text(f"# official\n{right}\ncase wrong 64 1 sum.txt\nstep 0 ff 0\nend\n")
    result = command("eval", "vectors", str(tmp_path / "official.vec"))
    assert [line[:16].split() for line in result.out.splitlines()[1:3]] == [["passed", "right:"], ["FAILED", "wrong:"]]


def test_tasks_are_graded(command: Command) -> None:
    result = command("eval", "tasks", "--only", "addition", "--examples", "1", "--json")
    assert result.code == 0
    assert json.loads(result.out)["families"] == [{"family": "addition", "right": 1, "tasks": 1}]
    assert command("eval", "tasks", "--only", "chess").code == 2
