"""Fused GPU operations, one per file: kernel text, its definition in plain mx ops, one wrapper.

None yet: `ds4_mlx.model` computes everything in plain ops, and those will define what kernels must reproduce. A
kernel is listed in `KERNELS` by its file, so that `python -m ds4_mlx.kernels` compiles each one on the user's own
device and compares it with its definition.
"""

from __future__ import annotations

from typing import Protocol


class Kernel(Protocol):
    """What the self-test needs of a kernel."""

    name: str

    def max_error(self) -> float:
        """Runs kernel and definition on the default device; the largest relative difference."""

    @property
    def tolerance(self) -> float:
        """How large that difference may be."""


KERNELS: list[Kernel] = []
