"""Runs a text through a model layer by layer and writes what its experts were given (`store`).

In memory are one layer, the sums of its experts and the tokens of one call; the streams of all tokens lie on the disk,
so that a run of any length needs no more. Stopped at any moment, the same call goes on with the layer it was at.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ds4_mlx.calibration.encoding import Factors, encode_experts
from ds4_mlx.calibration.layer import Collector, Layer
from ds4_mlx.calibration.store import (
    CALIBRATION_NAME,
    FORMAT_VERSION,
    LayerInputs,
    layer_name,
    open_calibration,
    write_json,
    written_whole,
)
from ds4_mlx.calibration.texts import Text
from ds4_mlx.checkpoint import Checkpoint
from ds4_mlx.config import read_json
from ds4_mlx.errors import UserError
from ds4_mlx.model import Numerics
from ds4_mlx.model.experts import Experts
from ds4_mlx.quant import get_format

JOURNAL = "calibrating.json"  # only an unfinished folder has it
TOKENS_AT_ONCE = 4096
SEQUENTIAL_FORMATS = {"w1": "iq2_xxs", "w3": "iq2_xxs", "w2": "q2_k"}  # those of profile q2

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """What is to be collected: pieces of token ids that stand alone, through the layers of `checkpoint`.

    sequential: each layer is encoded with feedback before the next one is given anything, which then sees inputs as it
    will see them in the converted model.
    """

    checkpoint: Checkpoint
    pieces: Sequence[np.ndarray]
    texts: Sequence[Text]
    sequential: bool
    numerics: Numerics = Numerics()  # noqa: RUF009  # frozen

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for an interrupted run to go on."""
        ids = hashlib.sha256(b"".join(piece.astype("<i8").tobytes() + b"|" for piece in self.pieces))
        return {
            "format": FORMAT_VERSION,
            "checkpoint_id": self.checkpoint.identity(),
            "token_ids": ids.hexdigest(),
            "sequential": SEQUENTIAL_FORMATS if self.sequential else None,
            "ds4_mlx_version": version("ds4-mlx"),
        }

    def calls(self) -> Iterator[Sequence[np.ndarray]]:
        """The pieces, as many at a time as fit `TOKENS_AT_ONCE`."""
        call: list[np.ndarray] = []
        for piece in self.pieces:
            if call and sum(p.size for p in call) + piece.size > TOKENS_AT_ONCE:
                yield call
                call = []
            call.append(piece)
        yield call


def collect(task: Task, destination: Path, tell: Tell) -> None:
    """Writes the folder `destination`. `tell` is given a line per layer.

    Raises `UserError` for a checkpoint that is not exact, a folder that is in the way, and a full disk.
    """
    checkpoint = task.checkpoint
    layers = checkpoint.config.num_hidden_layers
    wrong = [n for n in range(layers) for w in ("w1", "w2", "w3") if checkpoint.formats.of(_item(n, w)) != "mxfp4"]
    if wrong:
        raise UserError(f"{checkpoint.path} has quantised experts already; calibrate with the released or exact model.")
    try:
        _begin(task, destination)
        first = next((n for n in range(layers) if not (destination / layer_name(n)).exists()), layers)
        for number in range(first):
            tell(f"layer {number + 1} of {layers}  already there")
        if first == 0:
            _write_streams(_streams_path(destination, 0), _embedded(task))
        for number in range(first, layers):
            start = time.monotonic()
            inputs = _pass(task, destination, number)
            inputs.save(destination / layer_name(number))
            _streams_path(destination, number).unlink(missing_ok=True)
            seen = inputs.tokens
            tell(
                f"layer {number + 1} of {layers}  {time.monotonic() - start:.0f} s, an expert saw {seen.min():,} to "
                f"{seen.max():,} tokens, median {int(np.median(seen)):,}"
            )
        _finish(task, destination)
    except OSError as error:
        raise UserError(
            f"{destination} cannot be written: {error.strerror or error}. What is finished is kept: the same command "
            "goes on from here."
        ) from None


def encoded_stack(experts: Experts, matrix: str, storage: str, inputs: Any, at_once: int = 1) -> dict[str, mx.array]:
    """A loaded stack of MXFP4 experts, encoded with feedback: the arrays of format `storage`, [E, ...]."""
    weights = experts[matrix]
    factors, pieces = Factors(inputs), []
    count = len(inputs.tokens)
    for first in range(0, count, at_once):
        chosen = range(first, min(first + at_once, count))
        decoded = get_format("mxfp4").decode(*(array[first : first + at_once] for array in weights.arrays))
        pieces.append(encode_experts(storage, decoded, chosen, inputs, factors.of(chosen)))
    arrays = {part: mx.concatenate([piece[part] for piece in pieces]) for part in pieces[0]}
    mx.eval(arrays)
    return arrays


def replace_stack(experts: Experts, matrix: str, storage: str, arrays: dict[str, mx.array]) -> None:
    """Gives loaded experts other codes."""
    experts[matrix].store_as(storage)
    for name, array in arrays.items():
        setattr(experts[matrix], name, array)


def _pass(task: Task, folder: Path, number: int) -> LayerInputs:
    """Sends all tokens through a layer, and writes the streams behind it."""
    layer = Layer(task.checkpoint, number, task.numerics)
    collector = layer.experts.collector = Collector(task.checkpoint.config)
    before, behind = _streams_path(folder, number), _streams_path(folder, number + 1)
    if not task.sequential:
        _write_streams(behind, _passed(task, layer, before))
        return collector.result()
    for _ in _passed(task, layer, before):
        pass
    inputs = collector.result()
    layer.experts.collector = None
    for matrix, storage in SEQUENTIAL_FORMATS.items():
        arrays = encoded_stack(layer.experts, matrix, storage, inputs.inputs(matrix))
        replace_stack(layer.experts, matrix, storage, arrays)
    _write_streams(behind, _passed(task, layer, before))
    return inputs


def _passed(task: Task, layer: Layer, path: Path) -> Iterator[mx.array]:
    """The streams behind a layer, call by call."""
    shape = task.checkpoint.config.hc_mult, task.checkpoint.config.hidden_size
    stored = np.memmap(path, np.uint8, "r")
    width = 2 if task.numerics.dtype == mx.bfloat16 else 4
    start = 0
    for call in task.calls():
        end = start + sum(piece.size for piece in call) * shape[0] * shape[1] * width
        h = mx.array(stored[start:end]).view(task.numerics.dtype).reshape(-1, *shape)
        start = end
        yield layer(h, call)


def _embedded(task: Task) -> Iterator[mx.array]:
    """The streams before the first layer."""
    checkpoint = task.checkpoint
    alone = replace(checkpoint, items=[item for item in checkpoint.items if item.name == "embed"])
    ((_, table),) = alone.load()
    for call in task.calls():
        x = table[mx.array(np.concatenate(call))].astype(task.numerics.dtype)
        yield mx.repeat(x[:, None], checkpoint.config.hc_mult, axis=1)


def _streams_path(folder: Path, number: int) -> Path:
    return folder / f"streams-{number:05d}.bin"


def _write_streams(path: Path, streams: Iterator[mx.array]) -> None:
    with written_whole(path) as temporary, temporary.open("wb") as file:
        for h in streams:
            file.write(np.array(mx.contiguous(h).view(mx.uint8)).data)


def _begin(task: Task, folder: Path) -> None:
    """A fresh folder, or one that an earlier run of the same task left. Raises `UserError` for any other."""
    journal = folder / JOURNAL
    if journal.exists():
        found = read_json(journal)
        if found != task.identity:
            raise UserError(
                f"{folder} holds an unfinished calibration of another model, text or kind. Delete it or choose another "
                "destination."
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already. Delete it or choose another destination.")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(journal, task.identity)


def _finish(task: Task, folder: Path) -> None:
    layers = task.checkpoint.config.num_hidden_layers
    own = {
        **task.identity,
        "model": task.checkpoint.path.name,
        "tokens": sum(piece.size for piece in task.pieces),
        "pieces": len(task.pieces),
        "texts": {text.name: text.sha256 for text in task.texts},
        "layers": {layer_name(n): _digest(folder / layer_name(n)) for n in range(layers)},
    }
    write_json(folder / CALIBRATION_NAME, own)
    for path in (*folder.glob("streams-*"), *folder.glob("tmp-*"), folder / JOURNAL):
        path.unlink(missing_ok=True)
    open_calibration(folder)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _item(layer: int, matrix: str) -> str:
    return f"layers.{layer}.ffn.experts.{matrix}"
