"""Saving and restoring a session with the shapes of DeepSeek V4 Flash, beside plain writes and reads of the same files.

PYTHONPATH=tests python -m cache.bench_store [TOKENS] [FOLDER] prints a table. Random rows: nothing compresses them.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import numpy as np

from ds4_mlx.cache import PagedCache, PagePool, boundary_bytes, bytes_per_token, import_segments
from ds4_mlx.cache.exchange import format_info
from ds4_mlx.cache.files import sync_file
from ds4_mlx.cache.paged import KEPT_EVERY
from ds4_mlx.cache.segment import Segment
from ds4_mlx.cache.segment_file import ModelMark
from ds4_mlx.cache.store import SessionStore

from released_shapes import released

VOCAB = 129280
MARK = ModelMark("synthetic", "exact", "bfloat16 simulated")


def pages(pool: PagePool, tokens: int) -> dict[str, mx.array]:
    """Rows of so many tokens."""
    return {
        f"pages.{ratio}.{kind}.{part.name}": _rows(pool.ratios.count(ratio), tokens // ratio, part.width, part.dtype)
        for ratio, kind, form in ((4, "entries", pool.kv), (4, "index", pool.index), (128, "entries", pool.kv))
        if tokens // ratio
        for part in form.parts
    }


def state(pool: PagePool, position: int) -> dict[str, mx.array]:
    """Windows and open blocks at a position."""
    layers, rows = len(pool.ratios), pool.config.sliding_window - 1
    arrays = {f"state.window.{part.name}": _rows(layers, rows, part.width, part.dtype) for part in pool.kv.parts}
    for ratio, name, width in ((4, "compressor", 1024), (4, "index_compressor", 256), (128, "compressor", 512)):
        layers, open_ = pool.ratios.count(ratio), position % ratio
        for kind in ("values", "gates"):
            if ratio == 4:
                arrays[f"state.4.{name}.before.{kind}"] = _rows(layers, 4, width // 2, mx.float32)
            if open_:
                arrays[f"state.{ratio}.{name}.{kind}"] = _rows(layers, open_, width, mx.float32)
    return arrays


def segments(pool: PagePool, ids: np.ndarray, after: int) -> list[Segment]:
    """As a session of these tokens exports them: states every 2,048 tokens and at the last page boundary."""
    info, full = format_info(pool), len(ids) // 128 * 128
    cuts = [after, *range(after // KEPT_EVERY * KEPT_EVERY + KEPT_EVERY, full, KEPT_EVERY), full]
    found = [
        Segment(a, ids[a:b], {**pages(pool, b - a), **state(pool, b)}, "pages", info)
        for a, b in pairwise(cuts)
        if b > a
    ]
    rest = {**pages(pool, len(ids) - full), **state(pool, len(ids)), "logits": mx.random.normal((VOCAB,))}
    found.append(Segment(full, ids[full:], rest, "tail", info))
    for segment in found:
        mx.eval(segment.arrays)
    return found


def growth(directory: Path, before: int, more: int) -> tuple[int, float, int]:
    """Bytes written when a session of `before` tokens grows; what `more` tokens and one boundary state take; logits."""
    pool, store = PagePool.for_model(released()), SessionStore(directory)
    ids = np.random.default_rng(0).integers(0, VOCAB, before + more).astype(np.int32)
    head = store.save(ids[:before], lambda after: segments(pool, ids[:before], after), MARK)
    old = {path.name for path in directory.rglob("*") if path.is_file()} - {"index.json", f"{head.id}.json"}
    store.save(ids, lambda after: segments(pool, ids, after), MARK, earlier=head)
    fresh = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file() and path.name not in old)
    return fresh, more * bytes_per_token(pool.config) + boundary_bytes(pool.config), 4 * VOCAB


def _rows(layers: int, count: int, width: int, dtype: mx.Dtype) -> mx.array:
    raw = np.random.default_rng(count).integers(0, 256, (layers, count, width * dtype.size), dtype=np.uint8)
    return mx.array(raw).view(dtype) if dtype != mx.float32 else mx.random.normal((layers, count, width))


def _timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _forget(paths: list[Path]) -> None:
    """Takes files out of the page cache, where the system lets a program do that."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def _plain_read(paths: list[Path]) -> None:
    for path in paths:
        path.read_bytes()


def _plain_write(contents: list[bytes], folder: Path) -> None:
    for i, data in enumerate(contents):
        path = folder / str(i)
        path.write_bytes(data)
        sync_file(path)


def main(tokens: int, folder: str | None) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        base = Path(name)
        pool = PagePool.for_model(released())
        ids = np.random.default_rng(0).integers(0, VOCAB, tokens).astype(np.int32)
        made = segments(pool, ids, 0)
        saves, plain_writes = [], []
        for i in range(3):
            store = SessionStore(base / f"kv{i}")
            saves.append(_timed(lambda store=store: store.save(ids, lambda _: made, MARK)))
            paths = sorted((base / f"kv{i}" / "segments").iterdir())
            contents = [path.read_bytes() for path in paths]
            (base / f"plain{i}").mkdir()
            plain_writes.append(_timed(lambda i=i, c=contents: _plain_write(c, base / f"plain{i}")))
        nbytes = sum(map(len, contents))
        del contents
        head = store.heads()[0]

        def read() -> None:
            for part in store.read(head):
                mx.eval(part.arrays)

        def restore() -> None:
            cache = PagedCache(PagePool.for_model(released()))
            cache.pool.reserve(-(-tokens // 128))
            assert import_segments(cache, store.read(head)).state.position == tokens

        rows = [("plain write + fsync", min(plain_writes), plain_writes), ("save", min(saves), saves)]
        for warm in (False, True):
            plain = ("plain read", lambda: _plain_read(paths))
            for label, work in (plain, ("read and compared", read), ("restored into pages", restore)):
                times = []
                for _ in range(3):
                    if not warm:
                        _forget(paths)
                    times.append(_timed(work))
                rows.append((f"{label}, {'page cache' if warm else 'disk'}", min(times), times))
        print(f"{tokens:,} tokens, {len(paths)} files, {nbytes / 1e6:.1f} MB")
        for label, best, times in rows:
            spread = " ".join(f"{t:.2f}" for t in times)
            print(f"{label:32} {best:6.2f} s  {nbytes / 1e6 / best:7.0f} MB/s   ({spread})")
        for before, more in ((16384, 1024), (16384, 1000)):
            with tempfile.TemporaryDirectory(dir=folder) as other:
                fresh, allowed, logits = growth(Path(other), before, more)
                print(f"{before:,} + {more:,} tokens: {fresh:,} bytes written, logits {logits:,} of them; "
                      f"{more:,} x bytes/token + a boundary state are {allowed:,.0f}: "
                      f"{fresh / allowed:.3f}, without logits {(fresh - logits) / allowed:.3f}")  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 65536, sys.argv[2] if sys.argv[2:] else None)
