"""Writes imatrix files as ds4 does."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

Entries = Mapping[str, np.ndarray]  # values, flat, as they are in the file


def for_experts(layers: int, experts: int, width: int, inner: int, seed: int = 3) -> dict[str, np.ndarray]:
    """Positive values for every routed expert, some columns a hundred times as important as others."""
    rng = np.random.default_rng(seed)
    columns = {"gate": width, "up": width, "down": inner}
    return {
        f"blk.{layer}.ffn_{name}_exps.weight": (10 ** rng.uniform(-1, 1, experts * count)).astype(np.float32)
        for layer in range(layers)
        for name, count in columns.items()
    }


def write(path: Path, entries: Entries, *, calls: int = 1, tail: bytes | None = None) -> Path:
    """The file; `tail` stands for what follows the entries, chunks and the calibration text's path by default."""
    parts = [struct.pack("<i", len(entries))]
    for name, values in entries.items():
        parts.append(struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, values.size))
        parts.append(values.astype("<f4").tobytes())
    dataset = b"prompts.txt"
    parts.append(struct.pack("<ii", 4, len(dataset)) + dataset if tail is None else tail)
    path.write_bytes(b"".join(parts))
    return path
