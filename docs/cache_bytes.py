"""Draws docs/cache_bytes.png: bytes of a session against its length. `pip install matplotlib`, then run it.

The curves of this cache are its own arithmetic (`ds4_mlx.cache.sizes`, which tests compare with allocated arrays).
Those of ds4 are what its sources and logs give: 8,192 bytes per token and 0.36 GiB of raw rows in memory, 13,760 bytes
per token and 24 MB in a file; the marks are sizes that were published.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from ds4_mlx.cache import boundary_bytes, session_bytes

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from released_shapes import released  # noqa: E402 - the tests are no package

GIB = 2**30


def main(target: Path) -> None:
    """Writes the picture."""
    config = released()
    tokens = np.unique(np.geomspace(1 << 10, 1 << 20, 200).astype(int))
    packed = np.array([session_bytes(config, int(n)) for n in tokens])
    plain = np.array([session_bytes(config, int(n), packed=False) for n in tokens])
    kept = packed + tokens // 2048 * boundary_bytes(config)

    figure, axes = plt.subplots(figsize=(7.5, 4.6), dpi=110)
    axes.plot(tokens, 13_760 * tokens / GIB + 24.3e6 / GIB, "C3--", label="ds4, file (float32)")
    axes.plot(tokens, 8_192 * tokens / GIB + 0.36, "C3", label="ds4, memory (float16 rows, float32 index)")
    axes.plot(tokens, plain / GIB, "C7", label="bfloat16 rows, memory")
    axes.plot(tokens, kept / GIB, "C0--", label="ds4-mlx, file, or memory with a state kept every 2,048 tokens")
    axes.plot(tokens, packed / GIB, "C0", linewidth=2, label="ds4-mlx, memory of a session")
    axes.plot([2048, 65536], [52.2e6 / GIB, 926e6 / GIB], "C3x")
    axes.plot([32768, 262144, 1 << 20], [0.61, 2.4, 8.4], "C3o", markersize=4)
    axes.set(xscale="log", yscale="log", xlabel="context, tokens", ylabel="GiB", ylim=(0.01, 20))
    axes.set_xticks([1 << i for i in range(10, 21, 2)], ["1 k", "4 k", "16 k", "64 k", "256 k", "1 M"])
    axes.set_yticks([0.01, 0.1, 1, 10], ["0.01", "0.1", "1", "10"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left")
    axes.set_title("DeepSeek V4 Flash: what a session takes")
    figure.tight_layout()
    figure.savefig(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "docs" / "cache_bytes.png")
