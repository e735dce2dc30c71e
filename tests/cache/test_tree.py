"""The prefix tree: what is found, why not more, and what goes first. Numbers only, no model."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from ds4_mlx.cache import CachedSequence, LayerState, PagedCache, PagePool, Rows, value
from ds4_mlx.config import ModelConfig

from support import GOLDEN_CHECKPOINT


@pytest.fixture
def cache() -> PagedCache:
    pool = PagePool.for_model(ModelConfig.from_file(GOLDEN_CHECKPOINT / "config.json"))
    return PagedCache(pool, clock=Clock())


class Clock:
    """Time that is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def ids(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(2, 400, count).tolist()


def feed(sequence: CachedSequence, token_ids: list[int]) -> CachedSequence:
    """Stands in for a model: pages and states of zeros."""
    start = 0
    for stop in sequence.stops(len(token_ids)):
        sequence.state.make_room(stop - start)
        sequence.token_ids.extend(token_ids[start:stop])
        sequence.state.advance(stop - start)
        sequence.state.layers = [
            LayerState(Rows.of([mx.zeros((15, 500), dtype=mx.uint8)])) for _ in sequence.state.layers
        ]
        sequence.stored()
        start = stop
    sequence.keep_boundary()
    return sequence


def test_nothing_is_found_in_an_empty_cache(cache: PagedCache) -> None:
    assert cache.match(ids(10))[:2] == (0, "empty")


def test_a_match_ends_at_the_last_kept_boundary(cache: PagedCache) -> None:
    feed(cache.sequence(), ids(300))
    assert cache.match(ids(300))[:2] == (256, "nothing is held beyond 256")
    assert cache.match(ids(256))[:2] == (256, "all of it is held")


def test_the_reason_names_page_and_token_of_the_difference(cache: PagedCache) -> None:
    feed(cache.sequence(), ids(128 * 14))
    feed(cache.sequence(), ids(128 * 12))  # keeps the boundary there
    other = ids(128 * 14)
    other[128 * 12 + 37] += 1
    assert cache.match(other)[:2] == (128 * 12, "differs at token 37 of page 12")


def test_pages_without_a_state_are_reported(cache: PagedCache) -> None:
    feed(cache.sequence(), ids(4000))
    assert cache.match(ids(3000))[:2] == (2048, "pages are held up to 2944, but no state is kept above 2048")
    assert cache.match(ids(4000)).length == 3968


def test_a_tail_is_found_by_what_goes_on_from_it_only(cache: PagedCache) -> None:
    feed(cache.sequence(), ids(170)).keep()
    assert cache.match(ids(200)).length == 170
    assert cache.match(ids(169))[:2] == (128, "these tokens are held, but no state is kept above 128")
    other = ids(200)
    other[150] += 1
    assert cache.match(other)[:2] == (128, "differs at token 22 of page 1")


def test_the_longest_of_several_tails_is_found_even_behind_a_page_that_has_no_state(cache: PagedCache) -> None:
    sequence = feed(cache.sequence(), ids(20))
    sequence.keep()
    feed(sequence, ids(40)[20:]).keep()
    feed(sequence, ids(600)[40:])
    assert cache.match(ids(30)).length == 20
    assert cache.match(ids(50)).length == 40
    assert cache.match(ids(300)).length == 40


def test_a_sequence_keeps_its_two_latest_tails(cache: PagedCache) -> None:
    sequence = cache.sequence()
    for stop in (10, 20, 30):
        feed(sequence, ids(stop)[stop - 10 :]).keep()
    assert cache.figures().tail_states == 2
    assert cache.match(ids(15)).length == 0
    assert cache.match(ids(25)).length == 20


def test_the_same_tokens_are_held_once(cache: PagedCache) -> None:
    a, b = feed(cache.sequence(), ids(1000)), feed(cache.sequence(), ids(1000))
    assert a.state.table.pages[:7] == b.state.table.pages[:7]
    assert a.state.table.pages[7] != b.state.table.pages[7]
    assert cache.figures().pages == 9
    assert cache.figures().shared_bytes == 7 * cache.pool.page_bytes


def test_pages_outlive_their_sequence(cache: PagedCache) -> None:
    feed(cache.sequence(), ids(1000))
    assert cache.figures().sequences == 0
    assert cache.figures().pages == 7
    later = cache.sequence()
    assert later.resume(ids(1000)) == 896
    assert later.state.position == 896
    assert cache.figures().hits == 1


def test_eviction_takes_what_is_worth_least_and_says_so(cache: PagedCache) -> None:
    clock = cache.clock
    assert isinstance(clock, Clock)
    for seed in (1, 2, 3):
        clock.now = 3600.0 * seed
        feed(cache.sequence(), ids(256, seed))
    cache.use(cache.match(ids(256, 1)))  # old, but used since
    cache.budget = cache.nbytes - 1
    cache.evict()
    assert [cache.match(ids(256, seed))[:2] for seed in (1, 2, 3)] == [
        (256, "all of it is held"),
        (0, "what followed 0 was evicted"),
        (256, "all of it is held"),
    ]
    assert cache.nbytes <= cache.budget
    assert cache.figures().evicted_states == 1


def test_eviction_leaves_the_pages_of_living_sequences(cache: PagedCache) -> None:
    alive = feed(cache.sequence(), ids(300, 1))
    feed(cache.sequence(), ids(300, 2))
    cache.budget = 0
    cache.evict()
    assert cache.pool.used == len(alive.state.table.pages) == 3
    assert cache.match(ids(300, 1))[:2] == (0, "pages are held up to 256, but the states were evicted above 0")
    cache.budget = None
    feed(alive, [7] * 100)
    assert cache.match([*ids(300, 1), *[7] * 100]).length == 384


def test_pages_that_no_state_needs_go_first(cache: PagedCache) -> None:
    long = feed(feed(cache.sequence(), ids(256)), ids(300, 5))
    cache.tree.drop(long.node.places[b""])
    del long
    assert cache.pool.used == 4
    cache.budget = cache.nbytes - 1
    cache.evict()
    assert cache.pool.used == 2
    assert cache.match(ids(256)).length == 256


def test_clearing_forgets_what_no_sequence_uses(cache: PagedCache) -> None:
    alive = feed(cache.sequence(), ids(140))
    feed(cache.sequence(), ids(300, 4)).keep()
    cache.clear()
    assert cache.pool.used == len(alive.state.table.pages) == 2
    del alive
    cache.clear()
    assert cache.pool.used == 0
    assert cache.match(ids(300, 4)).reason == "empty"


def test_value_grows_with_tokens_and_hits_and_halves_in_six_hours() -> None:
    assert value(2000, 10, 0, 0) == 2 * value(1000, 10, 0, 0) == 2 * value(2000, 20, 0, 0)
    assert value(1000, 10, 1, 0) == 2 * value(1000, 10, 0, 0)
    assert value(1000, 10, 0, 6 * 3600) == value(1000, 10, 0, 0) / 2


def test_a_fork_shares_pages_until_it_goes_its_own_way(cache: PagedCache) -> None:
    sequence = feed(cache.sequence(), ids(300))
    twin = sequence.fork()
    assert cache.figures().pages == 3
    feed(twin, [5])
    assert cache.figures().pages == 4
    assert twin.state.table.pages[:2] == sequence.state.table.pages[:2]


def test_rewinding_tells_what_is_owed(cache: PagedCache) -> None:
    sequence = feed(cache.sequence(), ids(5000))
    assert sequence.rewind(4990) == 4990 - 4096
    assert (sequence.state.position, len(sequence.token_ids)) == (4096, 4990)
    assert sequence.rewind(4096) == 0
    assert sequence.rewind(10) == 10
    assert sequence.owed == ids(10)
