"""Reads a checkpoint's config.json into a `ModelConfig`. Knows sizes and rules, no arrays.

Field names are those of the released config.json, so a reader can hold both side by side.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ds4_mlx.errors import UserError

SUPPORTED = "DeepSeek-V4-Flash (April) and DeepSeek-V4-Flash-0731, model_type 'deepseek_v4'"

# How a layer sees the past: 0 = the window only, 4 = compressed sparse attention, 128 = heavily compressed attention.
KNOWN_RATIOS = (0, 4, 128)

# Keys whose value chooses the mathematics. Only these values are implemented.
_FIXED_CHOICES: dict[str, Any] = {
    "scoring_func": "sqrtsoftplus",
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "hidden_act": "silu",
    "num_key_value_heads": 1,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "expert_dtype": "fp4",
}


# Far beyond any model of this kind; a larger number is damage, and would keep us busy for ever.
_LARGEST = 2**31 - 1
_LIMITS = {
    "num_hidden_layers": 256,
    "n_routed_experts": 4096,
    "num_experts_per_tok": 4096,
    "num_nextn_predict_layers": 16,
    "hc_mult": 64,
    "hc_sinkhorn_iters": 1000,
}


@dataclass(frozen=True)
class RopeScaling:
    """YaRN parameters of the compressed layers (spec 6)."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float
    beta_slow: float


@dataclass(frozen=True)
class DSparkConfig:
    """Keys that only 0731-style checkpoints carry (spec/dspark.md 1)."""

    block_size: int
    noise_token_id: int
    target_layer_ids: tuple[int, ...]
    markov_rank: int


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of one DeepSeek V4 model (spec 1)."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int
    qk_rope_head_dim: int
    q_lora_rank: int
    o_lora_rank: int
    o_groups: int
    sliding_window: int
    index_n_heads: int
    index_head_dim: int
    index_topk: int
    n_routed_experts: int
    n_shared_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    num_hash_layers: int
    num_nextn_predict_layers: int
    routed_scaling_factor: float
    swiglu_limit: float
    hc_mult: int
    hc_sinkhorn_iters: int
    hc_eps: float
    rms_norm_eps: float
    rope_theta: float
    compress_rope_theta: float
    rope_scaling: RopeScaling
    max_position_embeddings: int
    compress_ratios: tuple[int, ...]  # one per layer, then one per MTP block
    bos_token_id: int
    eos_token_id: int
    weight_block_size: int  # FP8 weights carry one scale per square block of this side
    dspark: DSparkConfig | None = None

    @property
    def prompt_profile(self) -> Literal["april", "0731"]:
        """Which prompt encoder the checkpoint was trained with when it does not ship its own (spec 15.7)."""
        return "0731" if self.dspark else "april"

    @property
    def nope_dim(self) -> int:
        """Channels of a K=V row that carry no RoPE; they come first."""
        return self.head_dim - self.qk_rope_head_dim

    def is_hash_layer(self, layer: int) -> bool:
        """Whether the layer's experts come from the token id. The MTP block is never hash routed."""
        return layer < self.num_hash_layers

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> ModelConfig:
        """Builds the config from the parsed config.json of a checkpoint.

        Raises `UserError` for another model type, a missing or ill-typed key, or a choice that is not implemented.
        """
        if not isinstance(config, dict):
            raise UserError(f"config.json must hold one JSON object, but holds a {type(config).__name__}.")
        model_type = config.get("model_type")
        if model_type != "deepseek_v4":
            raise UserError(f"This is a model of type {model_type!r}. ds4-mlx runs {SUPPORTED}.")
        for key, value in _FIXED_CHOICES.items():
            if config.get(key, value) != value:
                raise UserError(
                    f"config.json says {key} = {config[key]!r}, but only {value!r} is supported ({SUPPORTED})."
                )
        values: dict[str, Any] = {}
        for field in fields(cls):
            if field.name in ("rope_scaling", "compress_ratios", "weight_block_size", "dspark"):
                continue
            values[field.name] = _number(config, field.name, whole=field.type == "int")
        result = cls(
            **values,
            rope_scaling=_rope_scaling(config),
            compress_ratios=_compress_ratios(config, values["num_hidden_layers"]),
            weight_block_size=_weight_block_size(config),
            dspark=_dspark(config),
        )
        result._check_sizes()
        return result

    @classmethod
    def from_file(cls, path: Path) -> ModelConfig:
        """Reads config.json. Raises `UserError` when it cannot be read or is no model of ours."""
        return cls.from_dict(read_json(path))

    def _check_sizes(self) -> None:
        """Relations between sizes that the model relies on."""
        heads_per_group, rest = divmod(self.num_attention_heads, self.o_groups)
        checks = [
            (
                rest == 0,
                f"num_attention_heads {self.num_attention_heads} is not a multiple of o_groups {self.o_groups}",
            ),
            (self.qk_rope_head_dim % 2 == 0, f"qk_rope_head_dim {self.qk_rope_head_dim} is odd"),
            (0 < self.qk_rope_head_dim <= self.head_dim, "qk_rope_head_dim is larger than head_dim"),
            (self.nope_dim % 64 == 0, f"head_dim - qk_rope_head_dim = {self.nope_dim} is not a multiple of 64"),
            (self.qk_rope_head_dim <= self.index_head_dim, "qk_rope_head_dim is larger than index_head_dim"),
            (
                self.index_head_dim % 32 == 0 and self.index_head_dim & (self.index_head_dim - 1) == 0,
                f"index_head_dim {self.index_head_dim} is not a power of two of at least 32",
            ),
            (self.num_experts_per_tok <= self.n_routed_experts, "num_experts_per_tok is larger than n_routed_experts"),
            (self.rope_theta > 1 and self.compress_rope_theta > 1, "rope_theta and compress_rope_theta must exceed 1"),
            (self.bos_token_id < self.vocab_size, "bos_token_id is outside the vocabulary"),
            (self.eos_token_id < self.vocab_size, "eos_token_id is outside the vocabulary"),
            (
                self.dspark is None or all(0 <= t < self.num_hidden_layers for t in self.dspark.target_layer_ids),
                "dspark_target_layer_ids names a layer that does not exist",
            ),
            (self.n_shared_experts == 1, f"n_shared_experts is {self.n_shared_experts}, only 1 is supported"),
            (self.hidden_size % 32 == 0, f"hidden_size {self.hidden_size} is not a multiple of 32"),
            (self.moe_intermediate_size % 32 == 0, "moe_intermediate_size is not a multiple of 32"),
            (self.num_hash_layers <= self.num_hidden_layers, "num_hash_layers is larger than num_hidden_layers"),
            (heads_per_group * self.head_dim % 32 == 0, "an output group's width is not a multiple of 32"),
        ]
        for holds, message in checks:
            if not holds:
                raise UserError(f"config.json does not describe a DeepSeek V4 model: {message}.")


def read_json(path: Path) -> Any:
    """Parses a JSON file. Raises `UserError` when it is missing, unreadable or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; a model folder needs it.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}). Download the file again.") from None


def _number(config: dict[str, Any], key: str, *, whole: bool) -> Any:
    if key not in config:
        raise UserError(f"config.json lacks the key {key!r}, which every {SUPPORTED} has.")
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise UserError(f"config.json has {key} = {value!r}; expected {'a whole number' if whole else 'a number'}.")
    may_be_zero = key in ("bos_token_id", "eos_token_id", "num_hash_layers", "num_nextn_predict_layers")
    limit = _LIMITS.get(key, _LARGEST)
    # Written so that NaN fails too.
    if not 0 <= value <= limit or (value == 0 and not may_be_zero):
        raise UserError(f"config.json has {key} = {value!r}; expected {'0' if may_be_zero else 'above 0'} to {limit}.")
    return value if whole else float(value)


def _rope_scaling(config: dict[str, Any]) -> RopeScaling:
    scaling = config.get("rope_scaling")
    if not isinstance(scaling, dict) or scaling.get("type", scaling.get("rope_type")) != "yarn":
        raise UserError(f"config.json has rope_scaling {scaling!r}; expected one of type 'yarn'.")
    return RopeScaling(
        factor=_number(scaling, "factor", whole=False),
        original_max_position_embeddings=_number(scaling, "original_max_position_embeddings", whole=True),
        beta_fast=_number(scaling, "beta_fast", whole=False),
        beta_slow=_number(scaling, "beta_slow", whole=False),
    )


def _compress_ratios(config: dict[str, Any], num_hidden_layers: int) -> tuple[int, ...]:
    ratios = config.get("compress_ratios")
    if not isinstance(ratios, list) or len(ratios) < num_hidden_layers:
        raise UserError(
            f"config.json needs compress_ratios with one entry per layer ({num_hidden_layers}), found {ratios!r}."
        )
    unknown = sorted({repr(r) for r in ratios if type(r) is not int or r not in KNOWN_RATIOS})
    if unknown:
        raise UserError(
            f"config.json has compress_ratios {', '.join(unknown)}; known are {', '.join(map(str, KNOWN_RATIOS))}."
        )
    if any(ratios[num_hidden_layers:]):
        raise UserError("config.json gives a draft block (after the last layer) a compress ratio other than 0.")
    return tuple(ratios)


def _weight_block_size(config: dict[str, Any]) -> int:
    quantization = config.get("quantization_config")
    if not isinstance(quantization, dict):
        raise UserError("config.json lacks quantization_config; ds4-mlx reads the released FP8/FP4 checkpoints.")
    expected = {"quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0"}
    for key, value in expected.items():
        if quantization.get(key) != value:
            raise UserError(f"quantization_config has {key} = {quantization.get(key)!r}; expected {value!r}.")
    block = quantization.get("weight_block_size")
    if block != [128, 128]:
        raise UserError(f"quantization_config has weight_block_size {block!r}; expected [128, 128].")
    return 128


def _dspark(config: dict[str, Any]) -> DSparkConfig | None:
    if "dspark_block_size" not in config:
        return None
    targets = config.get("dspark_target_layer_ids")
    if not isinstance(targets, list) or not targets or not all(type(t) is int for t in targets):
        raise UserError(f"config.json has dspark_target_layer_ids {targets!r}; expected a list of layer numbers.")
    return DSparkConfig(
        block_size=_number(config, "dspark_block_size", whole=True),
        noise_token_id=_number(config, "dspark_noise_token_id", whole=True),
        target_layer_ids=tuple(targets),
        markov_rank=_number(config, "dspark_markov_rank", whole=True),
    )
