"""A recipe: what a source becomes. Made from DeepSeek's folder (released.py) or from a GGUF file (gguf/source.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ds4_convert.steps import Output, Step
from ds4_mlx.checkpoint.storage import Storage
from ds4_mlx.config import ModelConfig


@dataclass(frozen=True)
class Recipe:
    """All that a conversion needs to know of its source. Making one reads headers, not weights."""

    source: Path
    profile: str
    config: ModelConfig
    config_json: dict[str, Any]  # of the folder to be written, without our part
    checkpoint_id: str
    formats: Storage
    steps: list[Step]
    small_files: dict[str, bytes]  # tokenizer and the like, by name
    source_tensors: int
    source_bytes: int
    is_loaded: Callable[[str], bool]  # whether the model itself loads an array; a DSpark drafter's lie aside
    own: dict[str, Any] = field(default_factory=dict)  # further entries for our part of config.json
    notes: tuple[str, ...] = ()  # lines for the plan

    @property
    def outputs(self) -> list[Output]:
        """Every array to be written."""
        return [output for step in self.steps for output in step.outputs]
