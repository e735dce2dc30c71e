"""Writes GGUF files with every tensor, type and key of ds4's and random weights, through the gguf library.

The small one has 4 layers: two with a window only and hash routing, then ratio 4 with indexer, then ratio 128.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from support import GOLDEN_CHECKPOINT

STREAMS, MIX = 4, 24

Q2, Q4, MXFP4 = (Type.IQ2_XXS, Type.Q2_K), (Type.Q4_K, Type.Q4_K), (Type.MXFP4, Type.MXFP4)

Tensor = tuple[tuple[int, ...], Type]  # slowest axis first
Experts = Mapping[int, tuple[Type, Type]] | tuple[Type, Type]  # types of gate and up, and of down; also by layer


@dataclass(frozen=True)
class Sizes:
    """Of a model; the defaults are the small one's."""

    ratios: tuple[int, ...] = (0, 0, 4, 128)
    hashed: int = 2
    vocabulary: int = 400
    width: int = 256
    heads: int = 4
    head: int = 128
    lora_q: int = 128
    lora_o: int = 64
    groups: int = 2
    window: int = 16
    experts: int = 5
    used: int = 2
    inner: int = 256
    index_heads: int = 16
    index_dim: int = 128
    index_topk: int = 8


SMALL = Sizes()
# One layer of DeepSeek-V4-Flash of the largest kind; the vocabulary is cut.
FULL_LAYER = Sizes(
    ratios=(4,), hashed=1, vocabulary=1024, width=4096, heads=64, head=512, lora_q=1024, lora_o=1024, groups=8,
    window=128, experts=256, used=6, inner=2048, index_heads=64, index_dim=128, index_topk=512,
)  # fmt: skip


def tensors(experts: Experts = Q2, sizes: Sizes = SMALL) -> dict[str, Tensor]:
    """Every tensor in the order of ds4's file."""
    z = sizes
    f16, f32, q8 = Type.F16, Type.F32, Type.Q8_0
    found: dict[str, Tensor] = {
        "token_embd.weight": ((z.vocabulary, z.width), f16),
        "output_hc_base.weight": ((STREAMS,), f32),
        "output_hc_fn.weight": ((STREAMS, STREAMS * z.width), f16),
        "output_hc_scale.weight": ((1,), f32),
        "output_norm.weight": ((z.width,), f32),
        "output.weight": ((z.vocabulary, z.width), q8),
    }
    for layer, ratio in enumerate(z.ratios):
        up, down = experts[layer] if isinstance(experts, Mapping) else experts
        block: dict[str, Tensor] = {
            "hc_attn_fn.weight": ((MIX, STREAMS * z.width), f16),
            "hc_attn_scale.weight": ((3,), f32),
            "hc_attn_base.weight": ((MIX,), f32),
            "attn_norm.weight": ((z.width,), f32),
            "attn_q_a.weight": ((z.lora_q, z.width), q8),
            "attn_q_a_norm.weight": ((z.lora_q,), f32),
            "attn_q_b.weight": ((z.heads * z.head, z.lora_q), q8),
            "attn_kv.weight": ((z.head, z.width), q8),
            "attn_kv_a_norm.weight": ((z.head,), f32),
            "attn_sinks.weight": ((z.heads,), f32),
            "attn_output_a.weight": ((z.groups * z.lora_o, z.heads * z.head // z.groups), q8),
            "attn_output_b.weight": ((z.width, z.groups * z.lora_o), q8),
        }
        if ratio:
            channels = z.head * (2 if ratio == 4 else 1)
            block |= {
                "attn_compressor_ape.weight": ((ratio, channels), f16),
                "attn_compressor_kv.weight": ((channels, z.width), f16),
                "attn_compressor_gate.weight": ((channels, z.width), f16),
                "attn_compressor_norm.weight": ((z.head,), f32),
            }
        if ratio == 4:
            block |= {
                "indexer.attn_q_b.weight": ((z.index_heads * z.index_dim, z.lora_q), f16),
                "indexer.proj.weight": ((z.index_heads, z.width), f16),
                "indexer_compressor_ape.weight": ((4, 2 * z.index_dim), f16),
                "indexer_compressor_kv.weight": ((2 * z.index_dim, z.width), f16),
                "indexer_compressor_gate.weight": ((2 * z.index_dim, z.width), f16),
                "indexer_compressor_norm.weight": ((z.index_dim,), f32),
            }
        block |= {
            "hc_ffn_fn.weight": ((MIX, STREAMS * z.width), f16),
            "hc_ffn_scale.weight": ((3,), f32),
            "hc_ffn_base.weight": ((MIX,), f32),
            "ffn_norm.weight": ((z.width,), f32),
            "ffn_gate_inp.weight": ((z.experts, z.width), f16),
            **({} if layer < z.hashed else {"exp_probs_b.bias": ((z.experts,), f32)}),
            "ffn_gate_exps.weight": ((z.experts, z.inner, z.width), up),
            "ffn_up_exps.weight": ((z.experts, z.inner, z.width), up),
            "ffn_down_exps.weight": ((z.experts, z.width, z.inner), down),
            "ffn_gate_shexp.weight": ((z.inner, z.width), q8),
            "ffn_up_shexp.weight": ((z.inner, z.width), q8),
            "ffn_down_shexp.weight": ((z.width, z.inner), q8),
            **({"ffn_gate_tid2eid.weight": ((z.vocabulary, z.used), Type.I32)} if layer < z.hashed else {}),
        }
        found |= {f"blk.{layer}.{name}": tensor for name, tensor in block.items()}
    return found


def values(shape: tuple[int, ...], kind: Type, experts: int, rng: np.random.Generator) -> np.ndarray:
    """Random contents: numbers for a plain type; for a quantised one bytes [..., row] with small scales."""
    if kind == Type.I32:
        return rng.integers(0, experts, shape, np.int32)
    if kind in (Type.F16, Type.F32):
        return (0.05 * rng.standard_normal(shape)).astype(np.float16 if kind == Type.F16 else np.float32)
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    raw = rng.integers(0, 256, (*shape[:-1], shape[-1] // weights, size), np.uint8)
    halves = {Type.IQ2_XXS: (0,), Type.Q2_K: (80, 82), Type.Q4_K: (0, 2), Type.Q8_0: (0,), Type.MXFP4: ()}[kind]
    for at in halves:
        scales = (0.001 * (1 + rng.random(raw.shape[:-1]))).astype(np.float16)
        raw[..., at : at + 2] = scales[..., None].view(np.uint8)
    if kind == Type.MXFP4:
        raw[..., 0] = rng.integers(110, 124, raw.shape[:-1])
    return raw.reshape(*shape[:-1], -1)


def keys(sizes: Sizes = SMALL) -> dict[str, Any]:
    """Every key of ds4's file, as (how to add it, value)."""
    z = sizes
    whole = {
        "block_count": len(z.ratios), "embedding_length": z.width, "vocab_size": z.vocabulary,
        "attention.head_count": z.heads, "attention.head_count_kv": 1,
        "attention.key_length": z.head, "attention.value_length": z.head,
        "rope.dimension_count": 64, "attention.q_lora_rank": z.lora_q, "attention.output_lora_rank": z.lora_o,
        "attention.output_group_count": z.groups, "expert_count": z.experts, "expert_used_count": z.used,
        "expert_feed_forward_length": z.inner, "expert_shared_count": 1, "hash_layer_count": z.hashed,
        "expert_group_count": 0, "expert_group_used_count": 0, "attention.sliding_window": z.window,
        "attention.indexer.head_count": z.index_heads, "attention.indexer.key_length": z.index_dim,
        "attention.indexer.top_k": z.index_topk, "hyper_connection.count": STREAMS,
        "hyper_connection.sinkhorn_iterations": 20,
    }  # fmt: skip
    real = {
        "hyper_connection.epsilon": 1e-6, "rope.freq_base": 10000.0, "rope.scaling.factor": 16.0,
        "rope.scaling.yarn_beta_fast": 32.0, "rope.scaling.yarn_beta_slow": 1.0,
        "attention.compress_rope_freq_base": 160000.0, "expert_weights_scale": 1.5,
        "attention.layer_norm_rms_epsilon": 1e-6,
    }  # fmt: skip
    large = {"context_length": 1048576, "rope.scaling.original_context_length": 65536}
    prefix = "deepseek4."
    found: dict[str, Any] = {"general.name": ("string", "A small DeepSeek V4 Flash")}
    found |= {prefix + key: ("uint32", value) for key, value in whole.items()}
    found |= {prefix + key: ("float32", value) for key, value in real.items()}
    found |= {prefix + key: ("uint64", value) for key, value in large.items()}
    found[prefix + "attention.compress_ratios"] = ("array", list(z.ratios))
    found[prefix + "swiglu_clamp_exp"] = ("array", [10.0] * len(z.ratios))
    found[prefix + "expert_weights_norm"] = ("bool", True)
    return found | tokenizer_keys(vocabulary=z.vocabulary)


def tokenizer_keys(folder: Path = GOLDEN_CHECKPOINT, vocabulary: int = SMALL.vocabulary) -> dict[str, Any]:
    """The keys of a tokenizer.json, as llama.cpp's converter would write them."""
    value = json.loads((folder / "tokenizer.json").read_text())
    tokens, kinds = [f"[PAD{i}]" for i in range(vocabulary)], [5] * vocabulary
    for token, number in value["model"]["vocab"].items():
        tokens[number], kinds[number] = token, 1
    for added in value["added_tokens"]:
        control = added["special"] or (added["content"].startswith("<｜") and added["content"].endswith("｜>"))
        tokens[added["id"]], kinds[added["id"]] = added["content"], 3 if control else 4
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in value["model"]["merges"]]
    return {
        "tokenizer.ggml.model": ("string", "gpt2"),
        "tokenizer.ggml.pre": ("string", "joyai-llm"),
        "tokenizer.ggml.tokens": ("array", tokens),
        "tokenizer.ggml.token_type": ("array", kinds),
        "tokenizer.ggml.merges": ("array", merges),
        "tokenizer.ggml.bos_token_id": ("uint32", 0),
        "tokenizer.ggml.eos_token_id": ("uint32", 1),
    }


def write(
    path: Path,
    *,
    experts: Experts = Q2,
    sizes: Sizes = SMALL,
    architecture: str = "deepseek4",
    changed_keys: Mapping[str, Any] | None = None,
    changed_tensors: Mapping[str, Tensor | None] | None = None,
    seed: int = 0,
) -> Path:
    """A file at `path`. Changed keys and tensors replace, add or, given as None, leave out; shapes are ours."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture)
    for key, entry in {**keys(sizes), **(changed_keys or {})}.items():
        if entry is not None:
            getattr(writer, f"add_{entry[0]}")(key, entry[1])
    for name, tensor in {**tensors(experts, sizes), **(changed_tensors or {})}.items():
        if tensor is not None:
            shape, kind = tensor
            quantised = kind not in (Type.F32, Type.F16, Type.I32)
            writer.add_tensor(name, values(shape, kind, sizes.experts, rng), raw_dtype=kind if quantised else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
