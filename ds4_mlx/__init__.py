"""DeepSeek V4 Flash on your own machine.

    import ds4_mlx
    model = ds4_mlx.load()
    for event in model.stream("Hello"):
        print(event.text, end="")

Everything here is imported when first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ds4_mlx import cache, text
    from ds4_mlx.config import ModelConfig
    from ds4_mlx.engine.generation import Event, Stats, Token
    from ds4_mlx.engine.language_model import LanguageModel, load
    from ds4_mlx.engine.session import Session
    from ds4_mlx.errors import UserError

__version__ = "0.1.0"

_HOMES = {
    "Event": "ds4_mlx.engine.generation",
    "LanguageModel": "ds4_mlx.engine.language_model",
    "ModelConfig": "ds4_mlx.config",
    "Session": "ds4_mlx.engine.session",
    "Stats": "ds4_mlx.engine.generation",
    "Token": "ds4_mlx.engine.generation",
    "UserError": "ds4_mlx.errors",
    "load": "ds4_mlx.engine.language_model",
}
_SUBPACKAGES = ("cache", "text")

__all__ = [
    "Event",
    "LanguageModel",
    "ModelConfig",
    "Session",
    "Stats",
    "Token",
    "UserError",
    "__version__",
    "cache",
    "load",
    "text",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f"ds4_mlx.{name}")
    raise AttributeError(f"module 'ds4_mlx' has no attribute {name!r}")
