"""Whether saving or restoring a long session holds up the tokens of another answer.

PYTHONPATH=tests python -m load.saving_gaps [TOKENS] prints the times between two tokens of a running answer:
undisturbed, while a session of that many tokens is saved, and while it is restored. The model: four layers of the
golden one.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
from engine.serving import Client, shallow, twin, until

import ds4_mlx
from ds4_mlx.cache.store import SessionStore
from ds4_mlx.engine.request import Keeping
from ds4_mlx.engine.scheduler import Scheduler

from support import GOLDEN_CHECKPOINT


class Watched(Client):
    """Notes when tokens came."""

    def __init__(self, *args: object, **options: object) -> None:
        self.times: list[float] = []
        super().__init__(*args, **options)  # type: ignore[arg-type]

    def _deliver(self, piece: object) -> None:
        self.times.append(time.perf_counter())
        super()._deliver(piece)  # type: ignore[arg-type]


def gaps(times: list[float], begin: float, end: float) -> str:
    """In milliseconds, of those between two moments."""
    inside = [t for t in times if begin <= t <= end]
    between = 1e3 * np.diff(inside)
    told = f"median {np.median(between):6.1f} ms, longest {between.max():6.1f} ms"
    return f"{end - begin:6.2f} s, {len(inside):4} pieces, {told}"


def main() -> None:
    """Prints the table."""
    tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 4096
    ids = np.random.default_rng(0).integers(3, 390, tokens).tolist()
    with tempfile.TemporaryDirectory() as directory:
        kv = Path(directory) / "kv"
        golden = ds4_mlx.load(GOLDEN_CHECKPOINT, dtype=mx.float32, kv_dir=kv)
        model = shallow(golden, SessionStore(kv))
        with Scheduler(model, context=1 << 20) as engine:
            stream = Watched(engine, [5, 6], logit_bias={1: -100.0})  # no end of text
            until(lambda: len(stream.times) > 20)
            begin = time.perf_counter()
            time.sleep(3)
            print("undisturbed   ", gaps(stream.times, begin, time.perf_counter()))
            keeping = Keeping([{"role": "user", "content": "long"}])
            Client(engine, ids, max_tokens=1, keeping=keeping).wait(600)
            begin = time.perf_counter()
            until(lambda: engine.figures().saved)
            print("while saving  ", gaps(stream.times, begin, time.perf_counter()))
            stream.ticket.cancel()  # type: ignore[union-attr]
        with Scheduler(twin(model, SessionStore(kv)), context=1 << 20) as engine:
            stream = Watched(engine, [5, 6], logit_bias={1: -100.0})  # no end of text
            until(lambda: len(stream.times) > 20)
            begin = time.perf_counter()
            long = Client(engine, [*ids, 5], max_tokens=1)
            until(lambda: long.progress)
            print("while restored", gaps(stream.times, begin, time.perf_counter()), f"{long.progress[0].cached} cached")
            stream.ticket.cancel()  # type: ignore[union-attr]


if __name__ == "__main__":
    main()
