"""The short form of `load.server_load`: a real server process, ds4-tiny, seconds."""

import asyncio
from pathlib import Path

from load.server_load import stop_under_load, storm
from load.server_process import serving
from load.server_requests import QUESTIONS


def test_a_storm_of_all_apis_gets_answers_or_proper_refusals(tmp_path: Path) -> None:
    with serving(tmp_path / "kv", "--max-queue", "1", "--max-batch", "4", "--ctx", "4096") as server:
        outcome = asyncio.run(storm(server, 20, clients=10, seed=3, questions=QUESTIONS[:2]))
        server.terminate()
        assert server.wait() == 0
    assert outcome.wrong == []
    counts = outcome.counts
    assert sum(counts.values()) - counts["refused, came again"] == 20
    assert counts["refused, came again"] > 0
    assert counts["broken off"] > 0
    assert set(outcome.statuses) == {200, 429}
    assert outcome.left["failed"] == 0


def test_sigterm_under_load_loses_no_answered_conversation(tmp_path: Path) -> None:
    with serving(tmp_path / "kv", "--ctx", "4096") as server:
        stopped = asyncio.run(stop_under_load(server, tmp_path / "kv", 4, "--ctx", "4096"))
    assert (stopped.exit_code, stopped.lost, stopped.uncached) == (0, [], [])
    assert stopped.answered >= 8
    assert stopped.otherwise < stopped.answered
