"""How the cache stores rows: packed if they are rounded as the model was trained, plain if they are not.

A `RowFormat` names the arrays that hold rows and converts to and from them, so that pages, pools and files treat all
formats alike: what selects rows selects along the first axis of every array.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import mlx.core as mx

from ds4_mlx.config import ModelConfig
from ds4_mlx.kernels.pack_rows import pack_index, pack_kv
from ds4_mlx.kernels.unpack_rows import unpack_index, unpack_kv
from ds4_mlx.quant.rows import PackedIndex, PackedKV
from ds4_mlx.quant.simulate import INDEX_BLOCK, KV_BLOCK


class Part(NamedTuple):
    """One array of a format: [n, width]."""

    name: str
    width: int
    dtype: mx.Dtype


@dataclass(frozen=True)
class RowFormat:
    """One way to store rows [n, d].

    encode: rows [n, d] -> an array [n, width] per part. decode: those arrays -> rows [n, d]. Encoding a packed format
    rounds; rows that were rounded before come back bit for bit.
    """

    name: str  # plain, fp8 or fp4
    parts: tuple[Part, ...]
    encode: Callable[[mx.array], tuple[mx.array, ...]] = field(compare=False, repr=False)
    decode: Callable[[Sequence[mx.array]], mx.array] = field(compare=False, repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes per row."""
        return sum(part.width * part.dtype.size for part in self.parts)


def kv_format(config: ModelConfig, dtype: mx.Dtype = mx.bfloat16, *, packed: bool = True) -> RowFormat:
    """For window and compressed K=V rows of activations in `dtype`.

    packed: whether the model simulates quantisation. The RoPE channels are not rounded then, so they stay in `dtype`.
    """
    if not packed:
        return _plain(config.head_dim, dtype)
    parts = (
        Part("codes", config.nope_dim, mx.uint8),
        Part("exponents", config.nope_dim // KV_BLOCK, mx.uint8),
        Part("tail", config.qk_rope_head_dim, dtype),
    )
    return RowFormat(
        "fp8", parts, lambda rows: pack_kv(rows, config.nope_dim), lambda arrays: unpack_kv(PackedKV(*arrays))
    )


def index_format(config: ModelConfig, dtype: mx.Dtype = mx.bfloat16, *, packed: bool = True) -> RowFormat:
    """For the indexer's keys, which a model that simulates quantisation has rotated before."""
    width = config.index_head_dim
    if not packed:
        return _plain(width, dtype)
    parts = Part("codes", width // 2, mx.uint8), Part("exponents", width // INDEX_BLOCK, mx.uint8)
    return RowFormat("fp4", parts, pack_index, lambda arrays: unpack_index(PackedIndex(*arrays), dtype))


def _plain(width: int, dtype: mx.Dtype) -> RowFormat:
    """Rows as they are."""
    return RowFormat("plain", (Part("rows", width, dtype),), lambda rows: (rows,), lambda arrays: arrays[0])
