"""Drawing with matplotlib, which is an extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ds4_mlx.errors import UserError


def pyplot() -> Any:
    """matplotlib's pyplot, drawing to files. Raises `UserError` if it is not installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise UserError("--plot needs matplotlib: pip install 'ds4-mlx[plot]'") from None
    mpl.use("agg")
    from matplotlib import pyplot as plt

    return plt


def save(figure: Any, path: Path) -> None:
    """Writes a figure, in the format that the file's name asks for, and lets it go. Raises `UserError` for others."""
    try:
        figure.savefig(path, dpi=120)
    except ValueError as error:
        raise UserError(f"Cannot draw {path}: {error}") from error
    finally:
        pyplot().close(figure)
