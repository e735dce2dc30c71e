"""Damages files of a store at random and reads everything: nothing wrong may be accepted, nothing may crash.

PYTHONPATH=tests python -m faults.damage [CASES] prints the figures.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from faults.samples import MARK, Sample, is_right

from ds4_mlx.cache.store import SessionStore

KINDS = ("bit flip", "truncation", "swap", "zero length", "foreign")


def build(directory: Path) -> None:
    """Three sessions, two of which begin alike."""
    store, rng = SessionStore(directory), np.random.default_rng(7)
    for i in range(3):
        sample = Sample()
        if i:
            sample.grow(np.random.default_rng(1), 300)
        for name in (f"session {i}", None):
            sample.grow(rng, 400)
            store.save(sample.ids, sample.export, MARK, name=name, messages=[{"role": "user", "content": f"é {i}"}])
    store.heads()


def damage(path: Path, kind: str, files: list[Path], rng: random.Random) -> list[Path]:
    """Damages a file; returns those that are no longer what they were."""
    data = path.read_bytes()
    if kind == "bit flip":
        place = rng.randrange(len(data))
        if rng.random() < 0.5:  # headers are small, and the delicate part
            place = rng.randrange(min(len(data), 2000))
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :])
    elif kind == "truncation":
        path.write_bytes(data[: rng.randrange(len(data))])
    elif kind == "zero length":
        path.write_bytes(b"")
    elif kind == "foreign":
        path.write_bytes(rng.choice([rng.randbytes(len(data)), b"{}", data + b"x", b"\xff" * 8 + data]))
    else:
        other = rng.choice([f for f in files if f != path and f.suffix == path.suffix])
        path.write_bytes(other.read_bytes())
        other.write_bytes(data)
        return [path, other]
    return [path]


def look(directory: Path, damaged: list[Path]) -> Counter[str]:
    """Reads all of a store that has damaged files."""
    warnings: list[str] = []
    found = Counter[str]()
    names = {path.stem for path in damaged}
    store = SessionStore(directory, warn=warnings.append)
    heads = {head.id: head for head in store.heads()}
    found["accepted"] += len(names & heads.keys())
    for head in heads.values():
        segments = list(store.read(head))
        kept = [part.name in names for part in head.chain]
        sound = kept.index(True) if True in kept else len(kept)
        found["accepted"] += len(segments) > sound or not is_right(segments)
        found["sound segments before the damage not used"] += sound - min(sound, len(segments))
        if store.find(head.id).messages is None:
            found["accepted"] += 1
    used = {part.name for head in heads.values() for part in head.chain}
    loud = sum(path.suffix != ".json" or path.parent.name == "sessions" for path in damaged)
    if names & used or any(path.parent.name == "sessions" for path in damaged):
        found["silent"] += not warnings
        found["told more than once a file"] += len(warnings) > loud
        found["moved to quarantine"] += len(list((directory / "quarantine").glob("*")))
    else:
        found["not in any chain, or the index"] += 1
    return found


def run(cases: int, seed: int = 0) -> Counter[str]:
    """All figures."""
    rng, total = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        sound, directory = Path(folder) / "sound", Path(folder) / "store"
        build(sound)
        for i in range(cases):
            shutil.rmtree(directory, ignore_errors=True)
            shutil.copytree(sound, directory)
            files = [path for path in sorted(directory.rglob("*")) if path.suffix in (".safetensors", ".json")]
            kind = KINDS[i % len(KINDS)]
            total += look(directory, damage(rng.choice(files), kind, files, rng))
            total[kind] += 1
    return total


if __name__ == "__main__":
    begin, count = time.time(), int(sys.argv[1]) if sys.argv[1:] else 500
    figures = run(count)
    for what in ("accepted", "silent", "sound segments before the damage not used", "told more than once a file"):
        print(f"{what:45} {figures[what]}")
    for what in ("moved to quarantine", "not in any chain, or the index", *KINDS):
        print(f"{what:45} {figures[what]}")
    print(f"{count} cases in {time.time() - begin:.0f} s, no crash")
