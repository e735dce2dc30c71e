"""Activations stay bfloat16: one float32 array leaking into the residual makes everything after it twice as slow."""

import mlx.core as mx
import numpy as np
import pytest

from ds4_mlx.model import Batch
from ds4_mlx.model.hyper_connections import hc_pre, site

from support import ModelIn


@pytest.fixture
def batch(model_in: ModelIn, tokens: list[int]) -> Batch:
    return Batch.of([(model_in("bf16").new_state(), np.array(tokens[:130]))])


def test_every_sublayer_keeps_bf16(model_in: ModelIn, batch: Batch) -> None:
    model = model_in("bf16")
    network = model.network
    h = mx.repeat(network.embedding(batch.ids)[:, None], model.config.hc_mult, axis=1)
    for i, block in enumerate(network.layers):
        x, _ = hc_pre(h, site(block, "attn"), model.config)
        outputs = {
            "hc_pre": x,
            "attn_norm": block.attn_norm(x),
            "wq_a": block.attn.wq_a(x),
            "attention": block.attn(x, batch, i),
            "experts in": block.ffn.shared_experts(x),
            "moe": block.ffn(x, batch.ids),
        }
        assert {name: a.dtype for name, a in outputs.items()} == dict.fromkeys(outputs, mx.bfloat16), f"layer {i}"


def test_streams_stay_bf16_and_logits_are_fp32(model_in: ModelIn, batch: Batch) -> None:
    network = model_in("bf16").network
    h = network(batch)
    assert h.dtype == mx.bfloat16
    assert network.logits(h).dtype == mx.float32


def test_the_cache_holds_bf16_rows_and_fp32_compressor_state(model_in: ModelIn, batch: Batch) -> None:
    model_in("bf16").network(batch)
    state = batch.spans[0].state
    for i, layer in enumerate(state.layers):
        held = [rows for rows in (state.entries(i, 130), state.index_entries(i, 130)) if rows is not None]
        assert {rows.all().dtype for rows in held} <= {mx.bfloat16}
        assert batch.pool.kv.decode(layer.window.parts).dtype == mx.bfloat16
        for block in (layer.compressor, layer.index_compressor):
            assert block is None or {array.dtype for array in block.parts} == {mx.float32}


def test_weights_are_held_as_released(model_in: ModelIn) -> None:
    """No dequantised copies: FP8 and FP4 stay packed, bf16 stays bf16."""
    model = model_in("bf16")
    held = sum(array.nbytes for _, array in _leaves(model.network.parameters()))
    assert held == model.checkpoint.memory_bytes()


def _leaves(tree: dict[str, object]) -> list[tuple[str, mx.array]]:
    from mlx.utils import tree_flatten

    return tree_flatten(tree)
