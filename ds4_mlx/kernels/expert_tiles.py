"""Routed experts for many tokens: matrix products over tiles, the tokens of an expert together.

The (token, slot) pairs are sorted by expert (`Plan`). A threadgroup multiplies up to 64 pairs of one expert with some
rows of its matrix: 64 columns of both are put into threadgroup memory, the weights decoded, then simdgroup matrices
take over, by blocks that are one instruction on tensor cores (`tensor_text.py`). Codes of the next columns are read
while these are multiplied. There are as many threadgroups as tiles can be at most, R / 64 + E of them per stripe of
rows, however unevenly the pairs fall.

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
from ds4_mlx.kernels.tensor_text import TENSORS
from ds4_mlx.kernels.vectors_text import VECTORS

_SIMDGROUPS = 4
_STRIPE = 128  # matrix rows of a tile, all matrices together

# A tile of weights or activations is a multiple of what all threads put there at once: 32 weights of a row or 16
# activations each. Halves are put in the order of `pairs_run`: neighbours are APART weights from one another.
_RAW_RUN = """
METAL_FUNC void raw_run(const thread Run& run, const threadgroup uint* table, thread float* v) {
  #pragma unroll
  for (int part = 0; part < 32 / PART; part++) { raw_part(run, table, part, v + part * PART); }
}
"""

_HEADER = """
METAL_FUNC void put_run(const thread Run& run, const threadgroup uint* table, threadgroup float* p) {
  float w[32];
  weights_run(run, table, w);
  #pragma unroll
  for (int j = 0; j < 32; j += 8) { store_8(p + j, w + j); }
}

METAL_FUNC void put_run(const thread Run& run, const threadgroup uint* table, threadgroup half* p) {
  uint words[16];
  pairs_run(run, table, words);
  #pragma unroll
  for (int j = 0; j < 4; j++) {
    ((threadgroup uint4*)p)[j] = uint4(words[4 * j], words[4 * j + 1], words[4 * j + 2], words[4 * j + 3]);
  }
}

METAL_FUNC void put_16(threadgroup float* p, const thread float* v) {
  store_8(p, v);
  store_8(p + 8, v + 8);
}

METAL_FUNC void put_16(threadgroup half* p, const thread float* v) {
  uint words[8];
  #pragma unroll
  for (int i = 0; i < 8; i++) {
    int j = i / APART * 2 * APART + i % APART;
    words[i] = half_pair(v[j], v[j + APART]);
  }
  ((threadgroup uint4*)p)[0] = uint4(words[0], words[1], words[2], words[3]);
  ((threadgroup uint4*)p)[1] = uint4(words[4], words[5], words[6], words[7]);
}
"""

_BODY = """
    constexpr uint RUNS = K / 32;
    constexpr uint STRIDE = COLUMNS + 16 / sizeof(H);  // a gap, so that rows fall into different banks
    constexpr uint EACH = COLUMNS / 32;  // runs of a row at once
    constexpr uint THREADS = 32 * SIMDGROUPS;
    constexpr uint CODES = MATRICES * BN * EACH / THREADS;  // runs, per thread
    constexpr uint CHUNKS = PAIRS * COLUMNS / 16 / THREADS;  // of 16 activations, per thread
    constexpr uint BLOCKS = BN / 16 / SIMDGROUPS;  // of 16 rows, per simdgroup and matrix
    constexpr uint SHOWN = 32;  // pairs of results at once
    constexpr float DOWN = sizeof(H) == 2 ? 1.0f / 1024.0f : 1.0f;
    {table}
    // Weights [MATRICES * BN][STRIDE] and activations [PAIRS][STRIDE]; at the end, results [BN][SHOWN + 1].
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
      simdgroup_matrix<float, 8, 8> sums[MATRICES][BLOCKS][PAIRS / 8][2];
      #pragma unroll
      for (uint m = 0; m < MATRICES; m++) {{
        #pragma unroll
        for (uint b = 0; b < BLOCKS; b++) {{
          #pragma unroll
          for (uint p = 0; p < PAIRS / 8; p++) {{
            sums[m][b][p][0] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
            sums[m][b][p][1] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
          }}
        }}
      }}
      size_t from[CHUNKS];
      #pragma unroll
      for (uint c = 0; c < CHUNKS; c++) {{
        uint i = c * THREADS + thread_number;
        uint p = metal::min(i / (COLUMNS / 16), count - 1);
        from[c] = size_t({row}) * K + i % (COLUMNS / 16) * 16;
      }}
      Run codes[CODES];
      {read_first}
      for (uint k0 = 0; k0 < K; k0 += COLUMNS) {{
        float values[CHUNKS][16];
        #pragma unroll
        for (uint c = 0; c < CHUNKS; c++) {{
          load_8(x + from[c] + k0, values[c]);
          load_8(x + from[c] + k0 + 8, values[c] + 8);
        }}
        #pragma unroll
        for (uint c = 0; c < CODES; c++) {{
          uint i = c * THREADS + thread_number;
          put_run(codes[c], table, ws + i / EACH * STRIDE + i % EACH * 32);
        }}
        #pragma unroll
        for (uint c = 0; c < CHUNKS; c++) {{
          uint i = c * THREADS + thread_number;
          put_16(xs + i / (COLUMNS / 16) * STRIDE + i % (COLUMNS / 16) * 16, values[c]);
        }}
        if (k0 + COLUMNS < K) {{
          {read_next}
        }}
        threadgroup_barrier(mem_flags::mem_threadgroup);
        #pragma unroll
        for (uint k = 0; k < COLUMNS; k += 32) {{
          Left32<H> left[MATRICES][BLOCKS];
          #pragma unroll
          for (uint m = 0; m < MATRICES; m++) {{
            #pragma unroll
            for (uint b = 0; b < BLOCKS; b++) {{
              load_left(left[m][b], ws + (m * BN + 16 * (simdgroup * BLOCKS + b)) * STRIDE + k, STRIDE);
            }}
          }}
          #pragma unroll
          for (uint p = 0; p < PAIRS / 8; p++) {{
            if (p < filled) {{
              Right32<H> right;
              load_right(right, xs + 8 * p * STRIDE + k, STRIDE);
              #pragma unroll
              for (uint m = 0; m < MATRICES; m++) {{
                #pragma unroll
                for (uint b = 0; b < BLOCKS; b++) {{
                  multiply_32(sums[m][b][p][0], sums[m][b][p][1], left[m][b], right);
                }}
              }}
            }}
          }}
        }}
        threadgroup_barrier(mem_flags::mem_threadgroup);
      }}
      #pragma unroll
      for (uint shown = 0; shown < PAIRS; shown += SHOWN) {{
        #pragma unroll
        for (uint p = 0; p < PAIRS / 8; p++) {{
          uint at = 8 * p;
          if (at >= shown && at < shown + SHOWN) {{
            #pragma unroll
            for (uint b = 0; b < BLOCKS; b++) {{
              #pragma unroll
              for (uint h = 0; h < 2; h++) {{
                {combine}
                threadgroup float* to = pool + (16 * (simdgroup * BLOCKS + b) + 8 * h) * (SHOWN + 1) + at - shown;
                simdgroup_store(sums[0][b][p][h], to, SHOWN + 1);
              }}
            }}
          }}
        }}
        threadgroup_barrier(mem_flags::mem_threadgroup);
        uint here = count < shown ? 0u : metal::min(count - shown, SHOWN);
        for (uint i = thread_number; i < here * BN; i += THREADS) {{
          uint p = shown + i / BN;
          uint row = i % BN;
          if (row0 + row < N) {{
            float value = pool[row * (SHOWN + 1) + i / BN];
            {write}
          }}
        }}
        if (shown + SHOWN < PAIRS) {{ threadgroup_barrier(mem_flags::mem_threadgroup); }}
      }}
    }}
"""

# Codes of the columns from 32 * RUN on.
_READ = """#pragma unroll
      for (uint c = 0; c < CODES; c++) {
        uint i = c * THREADS + thread_number;
        uint r = i / EACH;
        size_t number = (size_t(expert) * N + metal::min(row0 + r % BN, uint(N - 1))) * RUNS + RUN + i % EACH;
        codes[c] = LOAD;
      }"""

# As the reference: both products rounded, the rest in float.
_COMBINE = """for (uint i = 0; i < 2; i++) {
                  float g = sums[0][b][p][h].thread_elements()[i] * DOWN;
                  g = metal::min(float(static_cast<T>(g)), limit);
                  float u = sums[1][b][p][h].thread_elements()[i] * DOWN;
                  u = metal::clamp(float(static_cast<T>(u)), -limit, limit);
                  sums[0][b][p][h].thread_elements()[i] = g / (1.0f + metal::exp(-g)) * u;
                }"""


def _text(name: str, runs: RunText, inputs: Sequence[str], output: str, load: str, **pieces: str) -> KernelText:
    read = _READ.replace("LOAD", load)
    first, following = read.replace("RUN +", ""), read.replace("RUN +", "k0 / 32 + EACH +")
    source = _BODY.format(table=runs.table_text, read_first=first, read_next=following, **pieces)
    return KernelText(
        f"{name}_{runs.format}",
        (*inputs, *(["lookup"] if runs.table else [])),
        (output,),
        source,
        VECTORS + TENSORS + runs.header + _RAW_RUN + runs.tiles + _HEADER,
    )


def _launch(x: mx.array, order: mx.array, matrix: mx.array, *, slots: int, matrices: int, table: int) -> Launch:
    experts, rows = matrix.shape[:2]
    half = x.dtype != mx.float32
    stripe, pairs = _STRIPE // matrices, order.size
    columns = 64 if half and x.shape[-1] % 64 == 0 else 32
    floats = (_STRIPE + PAIRS) * ((columns + 8) // 2 if half else columns + 4)
    words = -(-max(floats, stripe * 33) // 4) * 4
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
        ("COLUMNS", columns),
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
        load=f"r < BN ? load_run({', '.join(w1)}, number) : load_run({', '.join(w3)}, number)",
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
        write="y[size_t(order[first + p]) * N + row0 + row] = static_cast<T>(value * DOWN);",
    )
    launch = partial(_launch_down, table=runs.table_size)
    return Kernel(text, partial(tile_down_twin, name), launch, partial(samples, tile_down_inputs, TILE_SIZES, name))
