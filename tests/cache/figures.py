"""What the cache takes and spares, in numbers: `PYTHONPATH=tests python -m cache.figures [sizes] [sessions]`.

Without a word it does both.

sizes: arrays of DeepSeek V4 Flash's shapes are allocated for one layer of each kind and multiplied, no weights.
sessions: ds4-tiny feeds 20,000 tokens whose last 37 change, and two prompts with 16,384 in common. Minutes on a CPU.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import mlx.core as mx
import numpy as np

import ds4_mlx
from ds4_mlx.cache import PAGE, PagePool, PageTable, bytes_per_token, fixed_bytes

from released_shapes import released

GIB = 2**30


def allocated(ratio: int, tokens: int) -> int:
    """Bytes that MLX holds for one layer's pages of a session of that length, room for growth included."""
    config = replace(released(), num_hidden_layers=1, compress_ratios=(ratio,))
    mx.synchronize()
    mx.clear_cache()
    before = mx.get_active_memory()
    pool = PagePool.for_model(config)
    table = PageTable(pool)
    for _ in range(0, tokens, 64 * PAGE):  # as a session grows: 8,192 tokens at a time
        table.grow(min(64, -(-tokens // PAGE) - len(table.pages)))
    mx.synchronize()
    held = mx.get_active_memory() - before
    assert len(table.pages) == -(-tokens // PAGE)
    return held


def sizes() -> None:
    """Bytes of the released model's sessions."""
    config = released()
    layers = {ratio: config.compress_ratios[:43].count(ratio) for ratio in (4, 128)}
    print(f"bytes per token: {bytes_per_token(config):,.2f}; windows and open blocks: {fixed_bytes(config):,}")
    print("  tokens   pages of a ratio-4 layer   of a ratio-128 layer   all layers and windows")
    for tokens in (1 << 13, 1 << 16, 1 << 18, 1 << 20):
        held = {ratio: allocated(ratio, tokens) for ratio in layers}
        total = sum(layers[ratio] * held[ratio] for ratio in layers) + fixed_bytes(config)
        print(f"{tokens:>8,}   {held[4]:>24,}   {held[128]:>20,}   {total / GIB:>18.3f} GiB")


def sessions() -> None:
    """What ds4-tiny feeds again and holds once."""
    model = ds4_mlx.load()
    text = " ".join(f"Line {i}: {i * 37 % 911} and {i * 91 % 773} make something." for i in range(3000))
    ids = model.tokenizer.encode(text)[:20_100]
    assert len(ids) == 20_100
    cache, prompt, other = model.cache, ids[:20_000], ids[20_000:20_037]

    session = model.session()
    begin = time.perf_counter()
    session.feed(prompt[:19_900], last_only=True)
    session.keep()
    for token in prompt[19_900:]:  # the answer, of which the client changes the end
        session.feed([token], last_only=True)
    session.keep()
    print(f"\n20,000 tokens fed in {time.perf_counter() - begin:.0f} s; {cache.figures()}")
    changed = [*prompt[:-37], *other]
    reason = cache.match(changed[:-1]).reason
    begin = time.perf_counter()
    held = session.resume(changed)
    session.feed(changed[held:], last_only=True)
    print(f"last 37 changed: {len(changed) - held} tokens fed again in {time.perf_counter() - begin:.1f} s ({reason})")

    first, second = ([*prompt[:16_384], *np.roll(ids[-60:], shift).tolist()] for shift in (1, 2))
    a, b = model.session(), model.session()
    for one, tokens in ((a, first), (b, second)):
        held = one.resume(tokens)
        one.feed(tokens[held:], last_only=True)
        print(f"prompt of {len(tokens):,}: {held:,} held already")
    del session
    figures = cache.figures()
    alone = sum(len(one.state.table.pages) for one in (a, b)) * figures.page_bytes
    print(
        f"two sessions with 16,384 tokens in common: pages of {alone:,} bytes each for itself, "
        f"of which {figures.shared_bytes:,} are shared"
    )


if __name__ == "__main__":
    chosen = sys.argv[1:] or ["sizes", "sessions"]
    for name, run in (("sizes", sizes), ("sessions", sessions)):
        if name in chosen:
            run()
