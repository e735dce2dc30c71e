"""Short form of `mixed.py`."""

from __future__ import annotations

import asyncio

from load.mixed import drive, serving


def test_clients_side_by_side_are_answered_as_alone() -> None:
    with serving("--log-level", "error") as (url, _):
        seen, wrong = asyncio.run(drive(url, clients=6, requests=12, cancels=0.3, seed=3, alone=3))
    assert wrong == []
    assert seen["greedy"] > 0
