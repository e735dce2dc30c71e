"""`python -m ds4_mlx.kernels`: compiles every kernel on this device and compares it with its plain-ops definition."""

import sys
from importlib.metadata import version

import mlx.core as mx

from ds4_mlx.kernels import runs_kernels, selftest


def main() -> int:
    """Prints a line per kernel and dtype; returns 1 if one differs from its definition."""
    if not runs_kernels():
        print("MLX has no GPU here: the plain operations that define the kernels serve, nothing is to be compared.")
        return 0
    print(f"MLX {version('mlx')}, {mx.device_info().get('device_name', mx.default_device())}")
    failed = 0
    for outcome in selftest():
        failed += not outcome.good
        verdict = "ok" if outcome.good else f"FAILED {outcome.problem}".rstrip()
        dtype = str(outcome.dtype).rpartition(".")[-1]
        print(f"{outcome.kernel:32s} {dtype:9s} {outcome.error:.1e} (at most {outcome.tolerance:.0e}) {verdict}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
