"""Which of this folder's tests a machine can run.

The emulator needs Linux and g++; on a Mac the kernels themselves are what to run. CUDA kernels need an NVIDIA GPU.
"""

import sys

import mlx.core as mx

collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]
collect_ignore = [] if mx.cuda.is_available() else ["test_on_cuda.py"]
