"""Reading while writing: the next item is made in a second thread while the caller works on this one."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def one_ahead(items: Iterable[T]) -> Generator[T, None, None]:
    """The same items in the same order, at most one made before it is asked for. Errors arrive where they belong."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, iterator, end)
            yield item  # type: ignore[misc]
