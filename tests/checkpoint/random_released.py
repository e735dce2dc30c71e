"""Writes a released checkpoint of any size with random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ds4_mlx.checkpoint.layout import BF16, F32, FP8, I64, SCALE, Expected, official_tensors
from ds4_mlx.checkpoint.safetensors_file import header_bytes
from ds4_mlx.config import ModelConfig

from support import GOLDEN_CHECKPOINT

# The smallest model whose experts fit blocks of 256, with both kinds of routing, an indexer and an MTP block.
SMALL = {
    "num_hidden_layers": 2,
    "compress_ratios": [0, 4, 0],
    "num_hash_layers": 1,
    "n_routed_experts": 3,
    "moe_intermediate_size": 256,
}
# DeepSeek-V4-Flash (spec 1).
FLASH = {
    "vocab_size": 129280, "hidden_size": 4096, "num_hidden_layers": 43, "num_attention_heads": 64, "head_dim": 512,
    "q_lora_rank": 1024, "o_lora_rank": 1024, "o_groups": 8, "sliding_window": 128, "index_n_heads": 64,
    "index_topk": 512, "n_routed_experts": 256, "num_experts_per_tok": 6, "moe_intermediate_size": 2048,
    "num_hash_layers": 3, "compress_ratios": [0, 0, *[4, 128] * 20, 4, 0],
}  # fmt: skip


def small_config(**changes: Any) -> dict[str, Any]:
    """config.json of the small model."""
    return {**json.loads((GOLDEN_CHECKPOINT / "config.json").read_text()), **SMALL, **changes}


def write_small(folder: Path, **changes: Any) -> Path:
    """The small model with the golden tokenizer."""
    write(folder, small_config(**changes))
    shutil.copy(GOLDEN_CHECKPOINT / "tokenizer.json", folder)
    return folder


def write(folder: Path, config: dict[str, Any], seed: int = 0) -> None:
    """Config, index and two shards: what lies outside the layers, and the rest."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    expected = list(official_tensors(ModelConfig.from_dict(config)))
    random = np.random.default_rng(seed)
    weight_map = {}
    groups = ([e for e in expected if not e.name.startswith("layers.")], [e for e in expected if "layers." in e.name])
    for number, group in enumerate(groups, start=1):
        name = f"model-{number:05d}-of-00002.safetensors"
        weight_map |= dict.fromkeys((e.name for e in group), name)
        with (folder / name).open("wb") as file:
            file.write(header_bytes([(e.name, e.dtype, e.shape) for e in group], {}))
            for entry in group:
                file.write(sound_values(entry, config["n_routed_experts"], random).data)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def sound_values(entry: Expected, experts: int, random: np.random.Generator) -> np.ndarray:
    """Random values of a released tensor, none of them NaN or infinite, of the sizes that weights have."""
    if entry.dtype == SCALE:
        return random.integers(117, 121, entry.shape, np.uint8)
    if entry.dtype == I64:
        return random.integers(0, experts, entry.shape, np.int64)
    if entry.dtype == F32:
        return random.standard_normal(entry.shape, np.float32)
    if entry.dtype == BF16:
        return (random.standard_normal(entry.shape, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    codes = random.integers(0, 256, entry.shape, np.uint8)
    return np.where(codes & 0x7F == 0x7F, 0, codes).astype(np.uint8) if entry.dtype == FP8 else codes
