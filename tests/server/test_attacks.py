"""Short forms of `tests/load/openapi_cases.py` and `tests/load/fuzz.py`."""

from __future__ import annotations

from load.fuzz import fuzz
from load.openapi_cases import attack
from server.running import running
from server.scripted_engine import Reply


def test_cases_from_the_openapi_page_are_never_5xx() -> None:
    with running() as server:
        statuses = attack(server.url, 40)
    assert {label.split()[1] for label, _ in statuses} >= {"/v1/chat/completions", "/v1/messages", "/v1/responses"}


def test_broken_requests_hurt_nobody() -> None:
    with running(Reply("one two three", delay=0.002)) as server:
        report, seen = fuzz(server.url, 160, threads=2, big=100_000)
        assert report.bad == []
        assert seen["wrong"] == 0
        assert seen["right"] > 0
        assert server.engine.running == 0
