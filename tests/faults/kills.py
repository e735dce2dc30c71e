"""Kills a process that saves in a loop at random times, and looks at what it leaves.

PYTHONPATH=tests python -m faults.kills [KILLS] prints the figures.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from faults.samples import is_right

from ds4_mlx.cache.audit import audit
from ds4_mlx.cache.store import SessionStore

TESTS = Path(__file__).parents[1]


def one_kill(directory: Path, seed: int, wait: float) -> dict[str, tuple[int, int, int]]:
    """Runs the saver, kills it `wait` seconds after its first save; returns what it acknowledged: id -> revision,
    tokens, checksum of them.
    """
    saver = [sys.executable, "-m", "faults.saver", str(directory), str(seed)]
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(saver, stdout=out, env={**os.environ, "PYTHONPATH": str(TESTS)})
        try:
            while os.fstat(out.fileno()).st_size == 0 and process.poll() is None:
                time.sleep(0.005)
            time.sleep(wait)
        finally:
            process.kill()
            process.wait()
        out.seek(0)
        lines = out.read().decode().split("\n")[:-1]  # a line cut short is no acknowledgement
    assert lines, "the saver did not run"
    assert not any("WARNING" in line for line in lines), lines
    return {id_: (int(r), int(n), int(crc)) for id_, r, n, crc in (line.split() for line in lines)}


def look(directory: Path, acknowledged: dict[str, tuple[int, int, int]]) -> Counter[str]:
    """Counts what is wrong: nothing should be."""
    warnings: list[str] = []
    store, found = SessionStore(directory, warn=warnings.append), Counter[str]()
    heads = {head.id: head for head in store.heads()}
    for head in heads.values():
        segments = list(store.read(head))
        whole = bool(segments) and segments[-1].stop == head.tokens
        found["sessions that do not restore"] += not (whole and is_right(segments))
        if head.id in acknowledged and whole:
            revision, tokens, crc = acknowledged[head.id]
            ids = np.concatenate([part.token_ids for part in segments])
            lost = head.revision < revision or zlib.crc32(ids[:tokens].tobytes()) != crc
            found["acknowledged saves that are lost"] += lost
    found["acknowledged saves that are lost"] += len(acknowledged.keys() - heads.keys())
    found["warnings"] += len(warnings)
    result = audit(store)
    found["sessions that do not verify"] += len(result.broken)
    found["sessions"] += len(heads)
    found["acknowledged"] += len(acknowledged)
    found["segments without a session"] += result.orphans
    found["files half written"] += len(list((directory / "tmp").glob("*")))
    return found


def run(kills: int, seed: int = 0) -> Counter[str]:
    """All figures, over so many kills, in a directory that goes on from kill to kill (a fresh one every twenty)."""
    rng, total = random.Random(seed), Counter[str]()
    directory, acknowledged = Path(tempfile.mkdtemp()), {}
    for i in range(kills):
        if i % 20 == 0:
            shutil.rmtree(directory)
            directory, acknowledged = Path(tempfile.mkdtemp()), {}
        acknowledged |= one_kill(directory, seed * 1000 + i, rng.uniform(0, 0.4))
        total += look(directory, acknowledged)
    shutil.rmtree(directory)
    return total


if __name__ == "__main__":
    begin, count = time.time(), int(sys.argv[1]) if sys.argv[1:] else 200
    figures = run(count)
    for what in (
        "sessions that do not restore", "sessions that do not verify", "acknowledged saves that are lost", "warnings",
    ):  # fmt: skip
        print(f"{what:40} {figures[what]}")
    for what in ("sessions", "acknowledged", "segments without a session", "files half written"):
        print(f"{what + ' (looked at, in sum)':40} {figures[what]}")
    print(f"{count} kills in {time.time() - begin:.0f} s")
