"""How much memory the conversion has taken."""

from __future__ import annotations

import resource
from pathlib import Path

import mlx.core as mx


def peak_memory() -> int:
    """The most memory this process has held so far, bytes: its own and, where that is apart, MLX's on the GPU."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage there also counts the parent before exec
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        own = int(line.split()[1]) * 1024
    else:
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    return own + (mx.get_peak_memory() if mx.default_device() != mx.Device(mx.cpu) else 0)
