"""Row formats as the cache sees them, and attention over what they give back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx
import pytest

from ds4_mlx.cache import PagedCache, PagePool, RowFormat, index_format, kv_format
from ds4_mlx.config import ModelConfig
from ds4_mlx.engine.language_model import LanguageModel
from ds4_mlx.engine.session import Session
from ds4_mlx.kernels.index_twins import index_scores
from ds4_mlx.model.attention import attend
from ds4_mlx.quant.simulate import rotate_and_simulate_index, simulate_index, simulate_kv

from support import GOLDEN_CHECKPOINT, ModelIn

DTYPES = [mx.float32, mx.bfloat16]


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return ModelConfig.from_file(GOLDEN_CHECKPOINT / "config.json")


def normal(*shape: int, dtype: mx.Dtype, seed: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def formats(config: ModelConfig, dtype: mx.Dtype) -> list[RowFormat]:
    return [make(config, dtype, packed=packed) for make in (kv_format, index_format) for packed in (True, False)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
class TestFormats:
    def test_arrays_are_what_the_parts_say(self, config: ModelConfig, dtype: mx.Dtype) -> None:
        for form in formats(config, dtype):
            for count in (5, 0):
                arrays = form.encode(normal(count, 128, dtype=dtype, seed=1))
                assert [(a.shape, a.dtype) for a in arrays] == [((count, p.width), p.dtype) for p in form.parts]
                assert sum(a.nbytes for a in arrays) == count * form.nbytes
                rows = form.decode(arrays)
                assert (rows.shape, rows.dtype) == ((count, 128), dtype)

    def test_rows_can_be_chosen_before_they_are_decoded(self, config: ModelConfig, dtype: mx.Dtype) -> None:
        chosen = mx.array([3, 0, 3, 8])
        for form in formats(config, dtype):
            arrays = form.encode(normal(9, 128, dtype=dtype, seed=2))
            assert mx.array_equal(form.decode([a[chosen] for a in arrays]), form.decode(arrays)[chosen])

    def test_plain_rows_are_not_touched(self, config: ModelConfig, dtype: mx.Dtype) -> None:
        rows = normal(9, 128, dtype=dtype, seed=3)
        for make in (kv_format, index_format):
            form = make(config, dtype, packed=False)
            assert mx.array_equal(form.decode(form.encode(rows)), rows)

    def test_attention_from_packed_rows_is_attention_from_rows(self, config: ModelConfig, dtype: mx.Dtype) -> None:
        form = kv_format(config, dtype)
        q, sink = normal(7, 4, 128, dtype=dtype, seed=4), normal(4, dtype=mx.float32, seed=5)
        window, entries = normal(23, 128, dtype=dtype, seed=6), normal(40, 128, dtype=dtype, seed=7)
        masks = mx.arange(23) < mx.arange(17, 24)[:, None], mx.arange(40) < mx.arange(30, 37)[:, None]

        def attention(window: mx.array, entries: mx.array) -> mx.array:
            return attend(q, window, masks[0], entries, masks[1], sink)

        rows = [simulate_kv(x, config.nope_dim) for x in (window, entries)]
        assert mx.array_equal(attention(*(form.decode(form.encode(x)) for x in (window, entries))), attention(*rows))
        assert mx.array_equal(attention(*(form.decode(form.encode(x)) for x in rows)), attention(*rows))

    def test_index_scores_from_packed_keys_are_those_from_keys(self, config: ModelConfig, dtype: mx.Dtype) -> None:
        form = index_format(config, dtype)
        queries = rotate_and_simulate_index(normal(7, 16, 128, dtype=dtype, seed=8))
        weights = normal(7, 16, dtype=mx.float32, seed=9)
        keys = rotate_and_simulate_index(normal(40, 128, dtype=dtype, seed=10))
        packed = form.decode(form.encode(keys))
        assert mx.array_equal(index_scores(queries, weights, packed), index_scores(queries, weights, keys))


@pytest.mark.parametrize("mode", ["fp32_kvq", "bf16"])
def test_a_model_that_reads_packed_rows_gives_the_same_logits(mode: str, model_in: ModelIn, tokens: list[int]) -> None:
    """Beside it, one whose pages and windows hold the rounded rows as they are."""
    model = model_in(mode)
    config, dtype = model.config, model.numerics.dtype

    def rounded(form: RowFormat, simulate: Callable[[mx.array], mx.array]) -> RowFormat:
        return replace(form, encode=lambda rows: (simulate(rows),))

    unpacked = PagePool(
        config,
        config.compress_ratios[: config.num_hidden_layers],
        rounded(kv_format(config, dtype, packed=False), lambda rows: simulate_kv(rows, config.nope_dim)),
        rounded(index_format(config, dtype, packed=False), simulate_index),
    )

    def logits(session: Session) -> list[mx.array]:
        return [session.feed(tokens[:150]), *(session.feed([token]) for token in tokens[150:156])]

    other = LanguageModel(model.checkpoint, model.tokenizer, model.numerics)
    other._network, other.cache = model.network, PagedCache(unpacked)
    assert model.cache.pool.kv.name == "fp8"
    for found, wanted in zip(logits(model.session()), logits(other.session()), strict=True):
        assert mx.array_equal(found, wanted)
