"""Two processes save, read and prune in one directory.

PYTHONPATH=tests python -m faults.two_processes [SECONDS] prints the figures.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from faults.samples import MARK, Sample, is_right

from ds4_mlx.cache.audit import audit
from ds4_mlx.cache.store import SessionStore
from ds4_mlx.errors import UserError

BUDGET = 600_000  # bytes: about a dozen sessions, so that much is evicted


def work(directory: Path, seed: int, seconds: float) -> None:
    """One of the two. Prints its counts."""
    warnings: list[str] = []
    store = SessionStore(directory, budget=BUDGET, warn=warnings.append, just_used=0)
    rng, done, end = np.random.default_rng(seed), Counter[str](), time.time() + seconds
    while time.time() < end:
        sample, head = Sample(), None
        sample.grow(np.random.default_rng(0), 300)
        for _ in range(4):
            sample.grow(rng, int(rng.integers(1, 300)))
            head = store.save(sample.ids, sample.export, MARK, earlier=head)
            store.in_use = {head.id}
            done["saves"] += 1
        for other in store.heads()[:5]:
            try:
                segments = list(store.read(store.find(other.id)))
            except UserError:  # removed meanwhile
                done["gone before reading"] += 1
                continue
            done["reads"] += 1
            done["wrong"] += not is_right(segments)
            done["cut short"] += not segments or segments[-1].stop < other.tokens
        if rng.random() < 0.3:
            done["dropped by prune"] += len(store.prune(BUDGET // 2))
    done["damaged"] = sum("damaged" in text for text in warnings)
    print(" ".join(f"{key.replace(' ', '_')}={n}" for key, n in done.items()))


def run(seconds: float) -> Counter[str]:
    """The counts of both, and what is wrong afterwards."""
    total = Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        tests = Path(__file__).parents[1]
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "faults.two_processes", "work", folder, str(seed), str(seconds)],
                env={**os.environ, "PYTHONPATH": str(tests)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for seed in (1, 2)
        ]
        for process in started:
            out, err = process.communicate()
            total["crashed"] += process.returncode != 0
            if process.returncode:
                print(err.decode(), file=sys.stderr)
            total += Counter({key: int(n) for key, _, n in (w.partition("=") for w in out.decode().split())})
        store = SessionStore(folder)
        result = audit(store)
        total["broken afterwards"] += len(result.broken)
        total["sessions afterwards"] += result.sessions
        total["wrong"] += sum(not is_right(list(store.read(head))) for head in store.heads())
        total["files half written"] += len(list((Path(folder) / "tmp").glob("*")))
    return total


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
    else:
        length = float(sys.argv[1]) if sys.argv[1:] else 60.0
        for key, n in run(length).items():
            print(f"{key:25} {n}")
