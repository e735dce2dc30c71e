"""The end of a feed-forward sublayer for few tokens: the down products of routed experts and of the shared one, summed
and written back into the streams, in one launch.

A threadgroup has a tile of channels. Two simdgroups share `_ROWS` rows of the routed experts' matrices: one takes every
second (token, slot) pair, the other the rest. Of the shared expert's matrix each has half as many rows for itself.
`expert_rows` tells how an expert that several tokens chose is read once.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial

import mlx.core as mx
import numpy as np

from ds4_mlx.kernels import expert_samples, stream_samples
from ds4_mlx.kernels.dense_rows import ROWS
from ds4_mlx.kernels.dense_samples import DTYPES, random_floats, random_matrix
from ds4_mlx.kernels.dense_text import arrays_of, matrix_text, matrix_type, products_text
from ds4_mlx.kernels.dense_twins import decoded, parts_of
from ds4_mlx.kernels.expert_rows import EARLIER, MOST_TOKENS, down_kernel
from ds4_mlx.kernels.expert_samples import Sizes
from ds4_mlx.kernels.expert_twins import down_twin
from ds4_mlx.kernels.kernel import Kernel, Launch
from ds4_mlx.kernels.metal_on_cuda import KernelText
from ds4_mlx.kernels.runs import run_text
from ds4_mlx.kernels.stream_rows import return_launch
from ds4_mlx.kernels.stream_text import STREAM_TEXT
from ds4_mlx.kernels.stream_twins import returned

_ROWS = 4  # of routed experts, per pair of simdgroups

_BODY = """
    constexpr uint RUNS = K / 32;
    {table}
    threadgroup float products[TILE * (PAIRS + TOKENS)];  // by tokens: those of the slots, that of the shared expert
    threadgroup float y[TOKENS * TILE];
    threadgroup float z[TOKENS * N * TILE];
    uint lane = thread_index_in_simdgroup;
    uint simdgroup = simdgroup_index_in_threadgroup;
    uint tile = threadgroup_position_in_grid.x;
    uint row = simdgroup / 2 * EXPERT_ROWS;  // of the tile
    uint row0 = tile * TILE + row;
    Site<M, N, D, TILE, SIMDGROUPS> site;
    load_site(site, fn, tile * TILE, simdgroup, lane);
    Old<N, (TOKENS * N * TILE + 32 * SIMDGROUPS - 1) / (32 * SIMDGROUPS)> old;
    load_old<N, D, TILE, TOKENS, 32 * SIMDGROUPS>(old, h, mix, tile * TILE, thread_index_in_threadgroup);
    for (uint pair = simdgroup % 2; pair < PAIRS; pair += 2) {{
      uint expert = experts[pair];
      {earlier}
      if (earlier % SHARED == 0) {{
        uint served = 0;
        for (uint q = pair; q < PAIRS && served < SHARED; q++) {{
          if (experts[q] != expert) {{ continue; }}
          served += 1;
          float totals[EXPERT_ROWS];
          #pragma unroll
          for (uint r = 0; r < EXPERT_ROWS; r++) {{ totals[r] = 0.0f; }}
          #pragma unroll 2
          for (uint run = lane; run < RUNS; run += 32) {{
            Run codes[EXPERT_ROWS];
            #pragma unroll
            for (uint r = 0; r < EXPERT_ROWS; r++) {{
              codes[r] = load_run({w2}, (size_t(expert) * D + metal::min(row0 + r, uint(D - 1))) * RUNS + run);
            }}
            add_run<T, EXPERT_ROWS>(codes, table, inner + size_t(q) * K + 32 * run, totals);
          }}
          #pragma unroll
          for (uint r = 0; r < EXPERT_ROWS; r++) {{
            float dot = metal::simd_sum(totals[r]);
            uint place = q / SLOTS * (SLOTS + 1) + q % SLOTS;
            if (lane == r) {{ products[place * TILE + row + r] = float(static_cast<T>(dot)); }}
          }}
        }}
      }}
    }}
    Rows<T> rows;
    rows.x = common;
    rows.stride = KS;
    float shared[ROWS * TOKENS];
    row = simdgroup * ROWS;
    {type} shared_row[ROWS];
    Batch<ROWS, AHEAD, {type}> batch;
    rows_from<KS, ROWS>({shared}, tile * TILE + row, D, shared_row);
    begin_products<KS>(batch, shared_row, lane);
    products_of<KS, ROWS, TOKENS>(shared_row, batch, rows, lane, shared);
    #pragma unroll
    for (uint i = 0; i < ROWS * TOKENS; i++) {{
      uint place = (i % TOKENS + 1) * (SLOTS + 1) - 1;
      if (lane == i) {{ products[place * TILE + row + i / TOKENS] = float(static_cast<T>(shared[i])); }}
    }}
    threadgroup_barrier(mem_flags::mem_threadgroup);
    // Slots in their order whatever expert came first, and the shared expert last.
    for (uint i = thread_index_in_threadgroup; i < TOKENS * TILE; i += 32 * SIMDGROUPS) {{
      float sum = 0.0f;
      for (uint s = 0; s < SLOTS + 1; s++) {{ sum += products[(i / TILE * (SLOTS + 1) + s) * TILE + i % TILE]; }}
      y[i] = float(static_cast<T>(sum));
    }}
    threadgroup_barrier(mem_flags::mem_threadgroup);
    write_back<N, D, TILE, TOKENS, 32 * SIMDGROUPS>(old, y, tile * TILE, thread_index_in_threadgroup, streams, z);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    sum_site<M, N, D, TILE, SIMDGROUPS, TOKENS>(site, z, tile, simdgroup, lane, sums);
"""


def _launch(
    table: int,
    inner: mx.array,
    experts: mx.array,
    common: mx.array,
    h: mx.array,
    mix: mx.array,
    fn: mx.array,
    *arrays: mx.array,
) -> Launch:
    launch = return_launch(h, fn)
    template = [
        *launch.template,
        ("K", inner.shape[1]),
        ("KS", common.shape[1]),
        ("ROWS", ROWS),
        ("AHEAD", 4 if common.shape[0] <= 2 else 2),
        ("EXPERT_ROWS", _ROWS),
        ("SLOTS", experts.shape[1]),
        ("PAIRS", experts.size),
        ("SHARED", min(experts.shape[0], MOST_TOKENS)),
        *([("TABLE", table)] if table else []),
    ]
    return launch._replace(template=template)


def expert_return_twin(
    name: str,
    storage: str,
    inner: mx.array,
    experts: mx.array,
    common: mx.array,
    h: mx.array,
    mix: mx.array,
    fn: mx.array,
    *arrays: mx.array,
) -> list[mx.array]:
    """The sum over a token's experts in float32, the shared expert's product rounded before it is added (spec 9)."""
    parts = parts_of(storage)
    (routed,) = down_twin(name, inner, experts, *arrays[parts:])
    shared = (common.astype(mx.float32) @ decoded(storage, arrays[:parts]).T).astype(common.dtype)
    return returned((routed + shared.astype(mx.float32)).astype(inner.dtype), h, mix, fn)


def expert_return_inputs(name: str, storage: str, sizes: Sizes, dtype: mx.Dtype, shared: int) -> list[mx.array]:
    """Inputs of `expert_return_kernel`; `sizes.rows` channels, a shared expert with as many inner ones."""
    inner, experts, *arrays = expert_samples.down_inputs(name, sizes, dtype)
    rng = np.random.default_rng([*sizes, shared])
    common = random_floats(rng, sizes.tokens, shared, dtype=dtype)
    _, h, mix, fn, *_ = stream_samples.dense_return_inputs("F32", dtype, sizes.tokens, sizes.rows, 32)
    return [inner, experts, common, h, mix, fn, *random_matrix(rng, storage, sizes.rows, shared), *arrays]


def _samples(name: str, storage: str) -> Iterator[list[mx.array]]:
    for dtype in DTYPES:
        yield expert_return_inputs(name, storage, Sizes(1, 6, 8, 2048, 72), dtype, 2048)
    yield expert_return_inputs(name, storage, Sizes(8, 3, 5, 1280, 40), mx.bfloat16, 544)


@cache
def expert_return_kernel(name: str, storage: str) -> Kernel:
    """(inner [T * k, K], experts uint32 [T, k], the shared expert's inner row [T, KS], h [T, N, D], mix of `enter`, fn
    of the next site, arrays of the shared w2 [D, KS] in `storage` and of w2 [E, D, K] in format `name`, and its table)
    -> streams with the sublayer's output in them, and their sums.
    """
    runs = run_text(name)
    arrays = [*arrays_of(storage, "s"), *runs.arrays("w2"), *(["lookup"] if runs.table else [])]
    body = _BODY.format(
        table=runs.table_text,
        earlier=EARLIER,
        w2=", ".join(runs.arrays("w2")),
        shared=matrix_text(storage, "s"),
        type=matrix_type(storage),
    )
    text = KernelText(
        f"expert_return_{name}_{storage}",
        ("inner", "experts", "common", "h", "mix", "fn", *arrays),
        ("streams", "sums"),
        body,
        down_kernel(name).text.header + products_text([storage]) + STREAM_TEXT,
    )
    return Kernel(
        text,
        partial(expert_return_twin, name, storage),
        partial(_launch, runs.table_size),
        partial(_samples, name, storage),
    )
