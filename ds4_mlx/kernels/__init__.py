"""Fused GPU operations: one Metal text each for Apple's GPUs, NVIDIA's and the tests' emulator.

A `Kernel` (kernel.py) is a text, its launch shape, and its twin in plain mx ops, which defines it and computes the same
where there is no GPU. How weights of a format are read is in `runs/`, a file per format; how a Metal text becomes CUDA
in `metal_on_cuda/`. `selftest` compares every kernel with its twin on this device. docs/kernels.md has the rules that
texts keep.

May import quant; knows nothing of the model.
"""

from ds4_mlx.kernels.kernel import Kernel, Launch, runs_kernels
from ds4_mlx.kernels.selftest import KERNELS, Outcome, selftest

__all__ = ["KERNELS", "Kernel", "Launch", "Outcome", "runs_kernels", "selftest"]
