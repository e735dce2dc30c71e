"""Routed experts for few tokens: each chosen expert's matrices times the rows of the tokens that chose it.

Two kernels. `gate_up` makes the SwiGLU rows of all (token, slot) pairs, `down` multiplies them with the down matrices
and sums over a token's slots. Memory speed is the limit, so an expert that several tokens chose is read once: of the
pairs that name it, the first leads and serves the others, for which the caches have the codes. No codes are kept from
one run to the next and few numbers are decoded at a time: what counts is that many simdgroups fit on a core, for they
hide what memory takes. Loops over what is in registers must be unrolled: registers have no index.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

import mlx.core as mx

from ds4_mlx.kernels.block_text import block_text
from ds4_mlx.kernels.expert_samples import ROW_SIZES, down_inputs, gate_up_inputs, samples
from ds4_mlx.kernels.expert_twins import down_twin, gate_up_twin
from ds4_mlx.kernels.kernel import Kernel, Launch
from ds4_mlx.kernels.metal_on_cuda import KernelText
from ds4_mlx.kernels.metal_on_cuda.signature import Template
from ds4_mlx.kernels.runs import RunText, run_text
from ds4_mlx.kernels.vectors_text import VECTORS

MOST_TOKENS = 8
# Matrix rows per simdgroup; on an H100, others were slower for one token.
_GATE_UP_ROWS = 2
_DOWN_ROWS = 4
_SIMDGROUPS = 8  # per threadgroup
# By blocks: simdgroups that share a row.
_GATE_UP_SPLITS = 2
_DOWN_SPLITS = 2
_DOWN_SIMDGROUPS = 12

# totals[r] += run codes[r] times the 32 numbers at `from`, part by part: few numbers are in registers at a time.
_HEADER = """
template <typename T, int COUNT>
METAL_FUNC void add_run(
    const thread Run* codes, const threadgroup uint* table, const device T* from, thread float* totals) {
  float2 sums = float2(0.0f);
  float2 dots[COUNT];
  #pragma unroll
  for (int r = 0; r < COUNT; r++) { dots[r] = float2(0.0f); }
  #pragma unroll
  for (int part = 0; part < 32 / PART; part++) {
    bool second = part * PART >= 16;
    float values[PART];
    #pragma unroll
    for (int i = 0; i < PART; i += 8) { load_8(from + part * PART + i, values + i); }
    #pragma unroll
    for (int i = 0; i < PART; i++) {
      if (second) { sums.y += values[i]; } else { sums.x += values[i]; }
    }
    #pragma unroll
    for (int r = 0; r < COUNT; r++) {
      float raw[PART];
      raw_part(codes[r], table, part, raw);
      #pragma unroll
      for (int i = 0; i < PART; i++) {
        if (second) { dots[r].y += raw[i] * values[i]; } else { dots[r].x += raw[i] * values[i]; }
      }
    }
  }
  #pragma unroll
  for (int r = 0; r < COUNT; r++) { totals[r] += finish_run(codes[r], dots[r], sums); }
}
"""

# Every SHARED-th pair of an expert leads: it serves itself and the SHARED - 1 after it. Tokens that share an expert are
# at most SHARED in all, but nothing breaks if a token names an expert twice.
EARLIER = """uint earlier = 0;
      if (SHARED > 1) {
        for (uint q = 0; q < pair; q++) { earlier += experts[q] == expert ? 1 : 0; }
      }"""

_GATE_UP = """
    constexpr uint RUNS = K / 32;
    {table}
    uint lane = thread_index_in_simdgroup;
    uint row0 = (threadgroup_position_in_grid.x * SIMDGROUPS + simdgroup_index_in_threadgroup) * ROWS;
    uint pair = threadgroup_position_in_grid.y;
    uint expert = experts[pair];
    {earlier}
    if (earlier % SHARED == 0) {{
      uint served = 0;
      for (uint q = pair; q < PAIRS && served < SHARED; q++) {{
        if (experts[q] != expert) {{ continue; }}
        served += 1;
        float totals[2 * ROWS];
        #pragma unroll
        for (uint r = 0; r < 2 * ROWS; r++) {{ totals[r] = 0.0f; }}
        const device T* row = x + size_t(q / SLOTS) * K;
        size_t first = size_t(expert) * N * RUNS;
        #pragma unroll 1
        for (uint run = lane; run < RUNS; run += 32) {{
          Run codes[2 * ROWS];
          #pragma unroll
          for (uint r = 0; r < ROWS; r++) {{
            size_t number = first + size_t(metal::min(row0 + r, uint(N - 1))) * RUNS + run;
            codes[2 * r] = load_run({w1}, number);
            codes[2 * r + 1] = load_run({w3}, number);
          }}
          add_run<T, 2 * ROWS>(codes, table, row + 32 * run, totals);
        }}
        #pragma unroll
        for (uint r = 0; r < ROWS; r++) {{
          float g = simd_sum(totals[2 * r]);
          float u = simd_sum(totals[2 * r + 1]);
          if (lane == r && row0 + r < N) {{
            // As the reference: both products rounded, the rest in float, the route weight before the next product.
            g = metal::min(float(static_cast<T>(g)), limit);
            u = metal::clamp(float(static_cast<T>(u)), -limit, limit);
            inner[size_t(q) * N + row0 + r] = static_cast<T>(g / (1.0f + metal::exp(-g)) * u * weights[q]);
          }}
        }}
      }}
    }}
"""

_DOWN = """
    constexpr uint RUNS = K / 32;
    {table}
    threadgroup float products[ROWS * PAIRS];
    uint lane = thread_index_in_simdgroup;
    uint row0 = threadgroup_position_in_grid.x * ROWS;
    for (uint pair = simdgroup_index_in_threadgroup; pair < PAIRS; pair += SIMDGROUPS) {{
      uint expert = experts[pair];
      {earlier}
      if (earlier % SHARED == 0) {{
        size_t first = size_t(expert) * N * RUNS;
        uint served = 0;
        for (uint q = pair; q < PAIRS && served < SHARED; q++) {{
          if (experts[q] != expert) {{ continue; }}
          served += 1;
          float totals[ROWS];
          #pragma unroll
          for (uint r = 0; r < ROWS; r++) {{ totals[r] = 0.0f; }}
          #pragma unroll 2
          for (uint run = lane; run < RUNS; run += 32) {{
            Run codes[ROWS];
            #pragma unroll
            for (uint r = 0; r < ROWS; r++) {{
              codes[r] = load_run({w2}, first + size_t(metal::min(row0 + r, uint(N - 1))) * RUNS + run);
            }}
            add_run<T, ROWS>(codes, table, inner + size_t(q) * K + 32 * run, totals);
          }}
          #pragma unroll
          for (uint r = 0; r < ROWS; r++) {{
            float dot = simd_sum(totals[r]);
            if (lane == r) {{ products[r * PAIRS + q] = float(static_cast<T>(dot)); }}
          }}
        }}
      }}
    }}
    threadgroup_barrier(mem_flags::mem_threadgroup);
    // Slots in their order, whichever simdgroup made them: a token's sum does not depend on the others in the call.
    for (uint i = thread_index_in_threadgroup; i < ROWS * (PAIRS / SLOTS); i += 32 * SIMDGROUPS) {{
      uint r = i % ROWS;
      uint token = i / ROWS;
      if (row0 + r < N) {{
        float sum = 0.0f;
        for (uint s = 0; s < SLOTS; s++) {{ sum += products[r * PAIRS + token * SLOTS + s]; }}
        y[size_t(token) * N + row0 + r] = sum;
      }}
    }}
"""


def _block_totals(x: str, *rows: tuple[str, str]) -> str:
    """A lane's part of two rows times a row of activations at `x`: every SPLITS-th block of them, into `totals`.

    rows: their matrices (`{w1}`, which `_text` replaces) and first runs.
    """
    loads = "".join(
        f"""
          codes.{part}[{number}] = load_run({matrix}, {first} + 8 * block{later});"""
        for number, (matrix, first) in enumerate(rows)
        for part, later in (("first", ""), ("second", " + 4"))
    )
    return f"""float totals[2];
        totals[0] = 0.0f;
        totals[1] = 0.0f;
        const device T* from = {x} * K + 32 * (lane % 4);
        #pragma unroll 1
        for (uint block = split; block < K / 256; block += SPLITS) {{{{
          Block<2> codes;{loads}
          add_block(codes, table, from + 256 * block, lane, totals);
        }}}}"""


# The same by blocks (`block_text`): a simdgroup has 8 rows of both matrices and every SPLITS-th block of them.
_GATE_UP_BLOCKS = (
    """
    constexpr uint RUNS = K / 32;
    constexpr uint STRIPE = 8 * (SIMDGROUPS / SPLITS);  // rows of a threadgroup
    {table}
    threadgroup float sums[2 * SPLITS * STRIPE];
    uint lane = thread_index_in_simdgroup;
    uint split = simdgroup_index_in_threadgroup % SPLITS;
    uint row = simdgroup_index_in_threadgroup / SPLITS * 8 + lane / 4;
    uint row0 = threadgroup_position_in_grid.x * STRIPE;
    uint pair = threadgroup_position_in_grid.y;
    uint expert = experts[pair];
    {earlier}
    if (earlier % SHARED == 0) {{
      size_t first = (size_t(expert) * N + metal::min(row0 + row, uint(N - 1))) * RUNS + lane % 4;
      uint served = 0;
      for (uint q = pair; q < PAIRS && served < SHARED; q++) {{
        if (experts[q] != expert) {{ continue; }}
        served += 1;
        """
    + _block_totals("x + size_t(q / SLOTS)", ("{w1}", "first"), ("{w3}", "first"))
    + """
        float g = sum_of_four(totals[0]);
        float u = sum_of_four(totals[1]);
        if (lane % 4 == 0) {{
          sums[split * STRIPE + row] = g;
          sums[(SPLITS + split) * STRIPE + row] = u;
        }}
        threadgroup_barrier(mem_flags::mem_threadgroup);
        for (uint i = thread_index_in_threadgroup; i < STRIPE; i += 32 * SIMDGROUPS) {{
          if (row0 + i < N) {{
            float gate = 0.0f;
            float up = 0.0f;
            for (uint s = 0; s < SPLITS; s++) {{
              gate += sums[s * STRIPE + i];
              up += sums[(SPLITS + s) * STRIPE + i];
            }}
            gate = metal::min(float(static_cast<T>(gate)), limit);
            up = metal::clamp(float(static_cast<T>(up)), -limit, limit);
            inner[size_t(q) * N + row0 + i] = static_cast<T>(gate / (1.0f + metal::exp(-gate)) * up * weights[q]);
          }}
        }}
        if (SHARED > 1) {{ threadgroup_barrier(mem_flags::mem_threadgroup); }}
      }}
    }}
"""
)

# products[(row * PAIRS + pair) * SPLITS + split], of 16 rows from row0 on and every pair, by blocks. A simdgroup has
# one (pair, split) after the other, rows lane / 4 and lane / 4 + 8.
_DOWN_BY_BLOCKS = (
    """
    constexpr uint RUNS = K / 32;
    constexpr uint CHANNELS = N;
    {table}
    threadgroup float products[16 * PAIRS * SPLITS];
    uint lane = thread_index_in_simdgroup;
    uint row0 = threadgroup_position_in_grid.x * 16;
    for (uint item = simdgroup_index_in_threadgroup; item < PAIRS * SPLITS; item += SIMDGROUPS) {{
      uint pair = item / SPLITS;
      uint split = item % SPLITS;
      uint expert = experts[pair];
      {earlier}
      if (earlier % SHARED == 0) {{
        uint row = row0 + lane / 4;
        size_t upper = (size_t(expert) * CHANNELS + metal::min(row, uint(CHANNELS - 1))) * RUNS + lane % 4;
        size_t lower = (size_t(expert) * CHANNELS + metal::min(row + 8, uint(CHANNELS - 1))) * RUNS + lane % 4;
        uint served = 0;
        for (uint q = pair; q < PAIRS && served < SHARED; q++) {{
          if (experts[q] != expert) {{ continue; }}
          served += 1;
          """
    + _block_totals("inner + size_t(q)", ("{w2}", "upper"), ("{w2}", "lower"))
    + """
          float above = sum_of_four(totals[0]);
          float below = sum_of_four(totals[1]);
          if (lane % 4 == 0) {{
            products[(lane / 4 * PAIRS + q) * SPLITS + split] = above;
            products[((lane / 4 + 8) * PAIRS + q) * SPLITS + split] = below;
          }}
        }}
      }}
    }}
    threadgroup_barrier(mem_flags::mem_threadgroup);
    // Slots in their order, whichever simdgroup made them: a token's sum does not depend on the others in the call.
    for (uint i = thread_index_in_threadgroup; i < 16 * (PAIRS / SLOTS); i += 32 * SIMDGROUPS) {{
      uint r = i % 16;
      uint token = i / 16;
      if (row0 + r < N) {{
        float sum = 0.0f;
        for (uint s = 0; s < SLOTS; s++) {{
          float product = 0.0f;
          for (uint p = 0; p < SPLITS; p++) {{
            product += products[(r * PAIRS + token * SLOTS + s) * SPLITS + p];
          }}
          sum += float(static_cast<T>(product));
        }}
        y[size_t(token) * N + row0 + r] = sum;
      }}
    }}
"""
)


def _text(
    name: str, body: str, runs: RunText, inputs: Sequence[str], matrices: Sequence[str], output: str
) -> KernelText:
    pieces = {matrix: ", ".join(runs.arrays(matrix)) for matrix in matrices}
    source = body.format(table=runs.table_text, earlier=EARLIER, **pieces)
    arrays = [array for matrix in matrices for array in runs.arrays(matrix)]
    names = [*inputs, *arrays, *(["lookup"] if runs.table else [])]
    return KernelText(
        f"{name}_{runs.format}",
        tuple(names),
        (output,),
        source,
        VECTORS + runs.header + runs.rows + _HEADER + (block_text(runs.blocks) if runs.blocks else ""),
    )


def _template(x: mx.array, experts: mx.array, rows: int, each: int, simdgroups: int, table: int) -> Template:
    tokens, slots = experts.shape
    return [
        ("T", x.dtype),
        ("K", x.shape[-1]),
        ("N", rows),
        ("SLOTS", slots),
        ("PAIRS", experts.size),
        ("SHARED", min(tokens, MOST_TOKENS)),
        ("ROWS", each),
        ("SIMDGROUPS", simdgroups),
        *([("TABLE", table)] if table else []),
    ]


def _launch_gate_up(
    x: mx.array, experts: mx.array, weights: mx.array, limit: mx.array, *arrays: mx.array, table: int, blocks: bool
) -> Launch:
    rows = arrays[0].shape[1]
    if blocks:
        stripe = 8 * _SIMDGROUPS // _GATE_UP_SPLITS
        return Launch(
            [*_template(x, experts, rows, 1, _SIMDGROUPS, table), ("SPLITS", _GATE_UP_SPLITS)],
            (32 * _SIMDGROUPS * -(-rows // stripe), experts.size, 1),
            (32 * _SIMDGROUPS, 1, 1),
            [(experts.size, rows)],
            [x.dtype],
        )
    groups = -(-rows // (_GATE_UP_ROWS * _SIMDGROUPS))
    return Launch(
        _template(x, experts, rows, _GATE_UP_ROWS, _SIMDGROUPS, table),
        (32 * _SIMDGROUPS * groups, experts.size, 1),
        (32 * _SIMDGROUPS, 1, 1),
        [(experts.size, rows)],
        [x.dtype],
    )


def _launch_down(inner: mx.array, experts: mx.array, *arrays: mx.array, table: int, blocks: bool) -> Launch:
    rows = arrays[0].shape[1]
    if blocks:
        simdgroups = min(_DOWN_SIMDGROUPS, experts.size * _DOWN_SPLITS)
        return Launch(
            [*_template(inner, experts, rows, 16, simdgroups, table), ("SPLITS", _DOWN_SPLITS)],
            (32 * simdgroups * -(-rows // 16), 1, 1),
            (32 * simdgroups, 1, 1),
            [(experts.shape[0], rows)],
            [mx.float32],
        )
    simdgroups = min(_SIMDGROUPS, experts.size)
    return Launch(
        _template(inner, experts, rows, _DOWN_ROWS, simdgroups, table),
        (32 * simdgroups * -(-rows // _DOWN_ROWS), 1, 1),
        (32 * simdgroups, 1, 1),
        [(experts.shape[0], rows)],
        [mx.float32],
    )


@cache
def gate_up_kernel(name: str) -> Kernel:
    """(x [T, K], experts uint32 [T, k], weights float32 [T, k], limit float32 [], arrays of w1 and w3 [E, N, ...], and
    the format's table) -> inner [T * k, N] in the dtype of x, for at most `MOST_TOKENS` tokens.
    """
    runs = run_text(name)
    body, names = _GATE_UP_BLOCKS if runs.blocks else _GATE_UP, ("x", "experts", "weights", "limit")
    text = _text("expert_gate_up", body, runs, names, ("w1", "w3"), "inner")
    launch = partial(_launch_gate_up, table=runs.table_size, blocks=runs.blocks is not None)
    return Kernel(text, partial(gate_up_twin, name), launch, partial(samples, gate_up_inputs, ROW_SIZES, name))


@cache
def down_kernel(name: str) -> Kernel:
    """(inner [T * k, K], experts uint32 [T, k], arrays of w2 [E, N, ...], and the format's table) -> float32 [T, N]."""
    runs = run_text(name)
    text = _text("expert_down", _DOWN_BY_BLOCKS if runs.blocks else _DOWN, runs, ("inner", "experts"), ("w2",), "y")
    launch = partial(_launch_down, table=runs.table_size, blocks=runs.blocks is not None)
    return Kernel(text, partial(down_twin, name), launch, partial(samples, down_inputs, ROW_SIZES, name))
