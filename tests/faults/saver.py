"""Saves growing sessions in a loop until it is killed: `python saver.py DIR SEED`. Prints a line after each save."""

from __future__ import annotations

import sys
import zlib
from dataclasses import replace

import numpy as np
from faults.samples import MARK, Sample

from ds4_mlx.cache.store import SessionStore


def main() -> None:
    store = SessionStore(sys.argv[1], warn=lambda text: print("WARNING", text, flush=True))
    rng = np.random.default_rng(int(sys.argv[2]))
    common = Sample()
    common.grow(np.random.default_rng(0), 640)
    while True:
        sample, head = replace(common), None
        for _ in range(6):
            sample.grow(rng, int(rng.choice([128, rng.integers(1, 300)])))  # page boundaries too
            head = store.save(
                sample.ids, sample.export, MARK, earlier=head, messages=[{"role": "user", "content": "hi"}]
            )
            print(head.id, head.revision, len(sample.ids), zlib.crc32(sample.ids.tobytes()), flush=True)


if __name__ == "__main__":
    main()
