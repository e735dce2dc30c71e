"""Sublayers in isolation, from given inputs, with the quantisation simulation: its sharpest test."""

import mlx.core as mx
import numpy as np
import pytest

from ds4_mlx.kernels.index_twins import choose_entries, index_scores
from ds4_mlx.model import Batch

from support import Golden, ModelIn

LAYERS = [0, 2, 3]  # ratio 0 with hash routing, ratio 4, ratio 128


def from_bits(bits: np.ndarray, dtype: mx.Dtype) -> mx.array:
    """bf16 bit patterns as values."""
    return mx.array(bits).view(mx.bfloat16).astype(dtype)


def row_errors(out: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Relative rms error of each row."""
    difference = out.astype(np.float64) - reference
    return np.sqrt((difference**2).mean(-1) / (reference.astype(np.float64) ** 2).mean(-1))


def attention(model_in: ModelIn, golden: Golden, tokens: list[int], layer: int, mode: str):
    """Runs one attention sublayer over the 140 given rows -> its output at the golden positions, and the batch."""
    z, model = golden("blocks"), model_in(mode)
    x = from_bits(z[f"L{layer}.attn_in_bf16bits"], model.numerics.dtype)
    state = model.new_state()
    batch = Batch.of([(state, np.array(tokens[:140]))])
    out = model.network.layers[layer].attn(x, batch, layer)
    return np.array(out.astype(mx.float32))[z["pos"]], x, batch, state


@pytest.mark.parametrize("layer", LAYERS)
def test_attention_with_simulation_in_fp32(model_in: ModelIn, golden: Golden, tokens: list[int], layer: int) -> None:
    out, *_ = attention(model_in, golden, tokens, layer, "fp32_kvq")
    errors = row_errors(out, golden("blocks")[f"L{layer}.attn_out_fp32_kvq"])
    assert np.median(errors) <= 1e-4
    assert errors.max() <= 2e-2


@pytest.mark.parametrize("layer", LAYERS)
def test_attention_in_bf16(model_in: ModelIn, golden: Golden, tokens: list[int], layer: int) -> None:
    out, *_ = attention(model_in, golden, tokens, layer, "bf16")
    assert np.median(row_errors(out, golden("blocks")[f"L{layer}.attn_out_fp32_kvq"])) <= 0.035


@pytest.mark.parametrize("layer", [2, 3])
def test_compressed_entries(model_in: ModelIn, golden: Golden, tokens: list[int], layer: int) -> None:
    *_, state = attention(model_in, golden, tokens, layer, "fp32_kvq")
    entries = np.array(state.entries(layer, 140).all())
    reference = golden("blocks")[f"L{layer}.comp_kv"]
    assert entries.shape == reference.shape
    assert np.mean(np.abs(entries - reference) <= 1e-5) >= 0.995


def test_index_keys_scores_and_choice(model_in: ModelIn, golden: Golden, tokens: list[int]) -> None:
    z, model = golden("blocks"), model_in("fp32_kvq")
    _, x, batch, state = attention(model_in, golden, tokens, 2, "fp32_kvq")
    keys = state.index_entries(2, 140).all()
    assert np.mean(np.abs(np.array(keys) - z["L2.index_kv"]) <= 1e-5) >= 0.995

    attn = model.network.layers[2].attn
    index = attn.indexer.prepare(x, attn.q_norm(attn.wq_a(x)), batch)
    scores = index_scores(index.queries, index.weights, keys)
    reference = z["L2.index_score"]
    seen = np.isfinite(reference)
    got = np.array(scores)[z["pos"]]
    close = np.abs(got[seen] - reference[seen]) <= 1e-4 * np.abs(reference[seen]).max()
    assert close.mean() >= 0.98

    n = keys.shape[0]
    visible = mx.array(np.arange(n) < (np.arange(140)[:, None] + 1) // 4)
    chosen = np.array(choose_entries(scores, visible, model.config.index_topk))
    want = z["L2.topk_fp32_kvq"]
    equal = [set(a[a < n].tolist()) == set(b[b >= 0].tolist()) for a, b in zip(chosen, want, strict=True)]
    assert np.mean(equal) >= 0.98


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("mode", "bound"), [("fp32_kvq", 1e-4), ("bf16", 0.008)])
def test_moe(model_in: ModelIn, golden: Golden, tokens: list[int], layer: int, mode: str, bound: float) -> None:
    z, model = golden("blocks"), model_in(mode)
    x = from_bits(z[f"L{layer}.ffn_in_bf16bits"], model.numerics.dtype)
    ffn = model.network.layers[layer].ffn
    ids = mx.array(tokens[:32])
    errors = row_errors(np.array(ffn(x, ids).astype(mx.float32)), z[f"L{layer}.ffn_out_fp32_kvq"])
    assert np.median(errors) <= bound
    experts, _ = ffn.gate(x, ids)
    assert np.array_equal(np.sort(np.array(experts)), np.sort(z[f"L{layer}.router_i"]))


def test_one_whole_block(model_in: ModelIn, golden: Golden, tokens: list[int]) -> None:
    z, model = golden("blocks"), model_in("fp32_kvq")
    layer = int(z["block_layer"])
    batch = Batch.of([(model.new_state(), np.array(tokens[:8]))])
    out = model.network.layers[layer](from_bits(z["block_in_bf16bits"], mx.float32), batch, layer)
    reference = z["block_out_fp32_kvq"]
    error = np.sqrt(((np.array(out) - reference) ** 2).mean() / (reference**2).mean())
    assert error <= 1e-4


@pytest.mark.parametrize("layer", LAYERS)
def test_activation_rounding_moves_attention_to_the_official_result(
    model_in: ModelIn, golden: Golden, tokens: list[int], layer: int
) -> None:
    """With FP8 activations we are nearer to `official` (which has them) than without."""
    official = golden("blocks")[f"L{layer}.attn_out_official"].astype(np.float32)
    with_rounding, *_ = attention(model_in, golden, tokens, layer, "official")
    without, *_ = attention(model_in, golden, tokens, layer, "bf16")
    assert np.median(row_errors(with_rounding, official)) < 0.7 * np.median(row_errors(without, official))
