"""How long the kernels of attention take at DeepSeek V4 Flash's sizes; run it on the GPU in question.

    python tests/kernels/bench_attention.py [--tokens 1 4 8] [--context 2048 65536 262144]
    python tests/kernels/bench_attention.py --tokens --queries 2048

One Markdown table per number of tokens, each token of a sequence of its own. Calls rotate over the rows of several
layers and many are queued before the clock is read. `host` is the part of a call's time after which everything was
queued: where it is nearly all of it, Python and MLX were the limit and not the GPU.

`--queries`: many tokens of one sequence, the last ones of a prompt of 2,048 and of 12,288, by tiles. What counts for
the rate are products of queries with the keys that they see, twice.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from importlib.metadata import version

import mlx.core as mx
import numpy as np
from bench_experts import timed

from ds4_mlx.kernels import runs_kernels
from ds4_mlx.kernels.attend_rows import attend_kernel, combine_kernel
from ds4_mlx.kernels.attend_tiles import attend_tiles_kernel
from ds4_mlx.kernels.attention_rows import attention_rows_kernel
from ds4_mlx.kernels.attention_samples import RELEASED, attention_rows_inputs
from ds4_mlx.kernels.index_rows import INDEX_SCORES, best_entries
from ds4_mlx.kernels.index_twins import PER_PAGE
from ds4_mlx.kernels.pool_rows import KEEP_ROWS, pool_kernel
from ds4_mlx.kernels.pool_samples import keep_inputs, pool_inputs

HEADS, WIDTH, NOPE, INDEX_WIDTH, TOPK, WINDOW, PAGE = 64, 512, 448, 128, 512, 128, 128
LAYERS, CALLS = 8, 128
Call = Callable[[int], list[mx.array]]  # by layer


def packed_kv(rows: int) -> list[mx.array]:
    """Random rows as the cache stores them."""
    codes = mx.random.randint(0, 127, (rows, NOPE)) + 128 * mx.random.randint(0, 2, (rows, NOPE))
    exponents = mx.random.randint(116, 120, (rows, NOPE // 64))
    return [codes.astype(mx.uint8), exponents.astype(mx.uint8), normal(rows, WIDTH - NOPE)]


def packed_index(rows: int) -> list[mx.array]:
    """Random index rows as the cache stores them."""
    codes = mx.random.randint(0, 256, (rows, INDEX_WIDTH // 2))
    return [codes.astype(mx.uint8), mx.random.randint(124, 127, (rows, INDEX_WIDTH // 32)).astype(mx.uint8)]


def normal(*shape: int) -> mx.array:
    """Activations."""
    return mx.random.normal(shape).astype(mx.bfloat16)


class Setting:
    """`tokens` sequences of `context` tokens, one token of each; rows of several layers."""

    def __init__(self, tokens: int, context: int) -> None:
        pages = -(-context // (256 * PAGE)) * 256
        self.tokens, rng = tokens, np.random.default_rng(0)
        self.pages = mx.array(rng.permutation(tokens * pages).reshape(tokens, pages).astype(np.uint32))
        rows = [(t, t * WINDOW, WINDOW, context) for t in range(tokens)]
        self.queries = mx.array(np.array(rows, dtype=np.uint32))
        self.windows = [packed_kv(tokens * WINDOW) for _ in range(LAYERS)]
        self.entries = {ratio: [packed_kv(tokens * pages * PAGE // ratio) for _ in range(LAYERS)] for ratio in (4, 128)}
        self.index = [packed_index(tokens * pages * PER_PAGE) for _ in range(LAYERS)]
        visible = max(1, context // 4)
        chosen = np.full((tokens, TOPK), 0xFFFFFFFF, dtype=np.uint32)
        for row in chosen:
            numbers = np.sort(rng.permutation(visible)[:TOPK])
            row[: len(numbers)] = numbers
        self.chosen = mx.array(chosen)
        self.q, self.index_q, self.weights = (
            normal(tokens, HEADS, WIDTH),
            normal(tokens, HEADS, INDEX_WIDTH),
            normal(tokens, HEADS),
        )
        self.scores = mx.random.normal((LAYERS, tokens, pages * PER_PAGE))
        self.sink = mx.zeros(HEADS)
        self.table = mx.zeros((tokens, (WIDTH - NOPE) // 2)), mx.ones((tokens, (WIDTH - NOPE) // 2))
        mx.eval(list(vars(self).values()))

    def attend(self, ratio: int, layer: int) -> list[mx.array]:
        """Both kernels."""
        window = self.windows[layer]
        entries = self.entries[ratio][layer] if ratio else window
        kernel = attend_kernel(ratio, choosing=ratio == 4)
        sums = kernel(self.q, self.queries, self.pages, self.chosen, *window, *entries)
        return combine_kernel(mx.bfloat16)(*sums, self.sink, *self.table)

    def calls(self) -> Iterator[tuple[str, Call]]:
        """What is timed. The first two do not depend on the context."""
        sizes = RELEASED._replace(tokens=self.tokens)
        rows = attention_rows_inputs(sizes, mx.bfloat16, old=self.tokens * WINDOW, indexed=True)
        pooled = pool_inputs(WIDTH, WIDTH - NOPE, 4, tokens=self.tokens, old=8 * self.tokens, entries=self.tokens)
        kept = keep_inputs(WIDTH, 128, tokens=self.tokens, old=64 * self.tokens)
        yield "attention_rows", lambda _: attention_rows_kernel(indexed=True)(*rows)
        yield "pool (ratio 4)", lambda _: pool_kernel("kv", mx.bfloat16)(*pooled)
        yield "keep_rows (ratio 128)", lambda _: KEEP_ROWS(*kept)
        for ratio in (0, 4, 128):
            yield f"attend + combine (ratio {ratio})", lambda layer, ratio=ratio: self.attend(ratio, layer)
        yield (
            "index_scores",
            lambda layer: INDEX_SCORES(self.index_q, self.weights, self.queries, self.pages, *self.index[layer]),
        )
        yield "best_entries", lambda layer: [best_entries(self.scores[layer], self.queries, TOPK)]


class Prefill:
    """The last `count` tokens of a prompt of `context`, all of one sequence."""

    def __init__(self, count: int, context: int) -> None:
        rng, pages = np.random.default_rng(0), -(-context // PAGE)
        self.count, ends = count, np.arange(context - count, context) + 1
        held = np.minimum(ends, WINDOW)
        first = np.arange(count) + WINDOW - held
        self.seen = {0: held.sum(), 128: (held + ends // 128).sum(), 4: (held + np.minimum(ends // 4, TOPK)).sum()}
        self.pages = mx.array(rng.permutation(pages)[None].astype(np.uint32))
        self.queries = mx.array(np.stack([np.zeros_like(ends), first, held, ends], axis=1).astype(np.uint32))
        self.windows = [packed_kv(count + WINDOW) for _ in range(LAYERS)]
        self.entries = {ratio: [packed_kv(pages * PAGE // ratio) for _ in range(LAYERS)] for ratio in (4, 128)}
        chosen = np.full((count, TOPK), 0xFFFFFFFF, dtype=np.uint32)
        for row, end in zip(chosen, ends, strict=True):
            numbers = np.sort(rng.permutation(end // 4)[:TOPK])
            row[: len(numbers)] = numbers
        self.chosen, self.q, self.sink = mx.array(chosen), normal(count, HEADS, WIDTH), mx.zeros(HEADS)
        self.table = mx.ones((count, (WIDTH - NOPE) // 2)), mx.zeros((count, (WIDTH - NOPE) // 2))
        mx.eval(list(vars(self).values()))

    def attend(self, ratio: int, layer: int) -> list[mx.array]:
        """The kernel of a layer with that ratio."""
        window = self.windows[layer]
        entries = self.entries[ratio][layer] if ratio else window
        kernel = attend_tiles_kernel(ratio, choosing=ratio == 4)
        return kernel(self.q, self.queries, self.pages, self.chosen, self.sink, *self.table, *window, *entries)


def prefill_table(count: int) -> None:
    """Prints the table of many queries."""
    print(f"| {count:,} queries | context | keys a query | ms (host ms) | TFLOP/s |\n|---|---:|---:|---:|---:|")
    for context in (2_048, 12_288):
        if context < count:
            continue
        setting = Prefill(count, context)
        for ratio in (0, 4, 128):
            each, host = per_call(lambda layer, ratio=ratio, s=setting: s.attend(ratio, layer), calls=16)
            keys = int(setting.seen[ratio])
            rate = 4 * HEADS * WIDTH * keys / each / 1e6
            name = f"attend_tiles (ratio {ratio})"
            print(f"| {name} | {context:,} | {keys / count:.0f} | {each / 1e3:.2f} ({host / 1e3:.2f}) | {rate:.0f} |")
    print()


def per_call(call: Call, calls: int = CALLS) -> tuple[float, float]:
    """Microseconds of a call, best of several rounds, and how many of them until all were queued."""

    def outputs() -> list[mx.array]:
        return [output for i in range(calls) for output in call(i % LAYERS)]

    whole, queued = timed(outputs)
    return whole / calls * 1e6, queued / calls * 1e6


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="*", default=[1, 4, 8])
    parser.add_argument("--queries", type=int, nargs="*", default=[2_048])
    parser.add_argument("--context", type=int, nargs="+", default=[2_048, 12_288, 65_536, 262_144])
    options = parser.parse_args()
    if not runs_kernels():
        parser.error("there is no GPU here: what would be timed are the kernels' definitions in plain operations")
    print(f"{mx.device_info().get('device_name', 'GPU')}, MLX {version('mlx')}; us a call (host us)\n")
    for tokens in options.tokens:
        table: dict[str, list[str]] = {}
        for context in options.context:
            for name, call in Setting(tokens, context).calls():
                each, host = per_call(call)
                table.setdefault(name, []).append(f"{each:.1f} ({host:.1f})")
        print(f"| {tokens} token(s) | {' | '.join(f'{c:,}' for c in options.context)} |")
        print("|---|" + "---:|" * len(options.context))
        for name, cells in table.items():
            print(f"| {name} | {' | '.join(cells)} |")
        print()
    for count in options.queries:
        prefill_table(count)


if __name__ == "__main__":
    main()
