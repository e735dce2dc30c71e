"""A model named by its repository is looked at before it is downloaded."""

from pathlib import Path

import pytest

from ds4_mlx.engine.hub import find_model
from ds4_mlx.errors import UserError

from checkpoint.damage import copy_of_golden, edit_json


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[list[str]]]:
    """A folder that stands for the hub's copy, and the patterns of every download asked for."""
    folder, asked = copy_of_golden(tmp_path), []

    def download(name: str, *, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return folder, asked


def test_config_and_index_come_first_and_the_weights_after(repository: tuple[Path, list[list[str]]]) -> None:
    folder, asked = repository
    assert find_model("deepseek-ai/DeepSeek-V4-Flash") == folder
    assert asked[0] == ["config.json", "model.safetensors.index.json"]
    assert "*.safetensors" in asked[1]


def test_another_kind_of_model_is_not_downloaded(repository: tuple[Path, list[list[str]]]) -> None:
    folder, asked = repository
    edit_json(folder / "config.json", lambda config: config.update(model_type="llama"))
    with pytest.raises(UserError, match="'llama'"):
        find_model("someone/llama")
    assert len(asked) == 1


def test_a_model_larger_than_memory_is_not_downloaded(
    repository: tuple[Path, list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = repository
    edit_json(folder / "model.safetensors.index.json", lambda index: index.update(metadata={"total_size": 10**12}))
    monkeypatch.setattr("ds4_mlx.engine.memory.total_memory", lambda: 10**11)
    with pytest.raises(UserError, match=r"1000\.0 GB"):
        find_model("deepseek-ai/DeepSeek-V4-Flash")
    assert len(asked) == 1


@pytest.mark.parametrize("metadata", [None, [], {"total_size": "large"}], ids=str)
def test_an_index_that_does_not_tell_its_size_is_no_obstacle(
    repository: tuple[Path, list[list[str]]], metadata: object
) -> None:
    folder, asked = repository
    edit_json(folder / "model.safetensors.index.json", lambda index: index.update(metadata=metadata))
    assert find_model("deepseek-ai/DeepSeek-V4-Flash") == folder
    assert len(asked) == 2
