"""How fast the kernels of routed experts are at DeepSeek V4 Flash's sizes; run it on the GPU in question.

    python tests/kernels/bench_experts.py [--rows-only | --tiles-only]

Prints two Markdown tables, each beside MLX's own `gather_qmm`:
1 token x 6 experts, in GB of weights per second and as a share of what copying reaches, and 2,048 tokens x 6 experts in
TFLOP/s. All 256 experts are in memory and calls rotate over them, so that caches cannot flatter; many calls are queued
before the clock is read.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import mlx.core as mx

from ds4_mlx.kernels import Kernel
from ds4_mlx.kernels.expert_plan import plan
from ds4_mlx.kernels.expert_rows import down_kernel, gate_up_kernel
from ds4_mlx.kernels.expert_tiles import tile_down_kernel, tile_gate_up_kernel
from ds4_mlx.kernels.runs import lookup
from ds4_mlx.quant import get_format

EXPERTS, SLOTS, WIDTH, INNER = 256, 6, 4096, 2048
LIMIT = mx.array(10.0)
_SHAPES = {"gate_up": (EXPERTS, INNER, WIDTH), "down": (EXPERTS, WIDTH, INNER)}


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


def seconds(calls: Callable[[], list[mx.array]], repeats: int = 5) -> float:
    """The best of `repeats` times that evaluating what `calls` returns takes; once before to compile."""
    mx.eval(calls())
    best = float("inf")
    for _ in range(repeats):
        outputs = calls()
        mx.synchronize()
        start = time.perf_counter()
        mx.eval(outputs)
        mx.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def copy_rate() -> float:
    """Bytes read and written per second by an elementwise operation on 2 GB."""
    x = mx.zeros(1 << 29, dtype=mx.float32)
    mx.eval(x)
    return 2 * x.nbytes / seconds(lambda: [x + 1])


def token_routes(count: int) -> Iterator[mx.array]:
    """Routes of `count` single tokens [1, 6] that go through all experts, over and over."""
    for i in range(count):
        yield mx.array([[(i * SLOTS + s) * 37 % EXPERTS for s in range(SLOTS)]], dtype=mx.uint32)


def token_calls(role: str, name: str, call: Callable[[mx.array, mx.array], mx.array]) -> tuple[float, float]:
    """Seconds per call and bytes of weights per second for one token; `call` takes activations and routes."""
    count = 128
    routes = list(token_routes(count))
    x = mx.random.normal((1, WIDTH) if role == "gate_up" else (SLOTS, INNER)).astype(mx.bfloat16)
    mx.eval(x, routes)
    matrices = 2 if role == "gate_up" else 1
    nbytes = SLOTS * matrices * WIDTH * INNER * get_format(name).bits_per_weight / 8 if name in _OURS else 0
    each = seconds(lambda: [call(x, r) for r in routes]) / count
    return each, nbytes / each


_OURS = ("iq2_xxs", "q2_k", "q4_k", "mxfp4")


def our_row_call(kernel: Kernel, arrays: list[mx.array], role: str, x: mx.array, routes: mx.array) -> mx.array:
    """One call of a kernel for few tokens."""
    weights = mx.full((1, SLOTS), 0.25)
    inputs = [x, routes, weights, LIMIT, *arrays] if role == "gate_up" else [x, routes, *arrays]
    return kernel(*inputs)[0]


def mlx_row_call(arrays: list, mode: dict, x: mx.array, routes: mx.array) -> mx.array:
    """The same products through MLX."""
    x = mx.unflatten(mx.broadcast_to(x, (SLOTS, x.shape[-1])), 0, (SLOTS, 1))
    index = routes.flatten()
    options: dict[str, Any] = {"rhs_indices": index, "transpose": True, **mode}
    return mx.concatenate([mx.gather_qmm(x, *matrix, **options) for matrix in arrays])


def mlx_weights(role: str, mode: dict) -> list[list[mx.array]]:
    """Quantised matrices of MLX for `role`."""
    made = []
    for _ in range(2 if role == "gate_up" else 1):
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


def rows_table() -> None:
    """1 token x 6 experts."""
    rate = copy_rate()
    print(f"copying: {rate / 1e9:,.0f} GB/s\n")
    print("| 1 token x 6 experts | weights | us | GB/s | of copying |\n|---|---|---|---|---|")
    for role, make in (("gate_up", gate_up_kernel), ("down", down_kernel)):
        for name in _OURS:
            matrices = [random_matrices(name, _SHAPES[role]) for _ in range(2 if role == "gate_up" else 1)]
            arrays = [a for matrix in matrices for a in matrix] + lookup(name)
            for label, kernel in (("", make(name)), *simple_forms(make(name), name)):
                each, bandwidth = token_calls(role, name, partial(our_row_call, kernel, arrays, role))
                print(
                    f"| {role}{label} | {name} | {each * 1e6:.1f} | {bandwidth / 1e9:,.0f} | {bandwidth / rate:.0%} |"
                )
        for name, mode in MLX_MODES.items():
            quantized = mlx_weights(role, mode)
            nbytes = sum(a.nbytes for matrix in quantized for a in matrix) * SLOTS / EXPERTS
            each, _ = token_calls(role, name, partial(mlx_row_call, quantized, mode))
            bandwidth = nbytes / each
            print(
                f"| {role}, gather_qmm | {name} | {each * 1e6:.1f} | {bandwidth / 1e9:,.0f} | {bandwidth / rate:.0%} |"
            )


# The decoding without tricks: signs by selection, bytes and codes converted to float.
_SIMPLE = {
    "iq2_xxs": """
METAL_FUNC void raw_run(const thread Run& run, const threadgroup uint* table, thread float* v) {
  for (int g = 0; g < 4; g++) {
    uint2 group = ((const threadgroup uint2*)table)[(run.codes.x >> (8 * g)) & 255u];
    uint signs = (run.codes.y >> (7 * g)) & 127u;
    signs |= (popcount(signs) & 1u) << 7;
    for (int j = 0; j < 8; j++) {
      uint word = (j & 2) == 0 ? group.x : group.y;
      uint code = (word >> (8 * ((j & 1) + (j >= 4 ? 2 : 0)))) & 255u;
      float value = code == 0x40u ? 8.0f : code == 0x72u ? 25.0f : 43.0f;
      v[8 * g + j] = (signs >> j) & 1u ? -value : value;
    }
  }
}
""",
    "q2_k": """
METAL_FUNC void raw_run(const thread Run& run, const threadgroup uint* table, thread float* v) {
  for (int h = 0; h < 2; h++) {
    uint word = h == 0 ? run.codes.x : run.codes.y;
    for (int j = 0; j < 16; j++) { v[16 * h + j] = 1.0f + 0.25f * float((word >> (2 * j)) & 3u); }
  }
}
""",
}


def simple_forms(kernel: Kernel, name: str) -> list[tuple[str, Kernel]]:
    """The kernel with the plain decoding in place of ours, to see what the tricks are worth."""
    if name not in _SIMPLE:
        return []
    header = kernel.text.header
    start = header.index("METAL_FUNC void raw_run")
    stop = header.index("METAL_FUNC float finish_run")
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


def tiles_table(tokens: int = 2048) -> None:
    """Many tokens."""
    print(f"\n| {tokens:,} tokens x 6 experts | weights | ms | TFLOP/s |\n|---|---|---|---|")
    experts = mx.argsort(mx.random.uniform(shape=(tokens, EXPERTS)), axis=-1)[:, :SLOTS].astype(mx.uint32)
    weights = mx.full((tokens, SLOTS), 0.25)
    planned = plan(experts, EXPERTS)
    mx.eval(experts, weights, planned)
    for role, make in (("gate_up", tile_gate_up_kernel), ("down", tile_down_kernel)):
        matrices = 2 if role == "gate_up" else 1
        flop = 2 * tokens * SLOTS * matrices * WIDTH * INNER
        x = mx.random.normal((tokens, WIDTH) if role == "gate_up" else (tokens * SLOTS, INNER)).astype(mx.bfloat16)
        mx.eval(x)
        for name in _OURS:
            arrays = [a for _ in range(matrices) for a in random_matrices(name, _SHAPES[role])] + lookup(name)
            inputs = [x, weights, LIMIT, *planned, *arrays] if role == "gate_up" else [x, *planned, *arrays]
            each = seconds(partial(repeated, make(name), inputs)) / _REPEATS
            print(f"| {role} | {name} | {each * 1e3:.2f} | {flop / each / 1e12:.1f} |")
        order = planned.order
        rows = x[order // SLOTS] if role == "gate_up" else x
        index = experts.flatten()[order]
        for name, mode in MLX_MODES.items():
            made = mlx_weights(role, mode)

            each = seconds(partial(mlx_tiles_call, rows, index, made, mode), repeats=3)
            print(f"| {role}, gather_qmm | {name} | {each * 1e3:.2f} | {flop / each / 1e12:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows-only", action="store_true", help="one token only")
    parser.add_argument("--tiles-only", action="store_true", help="2,048 tokens only")
    options = parser.parse_args()
    if not options.tiles_only:
        rows_table()
    if not options.rows_only:
        tiles_table()


if __name__ == "__main__":
    main()
