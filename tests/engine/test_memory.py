"""The memory plan: numbers that add up, an estimate that holds, a refusal that says what to do."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import pytest

import ds4_mlx
from ds4_mlx.cache import session_bytes
from ds4_mlx.engine.language_model import LanguageModel
from ds4_mlx.engine.memory import MemoryPlan, activation_bytes, plan_memory
from ds4_mlx.errors import UserError

from released_shapes import released
from support import ModelIn

GIB = 1 << 30


@pytest.fixture
def model(model_in: ModelIn) -> LanguageModel:
    return model_in("bf16")


def test_the_cache_is_the_budget_or_one_session_as_long_as_the_context(model: LanguageModel) -> None:
    short = plan_memory(model, context=1000, max_batch=2, chunk=64, usable=1 << 40)
    long = plan_memory(model, context=1 << 20, max_batch=2, chunk=64, usable=1 << 40)
    assert short.cache == model.cache.budget
    assert long.cache == max(session_bytes(model.config, 1 << 20), model.cache.budget or 0)
    assert long.weights == model.checkpoint.memory_bytes()


@pytest.mark.parametrize("tokens", [64, 256])
def test_a_chunk_takes_no_more_than_planned(model: LanguageModel, tokens: int) -> None:
    session = model.session()
    mx.eval(session.feed([5] * 4, last_only=True))
    session.state.pool.reserve(8)
    mx.clear_cache()
    base = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(session.feed([5] * tokens, last_only=True, chunk=tokens))
    assert mx.get_peak_memory() - base < activation_bytes(model.config, tokens)


def test_the_released_model_at_a_chunk_of_2048_is_planned_with_less_than_8_gib() -> None:
    widths = {"hidden_size": 4096, "num_attention_heads": 64, "index_n_heads": 64}
    experts = {"num_experts_per_tok": 6, "moe_intermediate_size": 2048}
    assert 1 * GIB < activation_bytes(replace(released(), **widths, **experts), 2048) < 8 * GIB


def test_what_fits_passes_and_what_does_not_is_refused_with_the_numbers() -> None:
    plan = MemoryPlan(weights=80 * 10**9, cache=20 * 10**9, states=10**9, activations=4 * 10**9, usable=105 * 10**9)
    plan.check()
    with pytest.raises(UserError, match=r"weights 80\.0 GB, sessions 20\.0 GB.*105\.0 of 96\.0 GB.*must do with 11\.0"):
        MemoryPlan(plan.weights, plan.cache, plan.states, plan.activations, 96 * 10**9).check()
    with pytest.raises(UserError, match="cannot run here"):
        MemoryPlan(plan.weights, plan.cache, plan.states, plan.activations, 64 * 10**9).check()


def test_a_plan_needs_no_loaded_weights() -> None:
    model = ds4_mlx.engine.language_model.open_model()
    plan_memory(model, context=4096, max_batch=8, chunk=256).check()
    assert model._network is None
