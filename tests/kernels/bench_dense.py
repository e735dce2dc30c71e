"""How fast what is beside experts and attention is for many tokens, at DeepSeek V4 Flash's sizes; run it on the GPU.

    python tests/kernels/bench_dense.py [PART ...]

Parts, all of them if none is named:
    dense      MXFP8 matrices times M rows: MLX's quantized_matmul against decoding and multiplying (`DECODE_ROWS`)
    float32    the router's and the compressors' products, whose factors must not be rounded
    streams    hyper-connections: kernels against plain operations
    index      scores of many queries and the best of them, at 12 k and 64 k tokens of context
    experts    what routing, planning and adding up cost beside the experts' products

Each prints a Markdown table. Calls rotate over several matrices and are queued before the clock is read.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.metadata import version

import mlx.core as mx
from bench_attention import packed_index
from bench_experts import timed

from ds4_mlx.engine.synthetic import config_of
from ds4_mlx.kernels import runs_kernels
from ds4_mlx.kernels.expert_plan import plan
from ds4_mlx.kernels.index_rows import best_entries
from ds4_mlx.kernels.index_tiles import INDEX_TILES
from ds4_mlx.kernels.index_twins import PER_PAGE
from ds4_mlx.kernels.route import scored_kernel
from ds4_mlx.kernels.stream_many import MANY_EXPERT_RETURN, MANY_RETURN, MANY_SUMS
from ds4_mlx.kernels.stream_rows import enter_kernel
from ds4_mlx.model import linear
from ds4_mlx.model.hyper_connections import HyperConnectionWeights, hc_post, hc_pre
from ds4_mlx.model.linear import Matrix, product_float32

COPIES = 4  # of a matrix, so that none stays in a cache
_CALLS = 8


def per_call(call: Callable[[int], list[mx.array]], calls: int = _CALLS) -> float:
    """Seconds of a call, by its number, when several are queued."""
    return timed(lambda: [y for i in range(calls) for y in call(i)], repeats=3)[0] / calls


def normal(*shape: int, dtype: mx.Dtype = mx.bfloat16) -> mx.array:
    """Activations."""
    return mx.random.normal(shape).astype(dtype)


def matrices(rows: int, width: int) -> list[Matrix]:
    """Random MXFP8 matrices."""
    made = []
    for _ in range(COPIES):
        matrix = Matrix((rows, width), "mxfp8")
        words = mx.random.randint(-(2**31), 2**31 - 1, matrix.weight.shape, mx.int32).view(mx.uint32)
        matrix.weight = words & 0xBFBFBFBF
        matrix.scales = mx.full(matrix.scales.shape, 121, dtype=mx.uint8)
        made.append(matrix)
    mx.eval([matrix.arrays for matrix in made])
    return made


def quantised(x: mx.array, matrix: Matrix, groups: int) -> mx.array:
    """The product without decoding first."""
    weight, scales = (mx.unflatten(a, 0, (groups, -1)) if groups > 1 else a for a in matrix.arrays)
    return mx.quantized_matmul(x, weight, scales, **matrix.mlx_mode())


def dense_table(rows: list[int]) -> None:
    """The dense matrices of a layer, by the number of rows."""
    shapes = {"wq_b": (32768, 1024, 1), "wo_a": (8192, 4096, 8), "wo_b": (4096, 8192, 1), "w1": (2048, 4096, 1)}
    print("\n| M | matrix | quantized_matmul us | TFLOP/s | decode + matmul us | TFLOP/s |\n|---|---|---|---|---|---|")
    for name, (out, width, groups) in shapes.items():
        made = matrices(out, width)
        for m in rows:
            x = normal(groups, m, width) if groups > 1 else normal(m, width)
            mx.eval(x)
            linear.DECODE_ROWS = 1
            ways = (
                lambda i, x=x, made=made, groups=groups: [quantised(x, made[i % COPIES], groups)],
                lambda i, x=x, made=made, groups=groups: [made[i % COPIES].product(x, groups=groups)],
            )
            flop = 2 * m * out * width
            cells = [f"{each * 1e6:.0f} | {flop / each / 1e12:.0f}" for each in map(per_call, ways)]
            print(f"| {m} | {name} {out} x {width} | {' | '.join(cells)} |", flush=True)
        x, matrix = normal(256, width), made[0]
        if groups == 1:
            exact = x.astype(mx.float32) @ matrix.decoded().T
            found = matrix.product(x).astype(mx.float32)
            print(f"| | {name}, error | {float(mx.linalg.norm(found - exact) / mx.linalg.norm(exact)):.1e} | | | |")


def float32_table(rows: list[int]) -> None:
    """Products in float32: times, and how far they are from exact ones."""
    print("\n| M | float32 products | us | TFLOP/s | error as it is | in parts |\n|---|---|---|---|---|---|")
    cases = {
        "router": (256, mx.bfloat16, mx.bfloat16),
        "compressor": (1024, mx.bfloat16, mx.bfloat16),
        "float32 activations": (1024, mx.float32, mx.bfloat16),
        "float32 both": (256, mx.float32, mx.float32),
    }
    for name, (out, x_dtype, dtype) in cases.items():
        weights = [normal(out, 4096, dtype=dtype) for _ in range(COPIES)]
        for m in rows:
            x = normal(m, 4096, dtype=x_dtype)
            mx.eval(x, weights)
            each = per_call(lambda i, x=x, weights=weights: [product_float32(x, weights[i % COPIES])])
            with mx.stream(mx.cpu):
                exact = x[:8].astype(mx.float32) @ weights[0].astype(mx.float32).T
                mx.eval(exact)
            plain = x.astype(mx.float32) @ weights[0].astype(mx.float32).T
            errors = [
                f"{float(mx.abs(found[:8] - exact).max() / mx.abs(exact).max()):.1e}"
                for found in (plain, product_float32(x, weights[0]))
            ]
            flop = 2 * m * out * 4096
            print(f"| {m} | {name} | {each * 1e6:.0f} | {flop / each / 1e12:.0f} | {' | '.join(errors)} |", flush=True)


def streams_table(rows: list[int]) -> None:
    """What is between two sublayers."""
    config = config_of("full")
    n, width = config.hc_mult, config.hidden_size
    weights = HyperConnectionWeights(
        mx.random.normal((24, n * width)) * 0.01, mx.random.normal((24,)), mx.random.normal((3,))
    )
    norm, eps, hc_eps = mx.ones(width).astype(mx.bfloat16), mx.array(1e-6), mx.array(1e-6)
    enter = enter_kernel(config.hc_sinkhorn_iters)
    print("\n| T | streams | us | GB/s |\n|---|---|---|---|")
    for t in rows:
        hs = [normal(t, n, width) for _ in range(COPIES)]
        y, products = normal(t, width), normal(6 * t, width)
        mx.eval(hs, y, products, weights)
        (sums,) = MANY_SUMS(hs[0], weights.fn)
        x, mix = enter(hs[0], sums, weights.base, weights.scale, norm, eps, hc_eps)
        mx.eval(sums, x, mix)
        streams = hs[0].nbytes

        def plain(i: int, hs: list[mx.array] = hs, y: mx.array = y) -> list[mx.array]:
            x, gates = hc_pre(hs[i % COPIES], weights, config)
            return [x, hc_post(y, hs[i % COPIES], gates)]

        calls: dict[str, tuple[Callable[[int], list[mx.array]], int]] = {
            "many_sums": (lambda i, hs=hs: MANY_SUMS(hs[i % COPIES], weights.fn), streams),
            "enter": (
                lambda i, hs=hs, sums=sums: enter(hs[i % COPIES], sums, *weights[1:], norm, eps, hc_eps),
                streams + y.nbytes,
            ),
            "many_return": (
                lambda i, hs=hs, y=y, mix=mix: MANY_RETURN(y, hs[i % COPIES], mix),
                2 * streams + y.nbytes,
            ),
            "many_expert_return": (
                lambda i, hs=hs, y=y, mix=mix, products=products: MANY_EXPERT_RETURN(products, y, hs[i % COPIES], mix),
                2 * streams + y.nbytes + products.nbytes,
            ),
            "plain: hc_pre, hc_post": (plain, 4 * streams + 2 * y.nbytes),
        }
        for name, (call, nbytes) in calls.items():
            each = per_call(call, COPIES)
            print(f"| {t} | {name} | {each * 1e6:.0f} | {nbytes / each / 1e9:.0f} |", flush=True)


def experts_table(rows: list[int]) -> None:
    """Routing and planning."""
    print("\n| T | beside the experts | us |\n|---|---|---|")
    bias, scaling = mx.zeros(256), mx.array(1.5)
    for t in rows:
        logits = [mx.random.normal((t, 256)) for _ in range(COPIES)]
        experts, _ = scored_kernel(6)(logits[0], bias, scaling)
        mx.eval(logits, experts)
        route = per_call(lambda i, logits=logits: scored_kernel(6)(logits[i % COPIES], bias, scaling))
        planned = per_call(lambda _, experts=experts: list(plan(experts, 256)))
        print(f"| {t} | route | {route * 1e6:.0f} |\n| {t} | plan | {planned * 1e6:.0f} |", flush=True)


def index_table(rows: list[int]) -> None:
    """The indexer, behind its matrices."""
    print("\n| T | context | index_tiles us | TFLOP/s | best_entries us |\n|---|---|---|---|---|")
    for t in rows:
        index, weights = normal(t, 64, 128), normal(t, 64)
        for context in (12_288, 65_536):
            pages = -(-context // 32_768) * 256
            parts = [packed_index(pages * PER_PAGE) for _ in range(COPIES)]
            table = mx.arange(pages, dtype=mx.uint32)[None]
            ends = mx.arange(context - t + 1, context + 1, dtype=mx.uint32)
            zeros = mx.zeros(t, dtype=mx.uint32)
            queries = mx.stack([zeros, zeros, zeros, ends], axis=1)
            mx.eval(index, weights, parts, table, queries)
            inputs = index, weights, queries, table
            (scores,) = INDEX_TILES(*inputs, *parts[0])
            mx.eval(scores)
            each = per_call(lambda i, inputs=inputs, parts=parts: INDEX_TILES(*inputs, *parts[i % COPIES]))
            best = per_call(lambda _, scores=scores, queries=queries: [best_entries(scores, queries, 512)])
            rate = 2 * t * 64 * 128 * (context // 4) / each / 1e12
            print(f"| {t} | {context} | {each * 1e6:.0f} | {rate:.0f} | {best * 1e6:.0f} |", flush=True)


PARTS: dict[str, Callable[[list[int]], None]] = {
    "dense": dense_table,
    "float32": float32_table,
    "streams": streams_table,
    "index": index_table,
    "experts": experts_table,
}
_ROWS = {"dense": [8, 32, 128, 512, 2048, 4096], "float32": [128, 2048]}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", choices=[*PARTS, []], help=f"one of {', '.join(PARTS)}")
    parser.add_argument("--rows", type=int, nargs="+", help="rows or tokens instead of the usual numbers")
    options = parser.parse_args()
    if not runs_kernels():
        parser.error("there is no GPU here")
    print(f"MLX {version('mlx')}, {mx.device_info().get('device_name', mx.default_device())}")
    for part in options.parts or PARTS:
        PARTS[part](options.rows or _ROWS.get(part, [32, 128, 2048]))


if __name__ == "__main__":
    main()
