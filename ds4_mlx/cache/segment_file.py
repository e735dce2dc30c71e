"""One segment as a safetensors file that tells by itself whether it is whole. The format: docs/sessions.md."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ds4_mlx.cache.files import aside, checksum, sync_file
from ds4_mlx.cache.segment import Segment
from ds4_mlx.checkpoint.safetensors_file import NUMPY_DTYPES, Tensor, read_header
from ds4_mlx.errors import UserError

FORMAT = "ds4-mlx segment 1"
TOKENS = "token_ids"
_DTYPES = {"U8": mx.uint8, "U16": mx.uint16, "BF16": mx.bfloat16, "F16": mx.float16, "F32": mx.float32, "I32": mx.int32}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class DamagedError(Exception):
    """A file is not what it should be; the text says in what way."""


class ModelMark(NamedTuple):
    """Which model a memory belongs to.

    checkpoint: DeepSeek's weights, however they are stored. weights: how they are stored, "exact" or a profile and its
    fingerprint. numerics: dtype and rounding of the activations.
    """

    checkpoint: str
    weights: str
    numerics: str


@dataclass(frozen=True)
class Link:
    """A segment as a session's head names it."""

    name: str  # hash of parent and content; the file is NAME.safetensors
    start: int
    stop: int
    kind: str
    state: bool  # whether a sequence can go on from its end
    prefix: str  # hash of all token ids up to `stop`
    nbytes: int  # of the file


class Sealed(NamedTuple):
    """A segment ready to be written."""

    name: str
    arrays: dict[str, mx.array]
    metadata: dict[str, str]


class PrefixHash:
    """BLAKE2b (128 bits) of token ids from the beginning on, as little-endian int32."""

    def __init__(self) -> None:
        self._digest = hashlib.blake2b(digest_size=16)

    def feed(self, token_ids: np.ndarray) -> str:
        """Takes more ids; returns the hash (hex) of all so far."""
        self._digest.update(np.ascontiguousarray(token_ids, dtype="<i4").tobytes())
        return self._digest.copy().hexdigest()


def seal(segment: Segment, *, parent: str, prefix: str, mark: ModelMark) -> Sealed:
    """Names a segment by what it holds and what it follows. `prefix`: hash of all token ids up to its end."""
    arrays = dict(segment.arrays)
    if len(segment.token_ids):
        arrays[TOKENS] = mx.array(segment.token_ids.astype(np.int32))
    mx.eval(arrays)
    tensors = {name: [_NAMES[a.dtype], list(a.shape), checksum(_bytes_of(a))] for name, a in arrays.items()}
    metadata = {
        "format": FORMAT,
        "parent": parent,
        **mark._asdict(),
        "kind": segment.kind,
        "start": str(segment.start),
        "count": str(len(segment.token_ids)),
        "prefix": prefix,
        "info": _canonical(segment.info),
        "tensors": _canonical(tensors),
        "text": segment.text,
    }
    name = hashlib.blake2b(_canonical(metadata).encode(), digest_size=16).hexdigest()
    metadata["created"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    metadata["seal"] = checksum(_canonical(metadata).encode())
    return Sealed(name, arrays, metadata)


def write_aside(directory: Path, sealed: Sealed) -> Path:
    """Writes a segment where nobody looks, waits until it is on the medium, and reads it again. Raises `OSError`."""
    path = aside(directory, ".safetensors")
    try:
        try:
            # A name of one extension: MLX appends it otherwise.
            mx.save_safetensors(str(path), sealed.arrays, sealed.metadata)
        except RuntimeError as error:  # MLX does not pass errno on
            raise OSError(_why(path, str(error))) from None
        sync_file(path)
        check(path, sealed.name)
    except DamagedError as error:
        path.unlink(missing_ok=True)
        raise OSError(f"{path} was not written as it should: {error}") from None
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _why(path: Path, message: str) -> str:
    """What kept MLX from writing, which says only that something did: full, or not allowed to."""
    try:
        with path.open("ab") as file:
            file.write(b"\0" * (1 << 20))
            file.flush()
    except OSError as error:
        return f"{path}: {error.strerror}"
    return f"{path}: {message}"


def check(path: Path, name: str) -> None:
    """Reads the whole file and compares every tensor with its checksum. Raises as `read` does."""
    read(path, name)


class Contents(NamedTuple):
    """A segment file that was read and found sound. No MLX so far: files are read in a thread of their own."""

    metadata: dict[str, str]
    tensors: dict[str, Tensor]
    data: bytes  # of the whole file

    @property
    def parent(self) -> str:
        """The name of the segment before; empty for a first one."""
        return self.metadata["parent"]

    def segment(self) -> Segment:
        """The segment, with arrays of its own."""
        arrays = {name: self._array(tensor) for name, tensor in self.tensors.items()}
        ids = arrays.pop(TOKENS, None)
        return Segment(
            int(self.metadata["start"]),
            np.zeros(0, np.int32) if ids is None else np.array(ids),
            arrays,
            self.metadata["kind"],  # type: ignore[arg-type]
            json.loads(self.metadata["info"]),
            self.metadata["text"],
        )

    def _array(self, tensor: Tensor) -> mx.array:
        raw = np.frombuffer(self.data, np.uint8, tensor.nbytes, tensor.offset)
        kind = NUMPY_DTYPES[tensor.dtype]
        if tensor.offset % kind.itemsize:
            raw = raw.copy()  # aligned
        array = mx.array(raw.view(kind).reshape(tensor.shape))
        return array.view(_DTYPES[tensor.dtype]) if _DTYPES[tensor.dtype] != array.dtype else array


def read(path: Path, name: str) -> Contents:
    """A segment file, compared byte for byte with its checksums.

    Raises `DamagedError`, or `FileNotFoundError` where another process removed the file.
    """
    metadata, held, tensors = _header(path, name)
    data = path.read_bytes()
    view = memoryview(data)
    for tensor in held.values():
        if checksum(view[tensor.offset : tensor.offset + tensor.nbytes]) != tensors[tensor.name][2]:
            raise DamagedError(f"the checksum of {tensor.name} does not match")
    return Contents(metadata, held, data)


def _header(path: Path, name: str) -> tuple[dict[str, str], dict[str, Tensor], dict[str, Any]]:
    """Metadata, where the tensors are, and what they should be; compared with the seal, the name and each other."""
    if not path.exists():
        raise FileNotFoundError(str(path))
    try:
        held, metadata = read_header(path)
    except UserError:
        if not path.exists():
            raise FileNotFoundError(str(path)) from None
        raise DamagedError("it is no whole safetensors file") from None
    except RecursionError:
        raise DamagedError("its header is nested too deeply") from None
    try:
        seal_, rest = metadata["seal"], {key: value for key, value in metadata.items() if key != "seal"}
        if rest["format"] != FORMAT:
            raise DamagedError(f"it has the format {rest['format']!r}; this version reads {FORMAT!r}")
        content = {key: value for key, value in rest.items() if key != "created"}
        if checksum(_canonical(rest).encode()) != seal_:
            raise DamagedError("the checksum of its metadata does not match")
        if hashlib.blake2b(_canonical(content).encode(), digest_size=16).hexdigest() != name:
            raise DamagedError("it holds another segment than its name says")
        tensors = json.loads(rest["tensors"])
    except (KeyError, TypeError, AttributeError, ValueError):
        raise DamagedError("its metadata is not that of a segment") from None
    if {n: [t.dtype, list(t.shape)] for n, t in held.items()} != {n: t[:2] for n, t in tensors.items()}:
        raise DamagedError("its tensors are not those its metadata names")
    with path.open("rb") as file:
        begin = 8 + int.from_bytes(file.read(8), "little")
    if path.stat().st_size != begin + sum(t.nbytes for t in held.values()):
        raise DamagedError("its length is wrong")
    return metadata, held, tensors


def link(sealed: Sealed, segment: Segment, nbytes: int) -> Link:
    """How a head names it."""
    prefix = sealed.metadata["prefix"]
    return Link(sealed.name, segment.start, segment.stop, segment.kind, segment.has_state, prefix, nbytes)


def _bytes_of(array: mx.array) -> memoryview:
    return memoryview(array if array.dtype == mx.uint8 else array.view(mx.uint8))  # type: ignore[arg-type]


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
