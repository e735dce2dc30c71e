"""DeepSeek V4 Flash as far as the cache goes, without its weights."""

from dataclasses import replace

from ds4_mlx.config import ModelConfig

from support import GOLDEN_CHECKPOINT


def released() -> ModelConfig:
    """The golden model's config with the sizes of DeepSeek V4 Flash that the cache depends on (spec 1)."""
    return replace(
        ModelConfig.from_file(GOLDEN_CHECKPOINT / "config.json"),
        num_hidden_layers=43,
        head_dim=512,
        qk_rope_head_dim=64,
        index_head_dim=128,
        sliding_window=128,
        compress_ratios=(0, 0, *(4, 128) * 20, 4, 0),
    )
