"""What a session takes in memory, from config alone."""

from __future__ import annotations

import mlx.core as mx

from ds4_mlx.cache.rows import index_format, kv_format
from ds4_mlx.config import ModelConfig


def bytes_per_token(config: ModelConfig, dtype: mx.Dtype = mx.bfloat16, *, packed: bool = True) -> float:
    """What each further token adds: its share of the compressed entries of all layers. Windows do not grow."""
    return sum(_entry_bytes(config, ratio, dtype, packed) / ratio for ratio in _ratios(config) if ratio)


def fixed_bytes(config: ModelConfig, dtype: mx.Dtype = mx.bfloat16, *, packed: bool = True) -> int:
    """What a session takes however long it is, once its windows are full: windows and open compressor blocks."""
    window = config.sliding_window * kv_format(config, dtype, packed=packed).nbytes
    return sum(window + _compressor_bytes(config, ratio) for ratio in _ratios(config))


def boundary_bytes(config: ModelConfig, dtype: mx.Dtype = mx.bfloat16, *, packed: bool = True) -> int:
    """A state kept at a page boundary: windows and, in ratio-4 layers, the last block; no block is open there."""
    window = (config.sliding_window - 1) * kv_format(config, dtype, packed=packed).nbytes
    last_block = 2 * mx.float32.size * 4 * 2 * (config.head_dim + config.index_head_dim)
    return sum(window + (last_block if ratio == 4 else 0) for ratio in _ratios(config))


def session_bytes(config: ModelConfig, tokens: int, dtype: mx.Dtype = mx.bfloat16, *, packed: bool = True) -> int:
    """All of a session of `tokens` tokens, room for growth not included."""
    entries = sum(tokens // ratio * _entry_bytes(config, ratio, dtype, packed) for ratio in _ratios(config) if ratio)
    return entries + fixed_bytes(config, dtype, packed=packed)


def _ratios(config: ModelConfig) -> tuple[int, ...]:
    """One per layer, without the MTP blocks."""
    return config.compress_ratios[: config.num_hidden_layers]


def _entry_bytes(config: ModelConfig, ratio: int, dtype: mx.Dtype, packed: bool) -> int:
    """One compressed entry of a layer, in ratio-4 layers with its index row."""
    index = index_format(config, dtype, packed=packed).nbytes if ratio == 4 else 0
    return kv_format(config, dtype, packed=packed).nbytes + index


def _compressor_bytes(config: ModelConfig, ratio: int) -> int:
    """Float32 projections and gates of the open block; with ratio 4 in two series, and of the block before as well."""
    channels = {0: 0, 4: 2 * (config.head_dim + config.index_head_dim), 128: config.head_dim}[ratio]
    tokens = 2 * ratio if ratio == 4 else ratio
    return 2 * mx.float32.size * tokens * channels
