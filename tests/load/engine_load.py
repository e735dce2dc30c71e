"""An engine under load: mixed lengths, shared beginnings, cancels at random moments.

PYTHONPATH=tests python -m load.engine_load [REQUESTS] [--model PATH] prints a table: whether each was answered,
refused or cancelled as it should, memory over time, and what 8 streams together give against one.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import numpy as np
from engine.serving import Client, twin, until

import ds4_mlx
from ds4_mlx.engine.language_model import LanguageModel
from ds4_mlx.engine.request import Done, Keeping, QueueFullError, Text
from ds4_mlx.engine.scheduler import Scheduler

_PATIENCE = 600  # seconds; a small machine works through the queue for minutes


@dataclass
class Outcome:
    """What became of the requests."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)  # bytes in use after each answer
    cached: int = 0
    prompts: int = 0


def cancel(client: Client) -> list[str]:
    """Cancels a request; what was wrong with it."""
    client.ticket.cancel()  # type: ignore[union-attr]
    seen = len(client.pieces)
    time.sleep(0.2)
    return ["pieces after cancel"] if len(client.pieces) > seen + 1 else []  # one may be on its way


def check(client: Client, most: int) -> list[str]:
    """What is wrong with an answer."""
    done, wrong = client.pieces[-1], []
    if not isinstance(done, Done):
        return [str(done)]
    if len(client.ids) != done.stats.generated_tokens or done.stats.generated_tokens > most:
        wrong.append(f"{len(client.ids)} tokens came, {done.stats.generated_tokens} were made")
    order = [piece.done for piece in client.progress]
    if order != sorted(order) or any(isinstance(p, Text) for p in client.pieces[: len(order)]):
        wrong.append("out of order")
    return wrong


def storm(model: LanguageModel, requests: int, clients: int, seed: int, *, longest: int = 400) -> Outcome:
    """`clients` threads send `requests` requests in all, cancel a quarter of them, and come again if refused."""
    outcome, lock = Outcome(), threading.Lock()
    todo = iter(range(requests))
    common = [random.Random(seed + 1).randrange(3, 390) for _ in range(300)]

    def send(engine: Scheduler, number: int) -> None:
        rng = random.Random(seed * 100_003 + number)
        own = [rng.randrange(3, 390) for _ in range(rng.choice([1, 20, 60, longest]))]
        ids = [*common, *own] if rng.random() < 0.5 else own
        options = {"temperature": rng.choice([0.0, 1.0]), "seed": number, "max_tokens": rng.randrange(1, 12)}
        cancelled = rng.random() < 0.25
        keeping = Keeping([{"role": "user", "content": str(number)}]) if rng.random() < 0.5 else None
        while True:
            try:
                client = Client(engine, ids, keeping=keeping, **options)
                break
            except QueueFullError:
                with lock:
                    outcome.counts["refused, came again"] += 1
                time.sleep(0.05)
        if cancelled:
            time.sleep(rng.random() * 0.5)
            wrong = cancel(client)
        else:
            wrong = check(client.wait(_PATIENCE), options["max_tokens"])
        with lock:
            outcome.wrong += [f"{number}: {text}" for text in wrong]
            outcome.counts["cancelled" if cancelled else "answered"] += 1
            outcome.memory.append(mx.get_active_memory())
            if client.pieces and isinstance(client.pieces[-1], Done):
                outcome.cached += client.pieces[-1].stats.cached_tokens
                outcome.prompts += client.pieces[-1].stats.prompt_tokens

    def work(engine: Scheduler) -> None:
        while True:
            with lock:
                number = next(todo, None)
            if number is None:
                return
            try:
                send(engine, number)
            except Exception as error:
                outcome.wrong.append(f"{number}: {error!r}")

    with Scheduler(model, max_batch=8, max_queue=16) as engine:
        threads = [threading.Thread(target=work, args=(engine,)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        until(lambda: engine.figures().running == engine.figures().queued == 0, _PATIENCE)
        figures = engine.figures()
        if figures.failed:
            outcome.wrong.append(f"{figures.failed} failed")
    return outcome


def throughput(model: LanguageModel, streams: int, tokens: int = 24) -> float:
    """Tokens a second of that many answers at once, counted from when all of them decode."""
    with Scheduler(model, max_batch=streams) as engine:
        clients = [Client(engine, [5 + i, 9], max_tokens=tokens) for i in range(streams)]
        stats = [client.done.stats for client in clients]
    return sum((s.generated_tokens - 1) / s.decode_seconds for s in stats)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("requests", type=int, nargs="?", default=200)
    parser.add_argument("--model", default=None)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--cache-mb", type=int, default=64)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        model = ds4_mlx.load(args.model, kv_dir=Path(directory) / "kv", kv_bytes=64 << 20)
        pairs = [[throughput(twin(model, model.store), n) for n in (1, 8)] for _ in range(3)]
        one, eight = np.median(pairs, axis=0)
        print(f"1 stream {one:.1f} t/s, 8 streams {eight:.1f} t/s: {eight / one:.2f} times")
        model.cache.budget = args.cache_mb << 20
        begin = time.perf_counter()
        outcome = storm(model, args.requests, args.clients, seed=1)
        seconds = time.perf_counter() - begin
        print(f"{args.requests} requests, {args.clients} clients, {seconds:.0f} s: {dict(outcome.counts)}")
        print(f"wrong: {len(outcome.wrong)} {outcome.wrong[:5]}")
        print(f"cached {outcome.cached} of {outcome.prompts} prompt tokens")
        quarter, held = max(1, len(outcome.memory) // 4), [m / 1e6 for m in outcome.memory]
        means = [np.mean(held[i : i + quarter]) for i in range(0, quarter * 4, quarter)]
        print("memory in use, MB, mean of each quarter:", " ".join(f"{mean:.0f}" for mean in means))
        figures = model.cache.figures()
        print(f"cache {figures.bytes / 1e6:.1f} MB of {args.cache_mb} MiB; {figures.sequences} sequences alive")
        print(f"store {model.store.figures()}")


if __name__ == "__main__":
    main()
