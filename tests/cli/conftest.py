"""The command fixture."""

import pytest
from cli.command import Command


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs ds4-mlx in this process."""
    return Command(monkeypatch, capfd)
