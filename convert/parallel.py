"""Several things done at once, each in a thread: reading, repacking, hashing and MLX all let other threads run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class _StoppedError(Exception):
    """Ends a thread whose result nobody waits for any more."""


def in_threads(
    work: Callable[[T, Callable[[], None]], R], things: Iterable[T], jobs: int
) -> Generator[tuple[T, R], None, None]:
    """Yields (thing, work(thing, check)) as they are finished, at most `jobs` of them in work.

    The first error ends it all. `work` should call `check()` every now and then: it ends what is no longer needed.
    """
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise _StoppedError

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        running = {pool.submit(work, thing, check): thing for thing in things}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        except BaseException:  # Ctrl-C and a caller that goes away too
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
