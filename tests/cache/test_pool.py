"""Pages: who holds which, and that nothing moves when a row is written."""

from __future__ import annotations

import mlx.core as mx
import pytest

from ds4_mlx.cache import PagePool, PageTable
from ds4_mlx.config import ModelConfig

from support import GOLDEN_CHECKPOINT


@pytest.fixture
def pool() -> PagePool:
    return PagePool.for_model(ModelConfig.from_file(GOLDEN_CHECKPOINT / "config.json"))


def test_pages_come_in_steps_and_go_back(pool: PagePool) -> None:
    table = PageTable(pool)
    table.grow(3)
    assert (table.pages, pool.capacity, pool.used) == ([0, 1, 2], pool.STEP, 3)
    del table
    assert pool.used == 0
    assert len(set(pool.allocate(pool.STEP + 1))) == pool.STEP + 1
    assert pool.capacity == 2 * pool.STEP


def test_what_was_written_survives_growth(pool: PagePool) -> None:
    layer = pool.entries[2]
    assert layer is not None
    pool.reserve(1)
    rows = layer.format.encode(mx.random.normal((40, 128)).astype(mx.bfloat16))
    layer.write(mx.arange(40), rows)
    pool.reserve(2 * pool.STEP)
    for part, row in zip(layer.take(mx.arange(40)), rows, strict=True):
        assert mx.array_equal(part, row)


def test_a_page_is_free_when_its_last_table_is_gone(pool: PagePool) -> None:
    table = PageTable(pool)
    table.grow(2)
    twin = table.fork()
    table.truncate(1)
    assert pool.used == 2
    del table
    assert pool.used == 2
    twin.truncate(1)
    assert pool.used == 1


def test_a_shared_page_is_copied_before_it_is_written_to(pool: PagePool) -> None:
    layer = pool.index_entries[2]
    assert layer is not None
    table = PageTable(pool)
    table.grow(1)
    layer.write(mx.arange(32), layer.format.encode(mx.random.normal((32, 128)).astype(mx.bfloat16)))
    twin = table.fork()
    twin.own(0)
    assert twin.pages != table.pages
    for old, new in zip(layer.take(table.rows(4, 32)), layer.take(twin.rows(4, 32)), strict=True):
        assert mx.array_equal(old, new)
    pages = list(twin.pages)
    twin.own(0)  # its own already
    assert twin.pages == pages


def test_rows_are_found_through_the_table(pool: PagePool) -> None:
    table = PageTable(pool)
    table.grow(3)
    table.pages.reverse()
    assert table.rows(128, 3).tolist() == [2, 1, 0]
    assert table.rows(4, 34).tolist() == [*range(64, 96), 32, 33]
    assert table.rows(4, 0).tolist() == []


def test_writing_a_row_needs_no_second_copy_of_the_pool(pool: PagePool) -> None:
    layer = pool.entries[2]
    assert layer is not None
    pool.reserve(1)
    held, size = mx.get_active_memory(), sum(array.nbytes for array in layer.arrays)
    row = layer.format.encode(mx.ones((1, 128), dtype=mx.bfloat16))
    mx.eval(row)
    mx.reset_peak_memory()
    for i in range(20):
        layer.write(mx.array([i]), row)
        mx.eval(layer.arrays)
    assert mx.get_peak_memory() - held < size / 4


def test_going_back_to_a_snapshot_forgets_what_was_written(pool: PagePool) -> None:
    layer = pool.entries[3]
    assert layer is not None
    pool.reserve(1)
    arrays = pool.arrays()
    snapshot = pool.snapshot()
    layer.write(mx.array([0]), layer.format.encode(mx.ones((1, 128), dtype=mx.bfloat16)))
    pool.restore(snapshot)
    assert [id(a) for a in pool.arrays()] == [id(a) for a in arrays]
    assert not layer.arrays[0].any()


def test_after_a_loss_old_tables_give_nothing_back(pool: PagePool) -> None:
    table = PageTable(pool)
    table.grow(2)
    pool.lose()
    fresh = PageTable(pool)
    fresh.grow(1)
    del table
    assert pool.used == 1
