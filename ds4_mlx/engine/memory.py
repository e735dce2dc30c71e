"""How much memory there is, and whether a model fits, asked before a byte is loaded."""

from __future__ import annotations

import os

import mlx.core as mx

from ds4_mlx.errors import UserError

GB = 10**9


def total_memory() -> int:
    """Bytes of memory that weights can take on the default device: the GPU's, or the machine's where they are one."""
    info = mx.device_info()
    for key in ("memory_size", "total_memory"):
        if key in info:
            return int(info[key])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_fits(weight_bytes: int, where: str, available: int | None = None) -> None:
    """Raises `UserError` with both numbers when weights of that size cannot be held in memory."""
    available = total_memory() if available is None else available
    if weight_bytes > available:
        raise UserError(
            f"{where} needs {weight_bytes / GB:.1f} GB for its weights, but this machine has {available / GB:.1f} GB "
            "of memory. It cannot run here."
        )
