"""The keys of ds4's files and config.json, in both directions.

reference: ds4.c, config_validate_model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ds4_convert.gguf.writing import Value, array, boolean, float32, string, uint32, uint64
from ds4_mlx.config import ModelConfig
from ds4_mlx.errors import UserError

ARCHITECTURE = "deepseek4"

# Key without its prefix -> key of config.json. The first have whole numbers, the second float32.
_WHOLE = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "vocab_size": "vocab_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "rope.dimension_count": "qk_rope_head_dim",
    "attention.q_lora_rank": "q_lora_rank",
    "attention.output_lora_rank": "o_lora_rank",
    "attention.output_group_count": "o_groups",
    "expert_count": "n_routed_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_count": "n_shared_experts",
    "hash_layer_count": "num_hash_layers",
    "attention.sliding_window": "sliding_window",
    "attention.indexer.head_count": "index_n_heads",
    "attention.indexer.key_length": "index_head_dim",
    "attention.indexer.top_k": "index_topk",
    "hyper_connection.count": "hc_mult",
    "hyper_connection.sinkhorn_iterations": "hc_sinkhorn_iters",
}
_REAL = {
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "hyper_connection.epsilon": "hc_eps",
    "rope.freq_base": "rope_theta",
    "attention.compress_rope_freq_base": "compress_rope_theta",
    "expert_weights_scale": "routed_scaling_factor",
}
_WIDE = {"context_length", "rope.scaling.original_context_length"}  # uint64 in ds4's files
_YARN = {
    "rope.scaling.factor": "factor",
    "rope.scaling.original_context_length": "original_max_position_embeddings",
    "rope.scaling.yarn_beta_fast": "beta_fast",
    "rope.scaling.yarn_beta_slow": "beta_slow",
}


def config_from_keys(keys: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The config.json of the model in a file; its drafter, if any, lies in another file.

    Raises `UserError` for another architecture, a missing key, or values that describe no DeepSeek V4 Flash.
    """
    architecture = keys.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise UserError(
            f"{path} is a GGUF of architecture {architecture!r}; ds4-mlx converts {ARCHITECTURE!r}, DeepSeek V4 Flash."
        )

    def get(key: str) -> Any:
        full = f"{ARCHITECTURE}.{key}"
        if full not in keys:
            raise UserError(f"{path} lacks the key {full}, which ds4's files of DeepSeek V4 Flash have.")
        return keys[full]

    config: dict[str, Any] = {"architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4"}
    for key, name in (_WHOLE | _REAL).items():
        if config.setdefault(name, get(key)) != get(key):
            raise UserError(f"{path} has {key} = {get(key)!r}, but {name} is {config[name]!r}.")
    if groups := keys.get(f"{ARCHITECTURE}.expert_group_count"):
        raise UserError(f"{path} puts its experts into {groups} groups; DeepSeek V4 Flash has none.")
    limits = get("swiglu_clamp_exp")
    if not isinstance(limits, list) or len(set(limits)) != 1:
        raise UserError(f"{path} has different clamps for its layers (swiglu_clamp_exp {limits!r}); one is expected.")
    ratios = get("attention.compress_ratios")
    config |= {
        "swiglu_limit": limits[0],
        "compress_ratios": ratios[: config["num_hidden_layers"]] if isinstance(ratios, list) else ratios,
        "rope_scaling": {"type": "yarn", **{name: get(key) for key, name in _YARN.items()}},
        "norm_topk_prob": get("expert_weights_norm"),
        "num_nextn_predict_layers": 0,
        "bos_token_id": keys.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": keys.get("tokenizer.ggml.eos_token_id"),
        "hidden_act": "silu",
        "scoring_func": "sqrtsoftplus",
        "topk_method": "noaux_tc",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        # How the released weights were quantised: what this file was made from, and what every config.json says.
        "expert_dtype": "fp4",
        "quantization_config": {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "scale_fmt": "ue8m0",
            "weight_block_size": [128, 128],
        },
    }
    try:
        ModelConfig.from_dict(config)
    except UserError as error:
        raise UserError(
            f"{path} does not describe a DeepSeek V4 Flash: as a config.json its keys say: {error}"
        ) from None
    return config


def keys_from_config(config: ModelConfig, name: str, alignment: int) -> dict[str, Value]:
    """The keys that ds4 asks of a file, tokenizer aside, in the order of its own files. `name` is the model's."""
    prefix = ARCHITECTURE + "."
    values = {**vars(config), "num_key_value_heads": 1}
    yarn = vars(config.rope_scaling)
    layers = config.num_hidden_layers
    keys = {
        "general.architecture": string(ARCHITECTURE),
        "general.name": string(name),
        "general.alignment": uint32(alignment),
    }
    for key, field in _WHOLE.items():
        keys[prefix + key] = (uint64 if key in _WIDE else uint32)(values[field])
    for key, field in _REAL.items():
        keys[prefix + key] = float32(values[field])
    for key, field in _YARN.items():
        keys[prefix + key] = uint64(yarn[field]) if key in _WIDE else float32(yarn[field])
    return keys | {
        prefix + "attention.compress_ratios": array(uint32, config.compress_ratios[:layers]),
        prefix + "swiglu_clamp_exp": array(float32, [config.swiglu_limit] * layers),
        prefix + "expert_group_count": uint32(0),
        prefix + "expert_group_used_count": uint32(0),
        prefix + "expert_weights_norm": boolean(True),
    }
