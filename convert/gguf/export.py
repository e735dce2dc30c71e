"""Writes a GGUF file as ds4 has them, from a converted folder.

A folder that came from a GGUF becomes that very file again. One that came from DeepSeek's checkpoint becomes a file
with ds4's names, keys, types and order; ds4's types have no FP8, so its dense matrices lose a little on the way.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from ds4_convert import files
from ds4_convert.ahead import one_ahead
from ds4_convert.gguf.header import parse_header
from ds4_convert.gguf.keys import keys_from_config
from ds4_convert.gguf.names import in_file_order, item_name
from ds4_convert.gguf.requantise import in_storage
from ds4_convert.gguf.types import NUMBERS, block_of
from ds4_convert.gguf.vocabulary import tokenizer_keys
from ds4_convert.gguf.writing import TensorInfo, header, string
from ds4_convert.progress import Meter
from ds4_convert.units import size
from ds4_mlx.checkpoint import Checkpoint, open_checkpoint
from ds4_mlx.checkpoint.items import Item
from ds4_mlx.errors import UserError

_ALIGNMENT = 32


class Placed(NamedTuple):
    """A tensor of the file to be written: the item it holds, how, and where."""

    item: Item
    storage: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Layout:
    """A file to be written: its header, then the tensors in the order of their offsets, zeros between them."""

    header: bytes
    tensors: list[Placed]
    size: int


@dataclass(frozen=True)
class Outcome:
    """What an export did."""

    nbytes: int
    tensors: int
    rounded: int  # tensors that the file's types cannot hold exactly
    left_out: int  # items of a drafter, which ds4 keeps in a file of its own
    seconds: float


def export_gguf(source: str | Path, destination: str | Path, *, console: Console | None = None) -> Outcome:
    """Writes the converted folder `source` as the GGUF file `destination`. Shows progress on `console` (stderr).

    Raises `UserError` for a folder that cannot be exported or a destination that cannot be written; a file under the
    name `destination` is always whole.
    """
    start = time.monotonic()
    destination = Path(destination).expanduser()
    checkpoint = open_checkpoint(source)
    if checkpoint.kind != "converted":
        raise UserError(
            f"{source} is a released checkpoint. Convert it first: ds4-mlx convert {source} --profile q2 ..."
        )
    if destination.exists():
        raise UserError(f"{destination} exists already. Delete it or choose another name.")
    if not destination.parent.is_dir():
        raise UserError(f"There is no folder {destination.parent} to write {destination.name} into. Create it first.")
    try:
        layout = _layout_as_imported(checkpoint) if "gguf" in checkpoint.own else layout_for_ds4(checkpoint)
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{checkpoint.path / 'config.json'} does not say where the folder came from. Convert it again."
        ) from None
    with files.disk_errors_explained(destination):
        free = files.free_bytes(destination.parent)
        if layout.size > free:
            raise UserError(f"{destination} needs {size(layout.size)}, but only {size(free)} are free there.")
        meter = Meter(console or Console(stderr=True), "Exporting", total=layout.size, files=1)
        with meter, files.written_aside(destination) as file, closing(one_ahead(_pieces(checkpoint, layout))) as pieces:
            for piece in pieces:
                file.write(piece.data)
                meter.advance(piece.nbytes)
            assert file.tell() == layout.size, (file.tell(), layout.size)
    # Everything fits into F32; the rest of ds4's types is narrower than what was released.
    rounded = sum(p.storage not in (checkpoint.formats.of(p.item.name), "F32") for p in layout.tensors)
    left_out = len(checkpoint.items) - len(layout.tensors)
    return Outcome(layout.size, len(layout.tensors), rounded, left_out, time.monotonic() - start)


def _layout_as_imported(checkpoint: Checkpoint) -> Layout:
    """The file that a folder came from, by the header that was kept."""
    path = checkpoint.path / Path(checkpoint.own["gguf"]["header"]).name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Convert the GGUF again.") from None
    parsed = parse_header(content, int(checkpoint.own["gguf"]["bytes"]), path)
    items = {item.name: item for item in checkpoint.items}
    placed: list[Placed] = []
    for tensor in sorted(parsed.tensors.values(), key=lambda t: t.offset):
        item = items.pop(item_name(tensor.name), None)
        storage = item and checkpoint.formats.of(item.name)
        if item is None or storage is None or (item.shape, NUMBERS.get(storage)) != (tensor.shape, tensor.type):
            raise UserError(f"{path} does not fit the tensors of its folder ({tensor.name}). Convert the GGUF again.")
        if not placed or tensor.offset > placed[-1].offset:  # else it shares the bytes of the one before
            placed.append(Placed(item, storage, tensor.offset, tensor.nbytes))
    if items:
        raise UserError(
            f"{path} does not name all tensors of its folder ({next(iter(items))}). Convert the GGUF again."
        )
    return Layout(content, placed, parsed.size)


def layout_for_ds4(checkpoint: Checkpoint) -> Layout:
    """A file for a folder that came from DeepSeek's checkpoint."""
    items = {item.name: item for item in checkpoint.items}
    at = 0
    placed: list[Placed] = []
    infos: list[TensorInfo] = []
    for row in in_file_order(items, checkpoint.config.num_hidden_layers):
        item = items[row.item]
        # Experts stay what they are: exact ones are MXFP4 in ds4's files as well.
        storage = checkpoint.formats.of(item.name) if ".experts." in item.name else row.storage
        nbytes = _file_bytes(item, storage)
        placed.append(Placed(item, storage, at, nbytes))
        infos.append(TensorInfo(row.gguf, item.shape, NUMBERS[storage], at))
        at += -(-nbytes // _ALIGNMENT) * _ALIGNMENT
    name = str(checkpoint.own["source"]["name"])
    keys = keys_from_config(checkpoint.config, name, _ALIGNMENT) | tokenizer_keys(checkpoint.path, checkpoint.config)
    if imatrix := checkpoint.own.get("imatrix"):
        keys["quantize.imatrix.file"] = string(imatrix["name"])
    head = header(keys, infos, _ALIGNMENT)
    return Layout(head, [p._replace(offset=p.offset + len(head)) for p in placed], len(head) + at)


def _file_bytes(item: Item, storage: str) -> int:
    """Bytes of an item in a GGUF file."""
    block = block_of(NUMBERS[storage])
    assert block is not None, storage
    if item.shape[-1] % block[0]:
        raise UserError(f"{item.name} is {item.shape[-1]} wide, no multiple of {block[0]}: {storage} cannot hold it.")
    return math.prod(item.shape) // block[0] * block[1]


def _pieces(checkpoint: Checkpoint, layout: Layout) -> Iterator[np.ndarray]:
    """The bytes of the file in order, a few MB at a time."""
    yield np.frombuffer(layout.header, np.uint8)
    at = len(layout.header)
    for item, storage, offset, nbytes in layout.tensors:
        yield np.zeros(offset - at, np.uint8)
        yield from in_storage(checkpoint, item, storage)
        at = offset + nbytes
    yield np.zeros(layout.size - at, np.uint8)
