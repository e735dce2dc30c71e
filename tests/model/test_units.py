"""Small parts against the reference's unit vectors, and what end-to-end numbers cannot see."""

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from ds4_mlx.config import ModelConfig
from ds4_mlx.kernels.index_twins import choose_entries
from ds4_mlx.kernels.stream_twins import Mix, sinkhorn
from ds4_mlx.model.hyper_connections import HyperConnectionWeights, hc_post, split_mix
from ds4_mlx.model.moe import swiglu
from ds4_mlx.model.rope import Rope, apply_rope, yarn_frequencies

from support import GOLDEN_CHECKPOINT, Golden


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return ModelConfig.from_dict(json.loads((GOLDEN_CHECKPOINT / "config.json").read_text()))


@pytest.mark.parametrize(("kind", "ratio"), [("plain", 0), ("yarn", 4)])
@pytest.mark.parametrize("file", ["kernels", "rope_far"])
def test_rope_tables_equal_the_reference_near_and_far(
    golden: Golden, config: ModelConfig, file: str, kind: str, ratio: int
) -> None:
    z = golden(file)
    prefix = f"rope_{kind}" if file == "kernels" else kind
    table = Rope.for_layer(config, ratio).table(z["rope_pos"])
    assert np.abs(np.array(table.cos) - z[f"{prefix}_cos"]).max() <= 1e-5
    assert np.abs(np.array(table.sin) - z[f"{prefix}_sin"]).max() <= 1e-5


def test_yarn_interpolates_the_slow_channels_only(config: ModelConfig) -> None:
    plain = 160000.0 ** (-np.arange(0, 64, 2) / 64)
    ratio = yarn_frequencies(config) / plain
    assert np.allclose(ratio[:16], 1, atol=1e-5)  # up to channel 15 untouched
    assert np.allclose(ratio[25:], 1 / 16, atol=1e-5)  # from channel 25 on divided by the factor


def test_rotation_of_a_row_equals_the_reference_to_one_bf16_step(golden: Golden, config: ModelConfig) -> None:
    z = golden("kernels")
    x = mx.array(z["rope_in"]).astype(mx.bfloat16)
    out = apply_rope(x, Rope.for_layer(config, 4).table(z["rope_pos"])).astype(mx.float32)
    assert np.all(np.abs(np.array(out) - z["rope_yarn_out"]) <= np.abs(z["rope_yarn_out"]) * 2.0**-7 + 1e-6)


def test_inverse_rope_undoes_rope_and_leaves_the_first_channels(config: ModelConfig) -> None:
    x = mx.random.normal((3, 2, 128), key=mx.random.key(0))
    table = Rope.for_layer(config, 0).table(np.array([5, 100, 9000]))
    turned = apply_rope(x, table)
    assert mx.array_equal(turned[..., :64], x[..., :64])
    assert mx.abs(apply_rope(turned, table, inverse=True) - x).max() < 1e-5


def test_gates_and_sinkhorn_equal_the_reference(golden: Golden, config: ModelConfig) -> None:
    z = golden("kernels")
    weights = HyperConnectionWeights(mx.zeros((0,)), mx.array(z["sk_base"]), mx.array(z["sk_scale"]))
    mix = split_mix(mx.array(z["sk_mixes"]), weights, config)
    for got, name in zip(mix, ("sk_pre", "sk_post", "sk_comb"), strict=True):
        assert np.abs(np.array(got) - z[name]).max() <= 1e-5


def test_sinkhorn_runs_exactly_the_rounds_it_is_told() -> None:
    """On input that converges slowly, so that a round more or less shows (the goldens cannot see it)."""
    logits = np.array([[9.0, 0, 0, 0], [8, 7, 0, 0], [0, 8, 8, 0], [9, 0, 0, -9]])

    def by_hand(rounds: int) -> np.ndarray:
        comb = np.exp(logits - logits.max(1, keepdims=True))
        comb = comb / comb.sum(1, keepdims=True) + 1e-6
        comb /= comb.sum(0, keepdims=True) + 1e-6
        for _ in range(rounds - 1):
            comb /= comb.sum(1, keepdims=True) + 1e-6
            comb /= comb.sum(0, keepdims=True) + 1e-6
        return comb

    got = np.array(sinkhorn(mx.array(logits[None], dtype=mx.float32), 20, 1e-6))[0]
    assert np.abs(got - by_hand(20)).max() < 2e-6
    assert np.abs(by_hand(19) - by_hand(20)).max() > 2e-5


def test_sinkhorn_ends_with_the_columns() -> None:
    comb = sinkhorn(mx.random.normal((5, 4, 4), key=mx.random.key(3)) * 4, 3, 1e-6)
    assert mx.abs(comb.sum(axis=-2) - 1).max() < 1e-5
    assert mx.abs(comb.sum(axis=-1) - 1).max() > 1e-4


def test_hc_eps_is_added_to_the_pre_gate_and_to_the_first_softmax(config: ModelConfig) -> None:
    large = replace(config, hc_eps=0.25, hc_sinkhorn_iters=1)
    weights = HyperConnectionWeights(mx.zeros((0,)), mx.zeros((24,)), mx.ones((3,)))
    mix = split_mix(mx.zeros((1, 24)), weights, large)
    assert mx.allclose(mix.pre, mx.array(0.75))  # sigmoid(0) + eps
    assert mx.allclose(mix.post, mx.array(1.0))  # 2 sigmoid(0), no eps
    assert mx.allclose(mix.comb, mx.array(0.5 / 2.25))  # (1/4 + eps) / (4 * 0.5 + eps)


def test_hc_post_sums_over_the_first_index_of_comb() -> None:
    h = mx.array([[[1.0], [10.0]]])
    comb = mx.array([[[0.0, 1.0], [0.0, 0.0]]])  # stream 0 goes to stream 1
    out = hc_post(mx.zeros((1, 1)), h, Mix(mx.zeros((1, 2)), mx.zeros((1, 2)), comb))
    assert out.flatten().tolist() == [0.0, 1.0]


def test_the_gate_of_swiglu_has_no_lower_clamp_and_both_have_an_upper_one() -> None:
    gate, up = mx.array([-50.0, 50.0, 50.0]), mx.array([1.0, 1.0, -50.0])
    out = swiglu(gate, up, 10.0)
    silu10 = 10 / (1 + np.exp(-10))
    assert np.allclose(np.array(out), [-50 / (1 + np.exp(50)), silu10, -10 * silu10], rtol=1e-5)


def test_top_k_takes_the_earlier_entry_among_equals() -> None:
    scores = mx.array([[1.0, 2.0, 1.0, 2.0, 1.0, 0.0]])
    visible = mx.ones((1, 6), dtype=mx.bool_)
    assert choose_entries(scores, visible, 3).tolist() == [[0, 1, 3]]


def test_top_k_never_takes_an_invisible_entry() -> None:
    scores = mx.array([[1.0, 2.0, 9.0, 9.0], [1.0, 2.0, 9.0, 9.0]])
    visible = mx.array([[True, True, False, False], [False, False, False, False]])
    assert choose_entries(scores, visible, 3).tolist() == [[0, 1, 4], [4, 4, 4]]
