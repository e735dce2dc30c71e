"""What a person may choose for a conversion."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

METHODS = ("feedback", "imatrix", "plain")


class Options(NamedTuple):
    """See `ds4_convert.convert`; None is what a person left out."""

    profile: str | None = None
    method: str | None = None
    imatrix: str | Path | None = None
    calibration: str | Path | None = None
    layers: str | None = None
