"""Routed experts for many tokens: matrix products over tiles, the tokens of an expert together.

The (token, slot) pairs are sorted by expert (`Plan`). A threadgroup multiplies up to 32 pairs of one expert with some
rows of its matrix: 32 columns of the weights are decoded into threadgroup memory, then simdgroup matrices take over.
There are as many threadgroups as tiles can be at most, R / 32 + E of them per stripe of rows, however unevenly the
pairs fall.

Tiles are float for float activations. For half and bfloat16 both operands are halves: 11 bits hold all that a
bfloat16 activation has, which after a norm or the clamped SwiGLU is far from a half's limits, and they round a weight
by 2^-12 at most (a bfloat16 tile would by 2^-9). Weights are put in times 1024, for small ones would lose bits: from
6e-8 up to 64 they keep all 11. Sums are float.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

import mlx.core as mx

from ds4_mlx.kernels.expert_plan import PAIRS, Plan
from ds4_mlx.kernels.expert_samples import TILE_SIZES, samples, tile_down_inputs, tile_gate_up_inputs
from ds4_mlx.kernels.expert_twins import tile_down_twin, tile_gate_up_twin
from ds4_mlx.kernels.kernel import Kernel, Launch
from ds4_mlx.kernels.metal_on_cuda import KernelText
from ds4_mlx.kernels.metal_on_cuda.signature import TemplateValue
from ds4_mlx.kernels.runs import RunText, run_text
from ds4_mlx.kernels.vectors_text import VECTORS

_SIMDGROUPS = 4
_STRIPE = 128  # matrix rows of a tile, all matrices together


_BODY = """
    constexpr uint RUNS = K / 32;
    // Rows of both tiles have a gap, so that columns fall into different banks.
    constexpr uint STRIDE = 40;
    constexpr uint ACROSS = PAIRS + 8;
    constexpr float UP = sizeof(H) == 2 ? 1024.0f : 1.0f;
    constexpr uint BLOCKS = BN / (8 * SIMDGROUPS);  // of 8 rows, per simdgroup and matrix
    {table}
    // Weights [MATRICES * BN][STRIDE] and activations [32][ACROSS]; at the end, results [BN][PAIRS + 1].
    threadgroup float4 aligned_pool[POOL / 4];
    threadgroup float* pool = (threadgroup float*)aligned_pool;
    threadgroup H* ws = (threadgroup H*)pool;
    threadgroup H* xs = ws + MATRICES * BN * STRIDE;
    uint thread_number = thread_index_in_threadgroup;
    uint simdgroup = simdgroup_index_in_threadgroup;
    uint tile = threadgroup_position_in_grid.y;
    uint row0 = threadgroup_position_in_grid.x * BN;
    if (tile < tiles[E]) {{
      uint expert = 0;  // the last one whose tiles do not begin after this tile
      for (uint step = HALF; step > 0; step /= 2) {{
        if (expert + step < E && tiles[expert + step] <= tile) {{ expert += step; }}
      }}
      uint first = starts[expert] + (tile - tiles[expert]) * PAIRS;
      uint count = metal::min(uint(PAIRS), starts[expert + 1] - first);
      uint filled = (count + 7) / 8;  // blocks of pairs that there is something to multiply with
      simdgroup_matrix<float, 8, 8> sums[MATRICES][BLOCKS][PAIRS / 8];
      #pragma unroll
      for (uint m = 0; m < MATRICES; m++) {{
        #pragma unroll
        for (uint b = 0; b < BLOCKS; b++) {{
          #pragma unroll
          for (uint p = 0; p < PAIRS / 8; p++) {{ sums[m][b][p] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f); }}
        }}
      }}
      for (uint run = 0; run < RUNS; run++) {{
        for (uint i = thread_number; i < MATRICES * BN; i += 32 * SIMDGROUPS) {{
          size_t number = (size_t(expert) * N + metal::min(row0 + i % BN, uint(N - 1))) * RUNS + run;
          Run codes = {load};
          float values[32];
          weights_run(codes, table, values);
          #pragma unroll
          for (uint j = 0; j < 32; j++) {{ values[j] *= UP; }}
          #pragma unroll
          for (uint j = 0; j < 32; j += 8) {{ store_8(ws + i * STRIDE + j, values + j); }}
        }}
        // Turned over, for the activations are the right operand.
        for (uint i = thread_number; i < 4 * PAIRS; i += 32 * SIMDGROUPS) {{
          uint p = i / 4;
          uint j = 8 * (i % 4);
          float values[8];
          #pragma unroll
          for (uint c = 0; c < 8; c++) {{ values[c] = 0.0f; }}
          if (p < count) {{ load_8(x + size_t({row}) * K + 32 * run + j, values); }}
          #pragma unroll
          for (uint c = 0; c < 8; c++) {{ xs[(j + c) * ACROSS + p] = static_cast<H>(values[c]); }}
        }}
        threadgroup_barrier(mem_flags::mem_threadgroup);
        #pragma unroll
        for (uint k = 0; k < 32; k += 8) {{
          simdgroup_matrix<H, 8, 8> left[MATRICES][BLOCKS];
          #pragma unroll
          for (uint m = 0; m < MATRICES; m++) {{
            #pragma unroll
            for (uint b = 0; b < BLOCKS; b++) {{
              simdgroup_load(left[m][b], ws + (m * BN + 8 * (simdgroup * BLOCKS + b)) * STRIDE + k, STRIDE);
            }}
          }}
          #pragma unroll
          for (uint p = 0; p < PAIRS / 8; p++) {{
            if (p < filled) {{
              simdgroup_matrix<H, 8, 8> right;
              simdgroup_load(right, xs + k * ACROSS + 8 * p, ACROSS);
              #pragma unroll
              for (uint m = 0; m < MATRICES; m++) {{
                #pragma unroll
                for (uint b = 0; b < BLOCKS; b++) {{
                  simdgroup_multiply_accumulate(sums[m][b][p], left[m][b], right, sums[m][b][p]);
                }}
              }}
            }}
          }}
        }}
        threadgroup_barrier(mem_flags::mem_threadgroup);
      }}
      #pragma unroll
      for (uint b = 0; b < BLOCKS; b++) {{
        #pragma unroll
        for (uint p = 0; p < PAIRS / 8; p++) {{
          {combine}
          simdgroup_store(sums[0][b][p], pool + 8 * (simdgroup * BLOCKS + b) * (PAIRS + 1) + 8 * p, PAIRS + 1);
        }}
      }}
      threadgroup_barrier(mem_flags::mem_threadgroup);
      for (uint i = thread_number; i < count * BN; i += 32 * SIMDGROUPS) {{
        uint p = i / BN;
        uint row = i % BN;
        if (row0 + row < N) {{
          float value = pool[row * (PAIRS + 1) + p];
          {write}
        }}
      }}
    }}
"""

# As the reference: both products rounded, the rest in float.
_COMBINE = """for (uint i = 0; i < 2; i++) {{
            float g = metal::min(float(static_cast<T>(sums[0][b][p].thread_elements()[i] / UP)), limit);
            float u = metal::clamp(float(static_cast<T>(sums[1][b][p].thread_elements()[i] / UP)), -limit, limit);
            sums[0][b][p].thread_elements()[i] = g / (1.0f + metal::exp(-g)) * u;
          }}"""


def _text(name: str, runs: RunText, inputs: Sequence[str], output: str, **pieces: str) -> KernelText:
    source = _BODY.format(table=runs.table_text, **pieces)
    return KernelText(
        f"{name}_{runs.format}",
        (*inputs, *(["lookup"] if runs.table else [])),
        (output,),
        source,
        VECTORS + runs.header,
    )


def _launch(x: mx.array, order: mx.array, matrix: mx.array, *, slots: int, matrices: int, table: int) -> Launch:
    experts, rows = matrix.shape[:2]
    half = x.dtype != mx.float32
    stripe, pairs = _STRIPE // matrices, order.size
    words = -(-max((_STRIPE * 40 + 32 * (PAIRS + 8)) // (2 if half else 1), stripe * (PAIRS + 1)) // 4) * 4
    most_tiles = pairs // PAIRS + min(experts, pairs)
    template: list[tuple[str, TemplateValue]] = [
        ("T", x.dtype),
        ("H", mx.float16 if half else mx.float32),
        ("K", x.shape[-1]),
        ("N", rows),
        ("E", experts),
        ("HALF", 1 << max(0, (experts - 1).bit_length() - 1)),
        ("SLOTS", slots),
        ("PAIRS", PAIRS),
        ("MATRICES", matrices),
        ("BN", stripe),
        ("SIMDGROUPS", _SIMDGROUPS),
        ("POOL", words),
        *([("TABLE", table)] if table else []),
    ]
    threads = 32 * _SIMDGROUPS
    return Launch(template, (threads * -(-rows // stripe), most_tiles, 1), (threads, 1, 1), [(pairs, rows)], [x.dtype])


def _launch_gate_up(x: mx.array, weights: mx.array, limit: mx.array, *rest: mx.array, table: int) -> Launch:
    order, _, _, matrix, *_ = rest
    return _launch(x, order, matrix, slots=order.size // x.shape[0], matrices=2, table=table)


def _launch_down(inner: mx.array, *rest: mx.array, table: int) -> Launch:
    order, _, _, matrix, *_ = rest
    return _launch(inner, order, matrix, slots=1, matrices=1, table=table)


@cache
def tile_gate_up_kernel(name: str) -> Kernel:
    """(x [T, K], weights float32 [T, k], limit float32 [], a `Plan`, arrays of w1 and w3 [E, N, ...], and the format's
    table) -> inner [T * k, N] in the order of the plan and the dtype of x.
    """
    runs = run_text(name)
    w1, w3 = runs.arrays("w1"), runs.arrays("w3")
    text = _text(
        "expert_tile_gate_up",
        runs,
        ("x", "weights", "limit", *Plan._fields, *w1, *w3),
        "inner",
        load=f"i < BN ? load_run({', '.join(w1)}, number) : load_run({', '.join(w3)}, number)",
        row="order[first + p] / SLOTS",
        combine=_COMBINE,
        write="inner[size_t(first + p) * N + row0 + row] = static_cast<T>(value * weights[order[first + p]]);",
    )
    launch = partial(_launch_gate_up, table=runs.table_size)
    return Kernel(
        text, partial(tile_gate_up_twin, name), launch, partial(samples, tile_gate_up_inputs, TILE_SIZES, name)
    )


@cache
def tile_down_kernel(name: str) -> Kernel:
    """(inner [R, K] in the order of the plan, a `Plan`, arrays of w2 [E, N, ...], and the format's table) -> the
    products [R, N] in the order of the pairs and the dtype of inner.
    """
    runs = run_text(name)
    w2 = runs.arrays("w2")
    text = _text(
        "expert_tile_down",
        runs,
        ("x", *Plan._fields, *w2),
        "y",
        load=f"load_run({', '.join(w2)}, number)",
        row="(first + p)",
        combine="",
        write="y[size_t(order[first + p]) * N + row0 + row] = static_cast<T>(value / UP);",
    )
    launch = partial(_launch_down, table=runs.table_size)
    return Kernel(text, partial(tile_down_twin, name), launch, partial(samples, tile_down_inputs, TILE_SIZES, name))
