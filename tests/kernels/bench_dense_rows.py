"""How fast a decoded token's kernels are, beside routed experts and attention, at DeepSeek V4 Flash's sizes.

    python tests/kernels/bench_dense_rows.py [--tokens 1 2 4 8] [--only NAME ...]

Run it on the GPU in question: a Markdown table for each number of tokens. Weights of several layers, 100 MB of them at
least, are taken in turns, so that caches cannot flatter, and many calls are queued before the clock is read. `host` is
the part of a call's time after which everything was queued: where it is nearly all of it, Python and MLX set the pace.
`GPU us` is the kernel's own time, one call after the other, as CUPTI has it; it needs PyTorch for its profiler. GB/s
are of that where it is known. They count weights and what streams, rows and partial sums have.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import NamedTuple

import mlx.core as mx
from bench_experts import copy_rate, timed

from ds4_mlx.kernels import Kernel, runs_kernels
from ds4_mlx.kernels.attend_rows import combine_kernel
from ds4_mlx.kernels.dense_rows import dense_kernel
from ds4_mlx.kernels.dense_twins import Job
from ds4_mlx.kernels.expert_return import expert_return_kernel
from ds4_mlx.kernels.index_rows import INDEX_SCORES
from ds4_mlx.kernels.kernel import scalar
from ds4_mlx.kernels.pool_rows import KEEP_ROWS
from ds4_mlx.kernels.runs import lookup
from ds4_mlx.kernels.stream_rows import SITE_SUMS, dense_return_kernel, enter_kernel

D, STREAMS, HEADS, WIDTH, VOCAB = 4096, 4, 64, 512, 129_280
CALLS, ROTATED = 96, 120_000_000  # bytes of weights that are taken in turns
CODED, EXACT, ROUNDED, SWIGLU = Job("mxfp8"), Job("BF16", "float32"), Job("BF16"), Job("mxfp8", "swiglu")


class Timed(NamedTuple):
    """A kernel with the inputs that stay, those of each layer, and where in the call these begin."""

    name: str
    kernel: Kernel
    before: list[mx.array]
    layers: list[list[mx.array]]
    nbytes: int


def normal(*shape: int, dtype: mx.Dtype = mx.bfloat16) -> mx.array:
    """Activations."""
    return mx.random.normal(shape).astype(dtype)


def matrix(job: Job, rows: int, width: int) -> list[mx.array]:
    """The arrays of the job's matrices [rows, width]: any codes but NaN, scales for numbers of about unit size."""
    arrays = []
    for _ in range(job.matrices):
        if job.storage == "BF16":
            arrays.append(normal(rows, width) * width**-0.5)
        else:
            words = mx.random.randint(-(2**31), 2**31 - 1, (rows, width // 4), mx.int32).view(mx.uint32)
            scales = mx.random.randint(114, 120, (rows, width // 32)).astype(mx.uint8)
            arrays += [words & 0xBFBFBFBF, scales]
    return arrays


def size(arrays: list[mx.array]) -> int:
    """Bytes of arrays."""
    return sum(array.nbytes for array in arrays)


def rotating(name: str, kernel: Kernel, before: list[mx.array], make: Callable[[], list[mx.array]]) -> Timed:
    """With as many layers of what `make` gives as `ROTATED` bytes need, at most 16."""
    layers = [make()]
    layers += [make() for _ in range(min(15, ROTATED // max(1, size(layers[0]))))]
    mx.eval(before, layers)
    return Timed(name, kernel, before, layers, size(before) + size(layers[0]))


def dense(
    name: str, tokens: int, jobs: list[tuple[Job, int]], width: int = D, *, groups: int = 1, normed: bool = False
) -> Timed:
    """A launch of dense matrices: jobs with their rows."""
    before = [normal(tokens, groups * width)]
    before += [normal(width), scalar(1e-6)] if normed else []
    before += [scalar(10.0)] if any(job == SWIGLU for job, _ in jobs) else []
    kernel = dense_kernel(tuple(job for job, _ in jobs), groups=groups, normed=normed)
    return rotating(name, kernel, before, lambda: [a for job, rows in jobs for a in matrix(job, rows, width)])


def returned(tokens: int) -> list[mx.array]:
    """Streams, how the output returns, and the next site's fn."""
    n = STREAMS
    return [normal(tokens, n, D), normal(tokens, n + n * n, dtype=mx.float32), normal(24, n * D, dtype=mx.float32)]


def wo_b(tokens: int) -> Timed:
    """The end of an attention sublayer."""
    before = [normal(tokens, 8192), *returned(tokens)]
    return rotating("wo_b, return", dense_return_kernel("mxfp8"), before, lambda: matrix(CODED, D, 8192))


def experts(tokens: int) -> Timed:
    """The end of a feed-forward sublayer, six of 16 experts for every token."""
    from bench_experts import random_matrices  # its global sizes are those of all experts

    routes = mx.array([[(6 * t + s) % 16 for s in range(6)] for t in range(tokens)], dtype=mx.uint32)
    before = [normal(6 * tokens, 2048), routes, normal(tokens, 2048), *returned(tokens)]
    each = min(6 * tokens, 16)

    def make() -> list[mx.array]:
        return [*matrix(CODED, D, 2048), *random_matrices("q2_k", (16, D, 2048)), *lookup("q2_k")]

    made = rotating("experts' down, shared w2, return", expert_return_kernel("q2_k", "mxfp8"), before, make)
    routed = size(made.layers[0][2:])
    return made._replace(nbytes=made.nbytes - routed + routed * each // 16)


def enter(tokens: int) -> Timed:
    """The begin of a sublayer."""
    h, fn = normal(tokens, STREAMS, D), normal(24, STREAMS * D, dtype=mx.float32)
    with mx.stream(mx.cpu):
        sums = SITE_SUMS.twin(h, fn * (STREAMS * D) ** -0.5)
    rest = [normal(24, dtype=mx.float32), normal(3, dtype=mx.float32), normal(D), scalar(1e-6), scalar(1e-6)]
    return rotating("enter", enter_kernel(20), [h, *sums, *rest], list)


def combine(tokens: int) -> Timed:
    """The end of attention."""
    partial_sums = [normal(tokens, 32, HEADS, WIDTH, dtype=mx.float32), mx.ones((tokens, 32, HEADS, 2))]
    rest = [mx.zeros(HEADS), mx.ones((tokens, 32)), mx.zeros((tokens, 32))]
    return rotating("combine", combine_kernel(mx.bfloat16), [*partial_sums, *rest], list)


def keep(name: str, tokens: int, channels: int, held: int) -> Timed:
    """The rows of an open block with one more for each token."""
    sources = [s for t in range(tokens) for s in (*range(t * held, (t + 1) * held), -1 - t)]
    rows = [normal(tokens * held, channels, dtype=mx.float32) for _ in range(2)]
    fresh = [normal(tokens, channels, dtype=mx.float32) for _ in range(2)]
    ape, phases = normal(held + 1, channels, dtype=mx.float32), mx.full((tokens,), held, dtype=mx.int32)
    before = [*fresh, ape, phases, *rows, mx.array(sources, dtype=mx.int32)]
    return rotating(name, KEEP_ROWS, before, list)


def index_scores(tokens: int, context: int) -> Timed:
    """The indexer's scores, every token of a sequence of its own."""
    pages = context // 128
    queries = mx.array([[t, 0, 128, context] for t in range(tokens)], dtype=mx.uint32)
    table = mx.arange(tokens * pages).reshape(tokens, pages).astype(mx.uint32)
    codes = mx.random.randint(0, 256, (tokens * pages * 32, 64)).astype(mx.uint8)
    exponents = mx.random.randint(124, 127, (tokens * pages * 32, 4)).astype(mx.uint8)
    q = (mx.random.randint(-6, 7, (tokens, HEADS, 128)) / 2).astype(mx.bfloat16)
    before = [q, normal(tokens, HEADS), queries, table, codes, exponents]
    return rotating(f"index_scores, {context:,}", INDEX_SCORES, before, list)


KERNELS: dict[str, Callable[[int], Timed]] = {
    "inputs": lambda t: dense("wq_a, wkv, compressors", t, _INPUTS),
    "inputs7": lambda t: dense("the same, index weights", t, [*_INPUTS, (ROUNDED, 64)]),
    "inputs128": lambda t: dense("wq_a, wkv, compressor (ratio 128)", t, [*_INPUTS[:2], (EXACT, 512), (EXACT, 512)]),
    "normed": lambda t: dense("norm, wq_b", t, [(CODED, 32768)], 1024, normed=True),
    "normed2": lambda t: dense("norm, wq_b, indexer's wq_b", t, [(CODED, 32768), (CODED, 8192)], 1024, normed=True),
    "wo_a": lambda t: dense("wo_a, 8 groups", t, [(CODED, 8192)], groups=8),
    "wo_b": wo_b,
    "router": lambda t: dense("router, shared w1 and w3", t, [(EXACT, 256), (SWIGLU, 2048)]),
    "experts": experts,
    "head": lambda t: dense("output matrix", t, [(EXACT, VOCAB)]),
    "enter": enter,
    "combine": combine,
    "keep4": lambda t: keep("keep_rows, 8 x 1,024", t, 1024, 7),
    "keep128": lambda t: keep("keep_rows, 64 x 512", t, 512, 63),
    "index": lambda t: index_scores(t, 2048),
    "index64k": lambda t: index_scores(t, 65_536),
}
_INPUTS = [(CODED, 1024), (CODED, 512), (EXACT, 1024), (EXACT, 1024), (EXACT, 256), (EXACT, 256)]


def calls(made: Timed, count: int) -> Iterator[list[mx.array]]:
    """The outputs of as many calls."""
    for i in range(count):
        yield made.kernel(*made.before, *made.layers[i % len(made.layers)])


def gpu_seconds(made: Timed, count: int) -> float:
    """What a call takes on the GPU where nothing else runs, by CUPTI through PyTorch's profiler; 0 without that."""
    try:
        from torch.profiler import ProfilerActivity, profile
    except ImportError:
        return 0.0
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for outputs in calls(made, count):
            mx.eval(outputs)
        mx.synchronize()
    spans = [e.time_range for e in profiled.events() if f"custom_kernel_{made.kernel.text.name}(" in e.name]
    times = sorted(span.end - span.start for span in spans)
    return sum(times[: max(1, len(times) * 3 // 4)]) / max(1, len(times) * 3 // 4) / 1e6 if times else 0.0


def line(made: Timed, rate: float) -> str:
    """A row of the table."""
    count = CALLS if made.nbytes < 500_000_000 else 8
    both = timed(lambda: [output for outputs in calls(made, count) for output in outputs], repeats=3)
    each, host = (seconds / count for seconds in both)
    alone = gpu_seconds(made, count // 4)
    speed = made.nbytes / (alone or each)
    return (
        f"| {made.name} | {made.nbytes / 1e6:.1f} | {alone * 1e6:.1f} | {each * 1e6:.1f} | {host * 1e6:.1f} "
        f"| {speed / 1e9:,.0f} | {speed / rate:.0%} |"
    )


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--only", nargs="+", choices=KERNELS, default=list(KERNELS), metavar="NAME")
    options = parser.parse_args()
    if not runs_kernels():
        parser.error("there is no GPU here: what would be timed are the kernels' definitions in plain operations")
    rate = copy_rate()
    print(f"{mx.device_info().get('device_name', 'GPU')}, MLX {version('mlx')}; copying {rate / 1e9:,.0f} GB/s")
    for tokens in options.tokens:
        print(f"\n| {tokens} token(s) | MB | GPU us | us | host us | GB/s | of copying |")
        print("|---|---:|---:|---:|---:|---:|---:|")
        for name in options.only:
            print(line(KERNELS[name](tokens), rate), flush=True)


if __name__ == "__main__":
    main()
