"""A model of random weights, made in the device's memory: what speed needs of a model, without a file.

Shapes, formats and bytes are those of the real thing. Products are of about unit size, so that nothing overflows and
routing spreads over all experts; what comes out means nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import mlx.core as mx

from ds4_mlx.checkpoint import Checkpoint
from ds4_mlx.checkpoint.items import Item, model_items
from ds4_mlx.checkpoint.storage import Storage
from ds4_mlx.config import ModelConfig
from ds4_mlx.engine.hub import DEFAULT_MODEL
from ds4_mlx.engine.language_model import LanguageModel
from ds4_mlx.engine.memory import check_fits
from ds4_mlx.kernels.dense_twins import FLOATS
from ds4_mlx.model.linear import Numerics
from ds4_mlx.quant.formats import FORMATS
from ds4_mlx.text.tokenizer import load_tokenizer

Size = Literal["tiny", "full"]
Profile = Literal["exact", "q2"]

_Q2 = {"w1": "iq2_xxs", "w3": "iq2_xxs", "w2": "q2_k"}  # of routed experts


def config_of(size: Size) -> ModelConfig:
    """`tiny`: the built-in model's. `full`: DeepSeek V4 Flash's (spec 1), without an MTP block."""
    tiny = ModelConfig.from_file(DEFAULT_MODEL / "config.json")
    if size == "tiny":
        return replace(tiny, num_nextn_predict_layers=0)
    return replace(
        tiny,
        vocab_size=129280,
        hidden_size=4096,
        num_hidden_layers=43,
        num_attention_heads=64,
        head_dim=512,
        q_lora_rank=1024,
        o_lora_rank=1024,
        o_groups=8,
        index_n_heads=64,
        index_topk=512,
        n_routed_experts=256,
        num_experts_per_tok=6,
        moe_intermediate_size=2048,
        num_hash_layers=3,
        num_nextn_predict_layers=0,
        compress_ratios=(0, 0, *(4, 128) * 20, 4, 0),
    )


@dataclass(frozen=True)
class SyntheticCheckpoint(Checkpoint):
    """A checkpoint whose arrays are drawn when they are loaded, the same ones every time."""

    def load(self) -> Iterator[tuple[str, mx.array]]:
        """The model's arrays by name, one at a time."""
        key = mx.random.key(0)
        for item in self.items:
            key, own = mx.random.split(key)
            yield from _arrays(item, self.formats.of(item.name), self.config, own)


def synthetic_model(size: Size, profile: Profile, dtype: mx.Dtype = mx.bfloat16) -> LanguageModel:
    """A model as `load` gives one; its cache keeps nothing that no session holds. `q2` stores routed experts as
    `ds4-mlx convert --profile q2` does, `exact` as they are released. Raises `UserError` if it does not fit in memory.

    Its tokenizer is the built-in model's: feed it ids.
    """
    config = config_of(size)
    items = model_items(config)
    stored = {item.name: item.released for item in items}
    if profile == "q2":
        stored |= {name: _Q2[name[-2:]] for name in stored if ".experts." in name and "shared" not in name}
    path = Path(f"synthetic-{size}-{profile}")
    checkpoint = SyntheticCheckpoint(path, "converted", config, {}, {}, items, Storage.of_each(stored), 0)
    check_fits(checkpoint.memory_bytes(), str(path))
    return LanguageModel(checkpoint, load_tokenizer(DEFAULT_MODEL), Numerics(dtype), cache_bytes=0)


def _arrays(item: Item, storage: str, config: ModelConfig, key: mx.array) -> Iterator[tuple[str, mx.array]]:
    if storage in FORMATS:
        width = item.shape[-1]
        keys = mx.random.split(key, len(FORMATS[storage].parts))
        for array, own in zip(item.arrays(storage), keys, strict=True):
            yield array.name, _part(array.name, array.shape, array.dtype, _scale(storage, width), own)
        return
    yield item.tensor, _plain(item, storage, config, key)


def _part(name: str, shape: tuple[int, ...], dtype: str, scale: float, key: mx.array) -> mx.array:
    """One array of a format: any codes but NaN, scales that make weights `scale` times what they are at scale one."""
    if dtype == "F16":
        return mx.full(shape, scale, dtype=mx.float16)
    if dtype == "U8" and name.endswith(".scales"):
        return mx.full(shape, 127 + round(math.log2(scale)), dtype=mx.uint8)
    if dtype == "U8":
        return mx.random.randint(0, 256, shape, key=key).astype(mx.uint8)
    # Two halves, for MLX draws whole numbers through floats.
    low, high = (mx.random.randint(0, 1 << 16, shape, dtype=mx.uint32, key=own) for own in mx.random.split(key))
    return (low | high << 16) & 0xBFBFBFBF  # FP8 codes below 2: none is NaN


@cache
def _scale(storage: str, width: int) -> float:
    """What makes weights of a matrix with rows of `width` have an rms of 1 / sqrt(width)."""
    matrix = FORMATS[storage]
    shapes = matrix.array_shapes((16, 1024))
    keys = mx.random.split(mx.random.key(1), len(shapes))
    parts = [_part(f".{name}", *shape, 1.0, key) for (name, shape), key in zip(shapes.items(), keys, strict=True)]
    rms = mx.sqrt(mx.mean(mx.square(matrix.decode(*parts)))).item()
    return float(width**-0.5 / rms)


def _plain(item: Item, storage: str, config: ModelConfig, key: mx.array) -> mx.array:
    if storage == "I32":  # the experts of a token id: distinct ones, all of them equally often
        steps = mx.arange(item.shape[0])[:, None] * 7 + mx.arange(item.shape[1]) * (
            config.n_routed_experts // item.shape[1]
        )
        return (steps % config.n_routed_experts).astype(mx.int32)
    name = item.name.rpartition(".")[-1]
    if name.endswith("norm"):
        return mx.ones(item.shape, dtype=FLOATS[storage])
    if name in ("attn_sink", "bias") or name.endswith(("_base", "_scale")):
        return mx.zeros(item.shape, dtype=FLOATS[storage])
    scale = 1.0 if name == "embed" else item.shape[-1] ** -0.5
    return mx.random.normal(item.shape, dtype=FLOATS[storage], scale=scale, key=key)
