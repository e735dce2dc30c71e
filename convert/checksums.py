"""Checksums of tensors and files, and the fingerprint of a whole model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ds4_convert.ahead import one_ahead

CHECKSUMS_NAME = "checksums.json"  # {"algorithm", "tensors": {name: hex}, "files": {name: hex}}
ALGORITHM = "sha256"


class Described(NamedTuple):
    """What the fingerprint covers of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    checksum: str  # sha256 of its bytes, hex


def fingerprint(tensors: Mapping[str, Described]) -> str:
    """One hash (hex) for all tensors of a model: equal exactly when names, dtypes, shapes and bytes are equal."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        dtype, shape, checksum = tensors[name]
        digest.update(f"{name} {dtype} {list(shape)} {checksum}\n".encode())
    return digest.hexdigest()


def checksum_pieces(pieces: Iterable[np.ndarray], advance: Callable[[int], None]) -> str:
    """sha256 (hex) of flat arrays one after the other; `advance` is told the bytes of each."""
    digest = hashlib.sha256()
    for piece in one_ahead(pieces):
        digest.update(piece.view(np.uint8).data)
        advance(piece.nbytes)
    return digest.hexdigest()


def checksum_file(path: Path) -> str:
    """sha256 (hex) of a small file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
