"""Every help page, at 80 columns."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ds4_mlx.cli import app


def pages(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from pages(inner, (*path, name))


PAGES = list(pages(typer.main.get_command(app)))


@pytest.mark.parametrize("path", PAGES, ids=" ".join)
def test_a_page_fits_80_columns_with_nothing_cut_off(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    page = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80"}).output
    assert "Usage:" in page
    assert max(map(len, page.splitlines())) <= 80
    assert "…" not in page


def test_all_commands_are_looked_at() -> None:
    assert {("chat",), ("generate",), ("sessions", "rm")} <= set(PAGES)


def test_a_shell_completes_commands() -> None:
    asked = {"_DS4_MLX_COMPLETE": "complete_bash", "COMP_WORDS": "ds4-mlx ch", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "from ds4_mlx.cli import app; app(prog_name='ds4-mlx')"],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["chat"]
