"""A calibration on disk.

    calibration.json         what it was made from and with; written last, so a folder without it is not finished
    layer-00003.safetensors  of one layer: tokens int32 [E], how many each expert saw
                             gate_up float32 [E, D], the mean square of each input column of w1 and w3, by expert
                             down float32 [E, I], the same for w2: of the clamped SwiGLU times the route weight
                             gate_up_hessian float32 [D (D + 1) / 2], the sum of x x^T over all tokens of the layer
                             down_hessian float32 [E, I (I + 1) / 2], over those of each expert
    imatrix.dat              the mean squares as ds4 reads them

Hessians are upper triangles, row by row. An expert that no token reached has zeros.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ds4_mlx.cache.files import sync_directory, sync_file
from ds4_mlx.checkpoint.safetensors_file import Tensor, read_header
from ds4_mlx.config import ModelConfig, read_json
from ds4_mlx.errors import UserError

CALIBRATION_NAME = "calibration.json"
IMATRIX_NAME = "imatrix.dat"
FORMAT_VERSION = 1


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Where to write what becomes `path` when the block has ended well and its bytes are on the medium."""
    temporary = path.with_name("tmp-" + path.name)
    try:
        yield temporary
        sync_file(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def layer_name(layer: int) -> str:
    """The file of a layer."""
    return f"layer-{layer:05d}.safetensors"


@dataclass(frozen=True)
class LayerInputs:
    """What was seen of the inputs of a layer's experts, as in the folder; Hessians are whole matrices here."""

    tokens: np.ndarray  # int32 [E]
    gate_up: mx.array  # float32 [E, D]
    down: mx.array  # float32 [E, I]
    gate_up_hessian: mx.array  # float32 [D, D]
    down_hessians: list[mx.array]  # E of float32 [I, I]

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all. Raises `OSError`."""
        arrays = {
            "tokens": mx.array(self.tokens.astype(np.int32)),
            "gate_up": self.gate_up,
            "down": self.down,
            "gate_up_hessian": mx.array(_triangle(self.gate_up_hessian)),
            "down_hessian": mx.array(np.stack([_triangle(h) for h in self.down_hessians])),
        }
        with written_whole(path) as temporary:
            mx.save_safetensors(str(temporary), arrays)

    def inputs(self, matrix: str) -> Inputs:
        """Those of w1, w2 or w3."""
        if matrix == "w2":
            return Inputs(self.tokens, np.array(self.down), lambda e: np.array(self.down_hessians[e]), shared=False)
        hessian = np.array(self.gate_up_hessian)
        return Inputs(self.tokens, np.array(self.gate_up), lambda _: hessian, shared=True)


@dataclass(frozen=True)
class Inputs:
    """The inputs of one stack of experts.

    tokens int32 [E]; mean_squares float32 [E, in]; hessian(e) is float32 [in, in], the same for all if `shared`.
    """

    tokens: np.ndarray
    mean_squares: np.ndarray
    hessian: Callable[[int], np.ndarray]
    shared: bool

    @property
    def importance(self) -> np.ndarray:
        """float32 [E, in]: the mean squares, ones for an expert that was never reached."""
        return np.where((self.tokens > 0)[:, None], self.mean_squares, np.float32(1))


@dataclass(frozen=True)
class Calibration:
    """A finished folder; Hessians are read when they are asked for."""

    path: Path
    own: dict[str, Any]  # calibration.json
    sha256: str  # of calibration.json, which has the checksums of all other files

    def inputs(self, item: str) -> Inputs:
        """Those of an item such as layers.3.ffn.experts.w2. Raises `UserError` if a file is missing or cut off."""
        _, layer, *_, matrix = item.split(".")
        tensors = self._layer(int(layer))
        names = ("down", "down_hessian") if matrix == "w2" else ("gate_up", "gate_up_hessian")
        squares, triangles = (tensors[name] for name in names)
        width = squares.shape[1]
        size = width * (width + 1) // 2

        @cache
        def shared_hessian() -> np.ndarray:
            return _whole(triangles.read(), width)

        def hessian(expert: int) -> np.ndarray:
            return shared_hessian() if matrix != "w2" else _whole(triangles.read(expert * size, size), width)

        return Inputs(tensors["tokens"].array(), squares.array(), hessian, shared=matrix != "w2")

    def check(self, config: ModelConfig, checkpoint_id: str, source: Path) -> None:
        """Raises `UserError` unless it was made with that checkpoint."""
        if self.own.get("checkpoint_id") != checkpoint_id:
            raise UserError(f"{self.path} was made with another checkpoint than {source}. Calibrate with this one.")
        for layer in range(config.num_hidden_layers):
            self._layer(layer)

    def _layer(self, layer: int) -> dict[str, Tensor]:
        return read_header(self.path / layer_name(layer))[0]


def open_calibration(path: str | Path) -> Calibration:
    """Opens a folder that `ds4-mlx calibrate` finished. Raises `UserError` if it is none."""
    path = Path(path).expanduser()
    file = path / CALIBRATION_NAME
    if not file.is_file():
        unfinished = " It is not finished: run the same `ds4-mlx calibrate` again." if path.is_dir() else ""
        raise UserError(f"{path} holds no calibration ({CALIBRATION_NAME} is missing).{unfinished}")
    own = read_json(file)
    if not isinstance(own, dict) or own.get("format") != FORMAT_VERSION:
        raise UserError(f"{file} is of another format; this version reads {FORMAT_VERSION}. Calibrate again.")
    return Calibration(path, own, hashlib.sha256(file.read_bytes()).hexdigest())


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all. Raises `OSError`."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def _triangle(hessian: mx.array) -> np.ndarray:
    """[n, n] -> its upper triangle, row by row, float32 [n (n + 1) / 2]."""
    whole = np.array(hessian)
    return np.concatenate([row[i:] for i, row in enumerate(whole)])


def _whole(triangle: np.ndarray, n: int) -> np.ndarray:
    """The inverse of `_triangle`."""
    whole, start = np.zeros((n, n), np.float32), 0
    for i in range(n):
        whole[i, i:] = triangle[start : start + n - i]
        whole[i:, i] = whole[i, i:]
        start += n - i
    return whole
