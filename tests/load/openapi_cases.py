"""Requests made from our own OpenAPI page by schemathesis, right ones and wrong ones: none may be a 5xx.

    python tests/load/openapi_cases.py [--cases 2000] [--url http://127.0.0.1:8000]

Without --url it tries a server of its own with a scripted engine, whose prompts are checked and encoded as ever.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from server.running import running
from server.scripted_engine import Reply


def attack(url: str, cases: int, begin: int = 1) -> Counter[tuple[str, int]]:
    """How many cases of each operation got which status. Raises AssertionError for a 5xx, with the request."""
    statuses: Counter[tuple[str, int]] = Counter()
    page = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [result.ok() for result in page.get_all_operations()]
    # A body has more ways to be wrong than an address has.
    shares = {operation.label: 10 if operation.method.upper() == "POST" else 1 for operation in operations}
    share = -(-cases // (2 * sum(shares.values())))
    for operation in operations:
        for mode in GenerationMode:
            try:
                _attack_one(operation, mode, url, share * shares[operation.label], begin, statuses)
            except Unsatisfiable:  # nothing about it can be wrong
                continue
    return statuses


def _attack_one(
    operation: Any, mode: GenerationMode, url: str, count: int, begin: int, statuses: Counter[tuple[str, int]]
) -> None:
    @seed(begin)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def test(case: Any) -> None:
        response = case.call(base_url=url, timeout=30)
        statuses[operation.label, response.status_code] += 1
        assert response.status_code < 500, f"{response.status_code} {response.text}\n{case.as_curl_command()}"

    test()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--url")
    arguments = parser.parse_args()
    ours = running(Reply("Hello.")) if arguments.url is None else nullcontext()
    with ours as server:
        statuses = attack(arguments.url or server.url, arguments.cases, arguments.seed)
    print(f"{sum(statuses.values())} cases, no 5xx")
    for (label, status), count in sorted(statuses.items()):
        print(f"{label:50} {status} {count:6}")


if __name__ == "__main__":
    main()
