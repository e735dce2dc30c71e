"""Every example runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from clients.serving import serving

FOLDER = Path(__file__).parents[2] / "examples"
AGENTS = sorted(FOLDER.glob("agent_*.py"))
EXAMPLES = sorted(set(FOLDER.glob("*.py")) - set(AGENTS))


def _run(*command: str, **options: Path) -> str:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs_and_prints(example: Path) -> None:
    assert _run(str(example))


def test_agents_read_a_file_and_tell_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("buy milk and bread", encoding="utf-8")
    with serving(tmp_path / "server") as server:
        for agent in AGENTS:
            said = _run(str(agent), server.url, "What does notes.txt contain?", cwd=tmp_path).splitlines()
            assert 'read_file(notes.txt) -> {"content": "buy milk and bread"}' in said, agent.name
            assert len(said) > 1, agent.name


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 2
    assert len(AGENTS) == 3
