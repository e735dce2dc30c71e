"""What tensors a DeepSeek V4 checkpoint must hold: names, shapes and dtypes follow from the config (spec 12,
dspark.md 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from ds4_mlx.checkpoint.safetensors_file import NUMPY_DTYPES
from ds4_mlx.config import ModelConfig

FP8, SCALE, FP4, BF16, F32, I64 = "F8_E4M3", "F8_E8M0", "I8", "BF16", "F32", "I64"
F16, I32 = "F16", "I32"  # in converted folders only


class Expected(NamedTuple):
    """One tensor that a folder must hold. `dtype` is the safetensors name."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes on disk, and in memory once loaded."""
        return math.prod(self.shape) * NUMPY_DTYPES[self.dtype].itemsize


def official_tensors(config: ModelConfig, dspark_stages: int = 0) -> Iterator[Expected]:
    """Every tensor of the released checkpoint. `dspark_stages` counts the drafter's stages, 0 for April."""
    width, n = config.hidden_size, config.hc_mult
    yield Expected("embed.weight", (config.vocab_size, width), BF16)
    yield Expected("head.weight", (config.vocab_size, width), BF16)
    yield Expected("norm.weight", (width,), BF16)
    yield from _head_site("hc_head", n, width)
    for layer in range(config.num_hidden_layers):
        ratio = config.compress_ratios[layer]
        yield from _block(f"layers.{layer}", config, ratio, hashed=config.is_hash_layer(layer))
    if dspark_stages:
        yield from _dspark(config, dspark_stages)
    elif config.dspark is None:
        for stage in range(config.num_nextn_predict_layers):
            yield from _mtp(f"mtp.{stage}", config)


def _fp8(name: str, out: int, width: int, block: int) -> Iterator[Expected]:
    yield Expected(f"{name}.weight", (out, width), FP8)
    yield Expected(f"{name}.scale", (-(-out // block), -(-width // block)), SCALE)


def _fp4(name: str, out: int, width: int) -> Iterator[Expected]:
    yield Expected(f"{name}.weight", (out, width // 2), FP4)
    yield Expected(f"{name}.scale", (out, width // 32), SCALE)


def _head_site(name: str, n: int, width: int) -> Iterator[Expected]:
    yield Expected(f"{name}_fn", (n, n * width), F32)
    yield Expected(f"{name}_base", (n,), F32)
    yield Expected(f"{name}_scale", (1,), F32)


def _compressor(name: str, ratio: int, dim: int, width: int) -> Iterator[Expected]:
    channels = dim * (2 if ratio == 4 else 1)
    yield Expected(f"{name}.wkv.weight", (channels, width), BF16)
    yield Expected(f"{name}.wgate.weight", (channels, width), BF16)
    yield Expected(f"{name}.ape", (ratio, channels), F32)
    yield Expected(f"{name}.norm.weight", (dim,), BF16)


def _attention(name: str, config: ModelConfig, ratio: int) -> Iterator[Expected]:
    width, dim, block = config.hidden_size, config.head_dim, config.weight_block_size
    heads, groups, rank = config.num_attention_heads, config.o_groups, config.o_lora_rank
    yield Expected(f"{name}.attn_sink", (heads,), F32)
    yield Expected(f"{name}.q_norm.weight", (config.q_lora_rank,), BF16)
    yield Expected(f"{name}.kv_norm.weight", (dim,), BF16)
    yield from _fp8(f"{name}.wq_a", config.q_lora_rank, width, block)
    yield from _fp8(f"{name}.wq_b", heads * dim, config.q_lora_rank, block)
    yield from _fp8(f"{name}.wkv", dim, width, block)
    yield from _fp8(f"{name}.wo_a", groups * rank, heads * dim // groups, block)
    yield from _fp8(f"{name}.wo_b", width, groups * rank, block)
    if ratio:
        yield from _compressor(f"{name}.compressor", ratio, dim, width)
    if ratio == 4:
        index_heads, index_dim = config.index_n_heads, config.index_head_dim
        yield from _fp8(f"{name}.indexer.wq_b", index_heads * index_dim, config.q_lora_rank, block)
        yield Expected(f"{name}.indexer.weights_proj.weight", (index_heads, width), BF16)
        yield from _compressor(f"{name}.indexer.compressor", 4, index_dim, width)


def _ffn(name: str, config: ModelConfig, *, hashed: bool) -> Iterator[Expected]:
    width, inner, block = config.hidden_size, config.moe_intermediate_size, config.weight_block_size
    yield Expected(f"{name}.gate.weight", (config.n_routed_experts, width), BF16)
    if hashed:
        yield Expected(f"{name}.gate.tid2eid", (config.vocab_size, config.num_experts_per_tok), I64)
    else:
        yield Expected(f"{name}.gate.bias", (config.n_routed_experts,), F32)
    for expert in range(config.n_routed_experts):
        yield from _fp4(f"{name}.experts.{expert}.w1", inner, width)
        yield from _fp4(f"{name}.experts.{expert}.w2", width, inner)
        yield from _fp4(f"{name}.experts.{expert}.w3", inner, width)
    yield from _fp8(f"{name}.shared_experts.w1", inner, width, block)
    yield from _fp8(f"{name}.shared_experts.w2", width, inner, block)
    yield from _fp8(f"{name}.shared_experts.w3", inner, width, block)


def _block(name: str, config: ModelConfig, ratio: int, *, hashed: bool) -> Iterator[Expected]:
    n, width = config.hc_mult, config.hidden_size
    yield Expected(f"{name}.attn_norm.weight", (width,), BF16)
    yield Expected(f"{name}.ffn_norm.weight", (width,), BF16)
    for sublayer in ("attn", "ffn"):
        rows = (2 + n) * n
        yield Expected(f"{name}.hc_{sublayer}_fn", (rows, n * width), F32)
        yield Expected(f"{name}.hc_{sublayer}_base", (rows,), F32)
        yield Expected(f"{name}.hc_{sublayer}_scale", (3,), F32)
    yield from _attention(f"{name}.attn", config, ratio)
    yield from _ffn(f"{name}.ffn", config, hashed=hashed)


def _mtp(name: str, config: ModelConfig) -> Iterator[Expected]:
    width, block = config.hidden_size, config.weight_block_size
    yield from _block(name, config, 0, hashed=False)
    yield from _fp8(f"{name}.e_proj", width, width, block)
    yield from _fp8(f"{name}.h_proj", width, width, block)
    for norm in ("enorm", "hnorm", "norm"):
        yield Expected(f"{name}.{norm}.weight", (width,), BF16)
    yield from _head_site(f"{name}.hc_head", config.hc_mult, width)


def _dspark(config: ModelConfig, stages: int) -> Iterator[Expected]:
    assert config.dspark is not None
    width, targets, rank = config.hidden_size, len(config.dspark.target_layer_ids), config.dspark.markov_rank
    for stage in range(stages):
        yield from _block(f"mtp.{stage}", config, 0, hashed=False)
    yield from _fp8("mtp.0.main_proj", width, targets * width, config.weight_block_size)
    yield Expected("mtp.0.main_norm.weight", (width,), BF16)
    last = f"mtp.{stages - 1}"
    yield Expected(f"{last}.norm.weight", (width,), BF16)
    yield from _head_site(f"{last}.hc_head", config.hc_mult, width)
    yield Expected(f"{last}.markov_head.markov_w1.weight", (config.vocab_size, rank), BF16)
    yield Expected(f"{last}.markov_head.markov_w2.weight", (config.vocab_size, rank), BF16)
    yield Expected(f"{last}.confidence_head.proj.weight", (1, width + rank), BF16)
