"""Whose prompt is read next, and how much of it."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

from ds4_mlx.engine.fairness import Pace, Turns
from ds4_mlx.engine.line import Line
from ds4_mlx.engine.work import Work


@dataclass
class Prompt:
    number: int
    left: int


def served(prompts: list[Prompt], chunk: int, turns: int) -> list[int]:
    """The numbers of those that have a turn, one after the other."""
    order, choose = [], Turns()
    for _ in range(turns):
        waiting = [p for p in prompts if p.left > 0]
        if waiting:
            chosen = choose.choose(waiting)
            chosen.left -= chunk
            order.append(chosen.number)
    return order


def test_the_shortest_rest_comes_first() -> None:
    assert served([Prompt(1, 1000), Prompt(2, 30), Prompt(3, 60)], 100, 3) == [2, 3, 1]


def test_every_fourth_turn_is_that_of_the_first_that_came() -> None:
    order = served([Prompt(1, 10_000), *(Prompt(i, 50) for i in range(2, 30))], 100, 16)
    assert [i for i, number in enumerate(order) if number == 1] == [3, 7, 11, 15]


def test_one_that_others_wait_for_is_as_urgent_as_they_are() -> None:
    long, short = Prompt(1, 1000), Prompt(2, 300)
    assert Turns().choose([long, short]) is short
    assert Turns().choose([long, short], {1: 200}) is long


def test_chunks_are_large_alone_and_half_a_second_beside_others() -> None:
    pace = Pace(chunk=2048)
    assert pace.chunk(busy=False) == 2048
    assert pace.chunk(busy=True) == 512  # nothing is known yet
    pace.note(2048, 2.0)
    assert pace.chunk(busy=True) == 512
    for _ in range(20):
        pace.note(512, 5.0)
    assert pace.chunk(busy=True) == 32
    for _ in range(20):
        pace.note(512, 0.001)
    assert pace.chunk(busy=True) == 2048
    assert Pace(2048, 128).chunk(busy=True) == 128


@dataclass(eq=False)
class Sized:
    """As much of a `Work` as the line looks at; shares nothing with others."""

    number: int
    size: int  # pages
    passed: int = 0
    left: int = 10
    session = restoring = feed = None

    def pages(self) -> int:
        return self.size


def line_of(budget: int, works: list[Sized]) -> Line:
    cache = SimpleNamespace(budget=budget, pool=SimpleNamespace(page_bytes=1))
    line = Line(cast(Any, cache), max_batch=4)
    line.waiting = cast("list[Work]", works)
    return line


def begin(line: Line) -> int | None:
    """Whoever is next leaves the queue and decodes."""
    work = line.next(100, [])
    if work is None:
        return None
    line.begin(work)
    line.decoding.append(work)
    return work.number


def test_one_that_needs_all_memory_is_not_passed_for_ever() -> None:
    large = Sized(1, 90, left=90)
    line = line_of(100, [Sized(0, 20), large, *(Sized(n, 20) for n in range(2, 60))])
    order = []
    while 1 not in order:
        number = begin(line)
        if number is None:  # one of those that decode is done
            line.decoding.pop(0)
        else:
            order.append(number)
    assert order == [0, *range(2, 18), 1]


def test_a_request_larger_than_memory_is_answered_alone() -> None:
    line = line_of(100, [Sized(1, 900)])
    assert begin(line) == 1
    line.waiting.append(cast(Work, Sized(2, 1)))
    assert begin(line) is None
    line.decoding.clear()
    assert begin(line) == 2
