"""What a session takes, at the sizes of DeepSeek V4 Flash."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import pytest

from ds4_mlx.cache import (
    PAGE,
    PagePool,
    boundary_bytes,
    bytes_per_token,
    fixed_bytes,
    index_format,
    kv_format,
    session_bytes,
)
from ds4_mlx.config import ModelConfig

import released_shapes
from support import ModelIn

MILLION = 1 << 20


@pytest.fixture(scope="module", name="released")
def _released() -> ModelConfig:
    return released_shapes.released()


def test_a_k_v_row_takes_583_bytes_and_an_index_row_68(released: ModelConfig) -> None:
    assert kv_format(released).nbytes == 448 + 7 + 128 == 583
    assert index_format(released).nbytes == 64 + 4 == 68


def test_a_token_adds_3509_bytes(released: ModelConfig) -> None:
    assert bytes_per_token(released) == 21 * (583 + 68) / 4 + 20 * 583 / 128 == 3508.84375
    assert bytes_per_token(released, packed=False) == 21 * (1024 + 256) / 4 + 20 * 1024 / 128 == 6880


def test_windows_and_open_blocks_take_15_mb(released: ModelConfig) -> None:
    windows = 43 * 128 * 583
    ratio_4 = 21 * 4 * 2 * 8 * (1024 + 256)
    ratio_128 = 20 * 4 * 2 * 128 * 512
    assert fixed_bytes(released) == windows + ratio_4 + ratio_128


def test_a_million_tokens_take_less_than_3_6_gib(released: ModelConfig) -> None:
    assert session_bytes(released, MILLION) == MILLION * 3508.84375 + fixed_bytes(released)
    assert session_bytes(released, MILLION) < 3.6 * 2**30


@pytest.mark.parametrize("ratio", [4, 128])
def test_a_pool_allocates_that_much(released: ModelConfig, ratio: int) -> None:
    one_layer = replace(released, num_hidden_layers=1, compress_ratios=(ratio,))
    pool = PagePool.for_model(one_layer)
    tokens = pool.STEP * PAGE
    pool.reserve(1)
    held = sum(array.nbytes for array in pool.arrays())
    assert held == pool.nbytes == session_bytes(one_layer, tokens) - fixed_bytes(one_layer)


def test_all_of_a_million_tokens_is_allocated_in_less_than_3_6_gib(released: ModelConfig) -> None:
    pool = PagePool.for_model(released)
    steps = -(-MILLION // (PAGE * pool.STEP))
    assert steps * pool.STEP * pool.page_bytes + fixed_bytes(released) < 3.6 * 2**30


def test_a_kept_boundary_takes_what_its_arrays_take(model_in: ModelIn, tokens: list[int]) -> None:
    model = model_in("bf16")
    session = model.session()
    session.feed(tokens[:256], last_only=True)
    assert session.state.own_bytes == boundary_bytes(model.config)


def test_entries_that_are_not_complete_take_nothing(released: ModelConfig) -> None:
    assert session_bytes(released, 3) == fixed_bytes(released)
    assert session_bytes(released, 7) == fixed_bytes(released) + 21 * (583 + 68)


def test_float32_runs_keep_the_rope_channels_as_they_are(released: ModelConfig) -> None:
    assert kv_format(released, mx.float32).nbytes == 448 + 7 + 256
