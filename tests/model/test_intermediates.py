"""Everything on the way of one prefill, layer by layer: points at the part that is wrong."""

import mlx.core as mx
import numpy as np
import pytest

from ds4_mlx.kernels.index_twins import choose_entries, index_scores
from ds4_mlx.kernels.stream_twins import Mix
from ds4_mlx.model import Batch
from ds4_mlx.model.hyper_connections import hc_post, hc_pre, site

from support import Golden, ModelIn

Found = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def found(model_in: ModelIn, tokens: list[int]) -> Found:
    """One fp32_plain prefill of 140 tokens, walked by hand; names as in the golden file, all rows."""
    model = model_in("fp32_plain")
    network, config = model.network, model.config
    state = model.new_state()
    batch = Batch.of([(state, np.array(tokens[:140]))])
    h = mx.repeat(network.embedding(batch.ids)[:, None], config.hc_mult, axis=1)
    values: dict[str, mx.array] = {}

    def keep_mix(name: str, mix: Mix) -> None:
        values.update({f"{name}_{part}": array for part, array in mix._asdict().items()})

    for i, block in enumerate(network.layers):
        x, mix = hc_pre(h, site(block, "attn"), config)
        keep_mix(f"L{i}.hc_attn", mix)
        x = block.attn_norm(x)
        out = block.attn(x, batch, i)
        values[f"L{i}.attn_out"] = out
        if entries := state.entries(i, 140):
            values[f"L{i}.comp_kv"] = entries.all()
        if index_entries := state.index_entries(i, 140):
            keys = index_entries.all()
            index = block.attn.indexer.prepare(x, block.attn.q_norm(block.attn.wq_a(x)), batch)
            scores = index_scores(index.queries, index.weights, keys)
            visible = mx.array(np.arange(keys.shape[0]) < (np.arange(140)[:, None] + 1) // 4)
            values[f"L{i}.index_kv"] = keys
            values[f"L{i}.index_score"] = mx.where(visible, scores, -mx.inf)
            values[f"L{i}.topk"] = choose_entries(scores, visible, config.index_topk)
        h = hc_post(out, h, mix)
        x, mix = hc_pre(h, site(block, "ffn"), config)
        keep_mix(f"L{i}.hc_ffn", mix)
        x = block.ffn_norm(x)
        experts, weights = block.ffn.gate(x, batch.ids)
        values[f"L{i}.router_i"], values[f"L{i}.router_w"] = experts, weights
        values[f"L{i}.ffn_out"] = block.ffn(x, batch.ids)
        h = hc_post(values[f"L{i}.ffn_out"], h, mix)
        values[f"L{i}.h_out"] = h
    return {name: np.array(array) for name, array in values.items()}


@pytest.mark.parametrize("layer", range(7))
@pytest.mark.parametrize(
    "part",
    [f"hc_{sublayer}_{gate}" for sublayer in ("attn", "ffn") for gate in ("pre", "post", "comb")]
    + ["attn_out", "ffn_out"],
)
def test_sublayers(found: Found, golden: Golden, layer: int, part: str) -> None:
    z = golden("intermediates")
    assert np.abs(found[f"L{layer}.{part}"][z["pos"]] - z[f"L{layer}.{part}"]).max() <= 1e-3


@pytest.mark.parametrize("layer", [0, 2, 3, 6])
def test_streams_after_a_layer(found: Found, golden: Golden, layer: int) -> None:
    z = golden("intermediates")
    rows = z["pos"][[2, 9, 15]]
    assert np.abs(found[f"L{layer}.h_out"][rows] - z[f"L{layer}.h_out"]).max() <= 1e-3


@pytest.mark.parametrize("layer", range(7))
def test_routing(found: Found, golden: Golden, layer: int) -> None:
    z = golden("intermediates")
    got_i, got_w = found[f"L{layer}.router_i"], found[f"L{layer}.router_w"]
    want_i, want_w = z[f"L{layer}.router_i"], z[f"L{layer}.router_w"]
    got, want = np.argsort(got_i), np.argsort(want_i)
    assert np.array_equal(np.take_along_axis(got_i, got, 1), np.take_along_axis(want_i, want, 1))
    difference = np.take_along_axis(got_w, got, 1) - np.take_along_axis(want_w, want, 1)
    assert np.abs(difference).max() <= 1e-3


@pytest.mark.parametrize("name", [f"L{i}.comp_kv" for i in (2, 3, 4, 5, 6)] + [f"L{i}.index_kv" for i in (2, 4, 6)])
def test_compressed_rows(found: Found, golden: Golden, name: str) -> None:
    reference = golden("intermediates")[name]
    assert found[name].shape == reference.shape
    assert np.abs(found[name] - reference).max() <= 1e-3


@pytest.mark.parametrize("layer", [2, 6])
def test_index_scores(found: Found, golden: Golden, layer: int) -> None:
    z = golden("intermediates")
    got, want = found[f"L{layer}.index_score"][z["pos"]], z[f"L{layer}.index_score"]
    seen = np.isfinite(want)
    assert np.array_equal(np.isfinite(got), seen)
    assert np.abs(got[seen] - want[seen]).max() <= 1e-3


@pytest.mark.parametrize("layer", [2, 4, 6])
def test_indexer_choice(found: Found, golden: Golden, layer: int) -> None:
    z = golden("intermediates")
    entries = found[f"L{layer}.index_kv"].shape[0]
    for got, want in zip(found[f"L{layer}.topk"], z[f"L{layer}.topk"], strict=True):
        assert set(got[got < entries].tolist()) == set(want[want >= 0].tolist())
