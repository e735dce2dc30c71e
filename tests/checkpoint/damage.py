"""Copies of the golden checkpoint with one thing wrong."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import GOLDEN_CHECKPOINT

Header = dict[str, Any]


def copy_of_golden(tmp_path: Path) -> Path:
    """A folder that may be damaged."""
    return Path(shutil.copytree(GOLDEN_CHECKPOINT, tmp_path / "model"))


def edit_json(path: Path, change: Callable[[Any], None]) -> None:
    """Lets `change` alter a parsed JSON file in place."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def shard_of(folder: Path, tensor: str) -> Path:
    """The file that holds a tensor."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    return folder / index["weight_map"][tensor]


def edit_header(path: Path, change: Callable[[Header], None]) -> None:
    """Rewrites a shard with an altered header and the same data."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def overwrite(folder: Path, tensor: str, value: bytes, at: int = 0) -> None:
    """Writes bytes into a tensor's data."""
    path = shard_of(folder, tensor)
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    start = 8 + length + json.loads(data[8 : 8 + length])[tensor]["data_offsets"][0] + at
    data[start : start + len(value)] = value
    path.write_bytes(bytes(data))
