"""The bytes of a GGUF header (format: see header.py)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple


class Value(NamedTuple):
    """The value of a key: its type's number, and its bytes."""

    type: int
    content: bytes


def uint32(value: int) -> Value:
    """A whole number."""
    return Value(4, struct.pack("<I", value))


def int32(value: int) -> Value:
    """A whole number that may be negative."""
    return Value(5, struct.pack("<i", value))


def float32(value: float) -> Value:
    """A number."""
    return Value(6, struct.pack("<f", value))


def boolean(value: bool) -> Value:
    """True or false."""
    return Value(7, struct.pack("<?", value))


def string(value: str) -> Value:
    """A text."""
    return Value(8, _text(value))


def uint64(value: int) -> Value:
    """A large whole number."""
    return Value(10, struct.pack("<Q", value))


def array(kind: Callable[[Any], Value], values: Iterable[Any]) -> Value:
    """Several values of one kind, at least one: array(uint32, [4, 128])."""
    elements = [kind(value) for value in values]
    return Value(9, struct.pack("<IQ", elements[0].type, len(elements)) + b"".join(e.content for e in elements))


class TensorInfo(NamedTuple):
    """What a header says of a tensor; `offset` counts from the start of the data."""

    name: str
    shape: tuple[int, ...]  # slowest axis first
    type: int
    offset: int


def header(keys: Mapping[str, Value], tensors: list[TensorInfo], alignment: int) -> bytes:
    """A whole header of version 3, padding included."""
    parts = [struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys))]
    parts += [_text(key) + struct.pack("<I", value.type) + value.content for key, value in keys.items()]
    for name, shape, number, offset in tensors:
        dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        parts.append(_text(name) + dimensions + struct.pack("<IQ", number, offset))
    text = b"".join(parts)
    return text + b"\0" * (-len(text) % alignment)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded
