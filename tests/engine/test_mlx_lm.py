"""A converted folder under mlx-lm itself, through the `model_file` it brings."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest
from rich.console import Console

import ds4_mlx
from ds4_convert import convert
from ds4_mlx.engine.mlx_lm import Model, ModelArgs
from ds4_mlx.errors import UserError

from support import DSPARK_CHECKPOINT, GOLDEN_CHECKPOINT

PROMPT = "Hello there, 12 + 30"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("converted")
    for name, source in (("april", GOLDEN_CHECKPOINT), ("0731", DSPARK_CHECKPOINT)):
        convert(source, out / name, console=Console(quiet=True))
    return {name: out / name for name in ("april", "0731")}


@pytest.mark.parametrize("name", ["april", "0731"])
def test_mlx_lm_generates_our_greedy_tokens(folders: dict[str, Path], name: str) -> None:
    from mlx_lm import load, stream_generate

    # From 0.32 on mlx-lm asks before it imports a model_file; 0.31, the last for Python 3.10, does not know the word.
    trust = {"trust_remote_code": True} if "trust_remote_code" in inspect.signature(load).parameters else {}
    model, tokenizer = load(str(folders[name]), **trust)
    theirs = [r.token for r in stream_generate(model, tokenizer, PROMPT, max_tokens=24)]
    ours = ds4_mlx.load(folders[name]).stream(PROMPT, raw=True, temperature=0, max_tokens=24)
    assert theirs == [token.id for event in ours for token in event.tokens]


def test_the_command_line_of_mlx_lm_runs_it(folders: dict[str, Path]) -> None:
    command = [sys.executable, "-m", "mlx_lm", "generate", "--model", str(folders["april"])]
    command += ["--trust-remote-code", "--prompt", "Hi", "--max-tokens", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Generation: 4 tokens" in done.stdout


def test_one_sequence_at_a_time(folders: dict[str, Path]) -> None:
    config = json.loads((folders["april"] / "config.json").read_text())
    with pytest.raises(UserError, match="one sequence at a time"):
        Model(ModelArgs.from_dict(config))(mx.zeros((2, 3), dtype=mx.int32))
