"""How fast the kernels of routed experts are at DeepSeek V4 Flash's sizes; run it on the GPU in question.

    python tests/kernels/bench_experts.py [PART ...]

Parts, all of them if none is named:
    rows       1 token x 6 experts, in GB of weights per second and as a share of what copying reaches
    tiles      2,048 tokens x 6 experts, in TFLOP/s
    encoders   quantising a matrix, in weights per second
    mlx-rows   as rows, through MLX's own `gather_qmm`
    mlx-tiles  as tiles, through `gather_qmm`

Each prints a Markdown table. All 256 experts are in memory and calls rotate over them, so that caches cannot flatter;
many calls are queued before the clock is read. `host` is the part of a call's time after which everything was queued:
where it is nearly all of it, Python and MLX were the limit and not the GPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ds4_mlx.kernels import Kernel
from ds4_mlx.kernels.expert_plan import Plan, plan
from ds4_mlx.kernels.expert_rows import down_kernel, gate_up_kernel
from ds4_mlx.kernels.expert_tiles import tile_down_kernel, tile_gate_up_kernel
from ds4_mlx.kernels.runs import lookup
from ds4_mlx.quant import get_format
from ds4_mlx.quant.encoders import encode

EXPERTS, SLOTS, WIDTH, INNER = 256, 6, 4096, 2048
LIMIT = mx.array(10.0)
_SHAPES = {"gate_up": (EXPERTS, INNER, WIDTH), "down": (EXPERTS, WIDTH, INNER)}
_MATRICES = {"gate_up": 2, "down": 1}


def random_matrices(name: str, shape: tuple[int, ...]) -> list[mx.array]:
    """Random codes, scales that give values of about unit size."""
    arrays = []
    for part_name, (part_shape, dtype) in get_format(name).array_shapes(shape).items():
        if dtype == "F16":
            arrays.append(mx.random.uniform(0.0005, 0.002, part_shape).astype(mx.float16))
        elif part_name == "scales":
            arrays.append(mx.random.randint(114, 123, part_shape).astype(mx.uint8))
        else:
            words = mx.random.randint(-(2**31), 2**31 - 1, part_shape, mx.int32)
            arrays.append(words.view(mx.uint32) if dtype == "U32" else (words & 255).astype(mx.uint8))
    mx.eval(arrays)
    return arrays


def timed(calls: Callable[[], list[mx.array]], repeats: int = 5) -> tuple[float, float]:
    """Seconds that evaluating what `calls` returns takes, best of `repeats`, and how many of them until all was queued.

    Evaluated once before, to compile.
    """
    mx.eval(calls())
    best = float("inf"), float("inf")
    for _ in range(repeats):
        outputs = calls()
        mx.synchronize()
        start = time.perf_counter()
        mx.async_eval(outputs)
        queued = time.perf_counter() - start
        mx.synchronize()
        best = min(best, (time.perf_counter() - start, queued))
    return best


def copy_rate() -> float:
    """Bytes read and written per second by an elementwise operation on 2 GB."""
    x = mx.zeros(1 << 29, dtype=mx.float32)
    mx.eval(x)
    return 2 * x.nbytes / timed(lambda: [x + 1])[0]


def token_routes(count: int) -> Iterator[mx.array]:
    """Routes of `count` single tokens [1, 6] that go through all experts, over and over."""
    for i in range(count):
        yield mx.array([[(i * SLOTS + s) * 37 % EXPERTS for s in range(SLOTS)]], dtype=mx.uint32)


_OURS = ("iq2_xxs", "q2_k", "q4_k", "mxfp4")
_CALLS = 128


def print_rows(label: str, name: str, nbytes: float, rate: float, call: Callable[[mx.array], list[mx.array]]) -> None:
    """A line of the table for one token; `call` takes the routes."""
    routes = list(token_routes(_CALLS))
    mx.eval(routes)
    each, host = (t / _CALLS for t in timed(lambda: [output for r in routes for output in call(r)]))
    bandwidth = nbytes / each
    print(
        f"| {label} | {name} | {each * 1e6:.1f} | {host * 1e6:.1f} | {bandwidth / 1e9:,.0f} | {bandwidth / rate:.0%} |"
    )


def our_row_call(kernel: Kernel, arrays: list[mx.array], role: str) -> Callable[[mx.array], list[mx.array]]:
    """Calls of a kernel for few tokens, by routes."""
    x = mx.random.normal((1, WIDTH) if role == "gate_up" else (SLOTS, INNER)).astype(mx.bfloat16)
    weights = mx.full((1, SLOTS), 0.25)
    mx.eval(x, weights)
    if role == "gate_up":
        return lambda routes: kernel(x, routes, weights, LIMIT, *arrays)
    return lambda routes: kernel(x, routes, *arrays)


def mlx_row_call(arrays: list, mode: dict, role: str) -> Callable[[mx.array], list[mx.array]]:
    """The same products through MLX."""
    x = mx.random.normal((1, 1, WIDTH) if role == "gate_up" else (SLOTS, 1, INNER)).astype(mx.bfloat16)
    x = mx.contiguous(mx.broadcast_to(x, (SLOTS, *x.shape[1:])))
    mx.eval(x)
    options: dict[str, Any] = {"transpose": True, **mode}
    return lambda routes: [mx.gather_qmm(x, *matrix, rhs_indices=routes.flatten(), **options) for matrix in arrays]


def mlx_weights(role: str, mode: dict) -> list[list[mx.array]]:
    """Quantised matrices of MLX for `role`."""
    made = []
    for _ in range(_MATRICES[role]):
        shape = _SHAPES[role]
        pieces = [
            mx.quantize(mx.random.normal((16, *shape[1:])).astype(mx.bfloat16) * 0.02, **mode)
            for _ in range(shape[0] // 16)
        ]
        made.append([mx.concatenate(list(parts)) for parts in zip(*pieces, strict=True)])
        mx.eval(made[-1])
    return made


MLX_MODES = {
    "affine 2-bit g64": {"group_size": 64, "bits": 2, "mode": "affine"},
    "mxfp4": {"group_size": 32, "bits": 4, "mode": "mxfp4"},
}


def rows_head() -> float:
    """The head of the table for one token; returns the rate of copying."""
    rate = copy_rate()
    print(f"\ncopying: {rate / 1e9:,.0f} GB/s\n")
    print("| 1 token x 6 experts | weights | us | host us | GB/s | of copying |\n|---|---|---|---|---|---|")
    return rate


def rows_table() -> None:
    """1 token x 6 experts. What the q2 profile uses comes first."""
    rate = rows_head()
    roles = {"gate_up": gate_up_kernel, "down": down_kernel}
    first = [("gate_up", "iq2_xxs"), ("down", "q2_k")]
    for role, name in [*first, *((r, n) for r in roles for n in _OURS if (r, n) not in first)]:
        arrays = [a for _ in range(_MATRICES[role]) for a in random_matrices(name, _SHAPES[role])]
        nbytes = sum(a.nbytes for a in arrays) * SLOTS / EXPERTS
        kernel = roles[role](name)
        for label, form in (("", kernel), *simple_forms(kernel, name)):
            print_rows(role + label, name, nbytes, rate, our_row_call(form, arrays + lookup(name), role))


def mlx_rows_table() -> None:
    """1 token x 6 experts through MLX."""
    rate = rows_head()
    for name, mode in MLX_MODES.items():
        for role in _SHAPES:
            quantized = mlx_weights(role, mode)
            nbytes = sum(a.nbytes for matrix in quantized for a in matrix) * SLOTS / EXPERTS
            print_rows(f"{role}, gather_qmm", name, nbytes, rate, mlx_row_call(quantized, mode, role))


# The decoding without tricks: signs by selection, bytes and codes converted to float.
_SIMPLE = {
    "iq2_xxs": """
METAL_FUNC void raw_part(const thread Run& run, const threadgroup uint* table, int g, thread float* v) {
  uint2 group = ((const threadgroup uint2*)table)[(run.codes.x >> (8 * g)) & 255u];
  uint signs = (run.codes.y >> (7 * g)) & 127u;
  signs |= (popcount(signs) & 1u) << 7;
  #pragma unroll
  for (int j = 0; j < 8; j++) {
    uint word = (j & 2) == 0 ? group.x : group.y;
    uint code = (word >> (8 * ((j & 1) + (j >= 4 ? 2 : 0)))) & 255u;
    float value = code == 0x40u ? 8.0f : code == 0x72u ? 25.0f : 43.0f;
    v[j] = (signs >> j) & 1u ? -value : value;
  }
}
""",
    "q2_k": """
METAL_FUNC void raw_part(const thread Run& run, const threadgroup uint* table, int h, thread float* v) {
  uint word = h == 0 ? run.codes.x : run.codes.y;
  #pragma unroll
  for (int j = 0; j < 16; j++) { v[j] = 1.0f + 0.25f * float((word >> (2 * j)) & 3u); }
}
""",
}


def simple_forms(kernel: Kernel, name: str) -> list[tuple[str, Kernel]]:
    """The kernel with the plain decoding in place of ours, to see what the tricks are worth."""
    if name not in _SIMPLE:
        return []
    header = kernel.text.header
    start = header.index("METAL_FUNC void raw_part")
    stop = header.index("METAL_FUNC float", start)  # what follows
    text = replace(
        kernel.text, name=kernel.text.name + "_simple", header=header[:start] + _SIMPLE[name] + header[stop:]
    )
    return [(", plain decoding", replace(kernel, text=text))]


_REPEATS = 4


def repeated(kernel: Kernel, inputs: list[mx.array]) -> list[mx.array]:
    """Several calls, queued."""
    return [kernel(*inputs)[0] for _ in range(_REPEATS)]


def mlx_tiles_call(rows: mx.array, index: mx.array, matrices: list, mode: dict) -> list[mx.array]:
    """The products of sorted rows through MLX."""
    options: dict[str, Any] = {"rhs_indices": index, "transpose": True, "sorted_indices": True, **mode}
    return [mx.gather_qmm(rows[:, None], *matrix, **options) for matrix in matrices]


_TOKENS = 2048


class Prefill(NamedTuple):
    """Routes of many tokens and what is multiplied: experts uint32 [T, 6], their plan, x [T, K] or inner [T * 6, K]."""

    experts: mx.array
    planned: Plan
    x: mx.array
    flop: int

    @classmethod
    def of(cls, role: str) -> Prefill:
        """Every token goes to 6 experts of its own."""
        chosen = np.argsort(np.random.default_rng(0).random((_TOKENS, EXPERTS)), axis=-1)[:, :SLOTS]
        experts = mx.array(chosen.astype(np.uint32))
        x = mx.random.normal((_TOKENS, WIDTH) if role == "gate_up" else (_TOKENS * SLOTS, INNER)).astype(mx.bfloat16)
        made = cls(experts, plan(experts, EXPERTS), x, 2 * _TOKENS * SLOTS * _MATRICES[role] * WIDTH * INNER)
        mx.eval(made.experts, made.planned, made.x)
        return made


def print_tiles(label: str, name: str, flop: int, each: float) -> None:
    """A line of the table for many tokens."""
    print(f"| {label} | {name} | {each * 1e3:.2f} | {flop / each / 1e12:.1f} |")


def tiles_head() -> None:
    """The head of the table for many tokens."""
    print(f"\n| {_TOKENS:,} tokens x 6 experts | weights | ms | TFLOP/s |\n|---|---|---|---|")


def tiles_table() -> None:
    """Many tokens."""
    tiles_head()
    weights = mx.full((_TOKENS, SLOTS), 0.25)
    roles = {"gate_up": tile_gate_up_kernel, "down": tile_down_kernel}
    first = [("gate_up", "iq2_xxs"), ("down", "q2_k")]
    for role, name in [*first, *((r, n) for r in roles for n in _OURS if (r, n) not in first)]:
        work = Prefill.of(role)
        arrays = [a for _ in range(_MATRICES[role]) for a in random_matrices(name, _SHAPES[role])] + lookup(name)
        rest = [*work.planned, *arrays]
        inputs = [work.x, weights, LIMIT, *rest] if role == "gate_up" else [work.x, *rest]
        each = timed(partial(repeated, roles[role](name), inputs))[0] / _REPEATS
        print_tiles(role, name, work.flop, each)


def mlx_tiles_table() -> None:
    """Many tokens through MLX."""
    tiles_head()
    for name, mode in MLX_MODES.items():
        for role in _SHAPES:
            work, made = Prefill.of(role), mlx_weights(role, mode)
            order = work.planned.order
            rows = work.x[order // SLOTS] if role == "gate_up" else work.x
            index = work.experts.flatten()[order]
            mx.eval(rows, index)
            each, _ = timed(partial(mlx_tiles_call, rows, index, made, mode), repeats=2)
            print_tiles(f"{role}, gather_qmm", name, work.flop, each)


def encoders_table() -> None:
    """One matrix of an expert, with an importance."""
    print("\n| quantising 2048 x 4096 | s | million weights/s |\n|---|---|---|")
    matrix, importance = mx.random.normal((INNER, WIDTH)) * 0.02, mx.random.uniform(0.1, 1.0, (WIDTH,))
    mx.eval(matrix, importance)
    for name in ("iq2_xxs", "q2_k"):
        encode(name, matrix[:64], importance)
        start = time.perf_counter()
        encode(name, matrix, importance)  # evaluated within
        taken = time.perf_counter() - start
        print(f"| {name} | {taken:.2f} | {matrix.size / taken / 1e6:,.1f} |")


PARTS: dict[str, Callable[[], None]] = {
    "rows": rows_table,
    "tiles": tiles_table,
    "encoders": encoders_table,
    "mlx-rows": mlx_rows_table,
    "mlx-tiles": mlx_tiles_table,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", choices=[*PARTS, []], help=f"one of {', '.join(PARTS)}")
    print(f"MLX {version('mlx')}, {mx.device_info().get('device_name', mx.default_device())}")
    for part in parser.parse_args().parts or PARTS:
        PARTS[part]()


if __name__ == "__main__":
    main()
