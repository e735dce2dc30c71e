"""Matrices compute the same however they are stored."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
import pytest

from ds4_mlx.config import ModelConfig
from ds4_mlx.kernels.expert_samples import random_matrices
from ds4_mlx.kernels.expert_twins import swiglu
from ds4_mlx.model.experts import Experts
from ds4_mlx.model.linear import GroupedLinear, Matrix, Numerics, store_as
from ds4_mlx.model.transformer import Transformer
from ds4_mlx.quant import FORMATS, get_format

from support import GOLDEN_CHECKPOINT

FLOAT32 = Numerics(mx.float32)


def fill(matrix: Matrix, storage: str, seed: int = 0) -> mx.array:
    """Stores `matrix` as `storage` with random arrays; returns its weights as float32."""
    matrix.store_as(storage)
    rng = np.random.default_rng(seed)
    if storage in FORMATS:
        shape = matrix.decoded().shape
        arrays = random_matrices(rng, storage, shape)
        matrix.update({part.name: array for part, array in zip(get_format(storage).parts, arrays, strict=True)})
        return get_format(storage).decode(*arrays)
    weights = mx.array(rng.standard_normal(matrix.weight.shape).astype(np.float32)).astype(matrix.weight.dtype)
    matrix.weight = weights
    return weights.astype(mx.float32)


def normal(*shape: int) -> mx.array:
    return mx.array(np.random.default_rng(9).standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize("storage", [*FORMATS, "BF16", "F16", "F32"])
class TestMatrix:
    def test_product(self, storage: str) -> None:
        matrix = Matrix((24, 256), "BF16")
        weights = fill(matrix, storage)
        x = normal(3, 256)
        np.testing.assert_allclose(matrix.product(x), x @ weights.T, rtol=1e-4, atol=1e-4)

    def test_float32_product_of_bfloat16(self, storage: str) -> None:
        matrix = Matrix((24, 256), "BF16")
        weights = fill(matrix, storage)
        x = normal(3, 256).astype(mx.bfloat16)
        y = matrix.product_float32(x)
        assert y.dtype == mx.float32
        np.testing.assert_allclose(y, x.astype(mx.float32) @ weights.T, rtol=1e-4, atol=1e-4)

    def test_groups(self, storage: str) -> None:
        linear = GroupedLinear(2, 256, 8)
        weights = mx.unflatten(fill(linear, storage), 0, (2, 8))
        x = normal(3, 2, 256)
        expected = mx.einsum("tgi,goi->tgo", x, weights).flatten(1)
        np.testing.assert_allclose(linear(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tokens", [1, 40])
@pytest.mark.parametrize(
    "formats", [("iq2_xxs", "iq2_xxs", "q2_k"), ("mxfp4", "mxfp4", "mxfp4"), ("iq2_xxs", "q2_k", "q4_k")], ids=str
)
def test_experts(formats: tuple[str, str, str], tokens: int) -> None:
    config = ModelConfig.from_dict(
        {**_config(), "n_routed_experts": 5, "hidden_size": 256, "moe_intermediate_size": 256}
    )
    experts = Experts(config, FLOAT32)
    w1, w3, w2 = (
        fill(matrix, name, seed)
        for seed, (matrix, name) in enumerate(zip((experts.w1, experts.w3, experts.w2), formats, strict=True))
    )
    rng = np.random.default_rng(1)
    chosen = np.stack([rng.permutation(5)[:2] for _ in range(tokens)])
    weights = mx.array(rng.uniform(0.1, 1, chosen.shape).astype(np.float32))
    x = normal(tokens, 256)
    expected = []
    for t in range(tokens):
        pairs = [
            (swiglu(x[t] @ w1[e].T, x[t] @ w3[e].T, config.swiglu_limit) * weights[t, s]) @ w2[e].T
            for s, e in enumerate(chosen[t].tolist())
        ]
        expected.append(sum(pairs[1:], pairs[0]))
    found = experts(x, mx.array(chosen.astype(np.uint32)), weights)
    np.testing.assert_allclose(found, mx.stack(expected), rtol=1e-3, atol=1e-4)


def _config() -> dict:
    return json.loads((GOLDEN_CHECKPOINT / "config.json").read_text())


def test_arrays_go_by_the_names_of_the_storage() -> None:
    network = Transformer(ModelConfig.from_dict(_config()), FLOAT32)
    store_as(network, lambda name: "q8_0" if name == "layers.0.attn.wq_a" else "F16" if name == "head" else "mxfp8")
    assert network.layers[0].attn.wq_a.scales.dtype == mx.float16
    assert network.head.weight.dtype == mx.float16
    assert network.layers[1].attn.wq_a.scales.dtype == mx.uint8
