"""Flags that several commands have."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str | None, typer.Option("-m", "--model", help="Model folder or hub repository; the built-in ds4-tiny by default.")
]
KvDir = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where sessions are saved; the platform's folder for caches.")
]


class Effort(str, Enum):
    """The reasoning efforts that prompts know (spec 15.7)."""

    LOW = "low"
    HIGH = "high"
    MAX = "max"
