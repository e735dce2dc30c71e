"""Runs Metal kernels on the CPU and finds their mistakes. See README.md in this folder.

Builds on `ds4_mlx.kernels.metal_on_cuda`, knows nothing of any particular kernel.
"""

from mslemu.check import check
from mslemu.cuda_program import check_cuda
from mslemu.findings import EmulationError, Finding
from mslemu.kernel import MODES, ORDERS, SCHEDULES, EmulatedKernel, Options, Run, metal_kernel
from mslemu.mutate import Barrier, barriers, without_barrier

__all__ = [
    "MODES",
    "ORDERS",
    "SCHEDULES",
    "Barrier",
    "EmulatedKernel",
    "EmulationError",
    "Finding",
    "Options",
    "Run",
    "barriers",
    "check",
    "check_cuda",
    "metal_kernel",
    "without_barrier",
]
