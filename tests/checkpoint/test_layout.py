"""The names, shapes and dtypes that a config asks for add up to the published sizes."""

import json
import math

import pytest

from ds4_mlx.checkpoint.items import model_items
from ds4_mlx.checkpoint.layout import official_tensors
from ds4_mlx.checkpoint.repack import repack_plan
from ds4_mlx.checkpoint.safetensors_file import NUMPY_DTYPES
from ds4_mlx.config import ModelConfig

from checkpoint.random_released import FLASH
from support import GOLDEN_CHECKPOINT

DSPARK = {
    "compress_ratios": [0, 0] + [4, 128] * 20 + [4, 0, 0, 0],
    "dspark_block_size": 5,
    "dspark_noise_token_id": 128799,
    "dspark_target_layer_ids": [40, 41, 42],
    "dspark_markov_rank": 256,
}


def config(**changes: object) -> ModelConfig:
    golden = json.loads((GOLDEN_CHECKPOINT / "config.json").read_text())
    return ModelConfig.from_dict({**golden, **FLASH, **changes})


@pytest.mark.parametrize(
    ("changes", "stages", "count", "total"),
    [({}, 0, 69_187, 159_609_485_896), (DSPARK, 3, 72_317, 166_878_536_440)],
)
def test_tensors_and_bytes_equal_the_published_checkpoints(
    changes: dict[str, object], stages: int, count: int, total: int
) -> None:
    tensors = list(official_tensors(config(**changes), stages))
    assert len(tensors) == count
    assert sum(math.prod(t.shape) * NUMPY_DTYPES[t.dtype].itemsize for t in tensors) == total


def test_every_released_tensor_goes_into_exactly_one_of_ours() -> None:
    used = [source for target in repack_plan(model_items(config())) for source in target.sources]
    assert sorted(used) == sorted(t.name for t in official_tensors(config()))


def test_experts_are_stacked_in_order() -> None:
    plan = {t.name: t for t in repack_plan(model_items(config()))}
    stack = plan["layers.5.ffn.experts.w2.weight"]
    assert stack.shape == (256, 4096, 2048 // 8)
    assert stack.sources[17] == "layers.5.ffn.experts.17.w2.weight"


def test_the_repacked_model_is_hardly_larger_than_the_released_one() -> None:
    """MXFP8 repeats scales (3 % of the FP8 part); everything else keeps its size."""
    plan = repack_plan(model_items(config()))
    assert sum(t.nbytes for t in plan) == pytest.approx(159.6e9, rel=0.003)
