"""Every example runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from clients.serving import serving

FOLDER = Path(__file__).parents[2] / "examples"
AGENTS = sorted(FOLDER.glob("agent_*.py"))
EXAMPLES = sorted(set(FOLDER.glob("*.py")) - set(AGENTS))
# What ds4-tiny says in them: what shows that they do what they are about.
SAYS = {
    "agent.py": r"read_file\(.*notes.txt.*buy milk and bread",
    "batch.py": "12 \\+ 30 = 42\n.*408 \\+ 226 = 634\n",
    "generate.py": "12 \\+ 30 = 42\n",
    "logprobs.py": "perplexity of the text: [0-9]",
    "quantise.py": "KL divergence: 0[.][0-9]*[1-9]",
    "sessions.py": "goes on alike: True",
    "steering.py": "scale 2.0: ",
    "tools.py": r'get_weather\(\{"city": "Paris"\}\)',
}


def _run(*command: str, **options: Path) -> str:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs_and_prints(example: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("buy milk and bread", encoding="utf-8")
    said = _run(str(example), cwd=tmp_path)
    assert re.search(SAYS.get(example.name, "."), said), said


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short_and_listed(example: Path) -> None:
    assert len(example.read_text().splitlines()) < 60
    assert f"`{example.name}`" in (FOLDER / "README.md").read_text()


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
