"""`python -m ds4_mlx.kernels`: compiles every kernel on this device and compares it with its plain-ops definition."""

import sys

import mlx.core as mx

from ds4_mlx.kernels import KERNELS


def main() -> int:
    """Prints a line per kernel; returns 1 if one differs from its definition."""
    print(f"device: {mx.default_device()}; kernels: {len(KERNELS)}")
    failed = 0
    for kernel in KERNELS:
        error = kernel.max_error()
        good = error <= kernel.tolerance
        failed += not good
        print(f"{kernel.name:40s} {error:.2e} (at most {kernel.tolerance:.0e}) {'ok' if good else 'FAILED'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
