"""What `ds4-mlx --version` says: what a report of a defect should begin with."""

from __future__ import annotations

import platform
from importlib.metadata import version

import ds4_mlx


def lines() -> list[str]:
    """Versions, and the device that models run on."""
    found = [f"ds4-mlx {ds4_mlx.__version__}"]
    found += [f"{name} {version(name)}" for name in ("mlx", "mlx-lm")]
    found += [f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"]
    return [*found, _backend()]


def _backend() -> str:
    try:
        import mlx.core as mx
    except ImportError as error:  # without an extra, MLX has no backend on Linux
        return f"backend: none ({error})"
    name = "Metal" if mx.metal.is_available() else "CUDA" if mx.cuda.is_available() else "CPU"
    return f"backend {name}: {mx.device_info().get('device_name', platform.processor() or platform.machine())}"
