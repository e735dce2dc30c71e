"""Hyper-connections for few tokens: what is between two sublayers, in two launches.

The one that ends a sublayer writes its output back into the streams and sums what the next site needs of them
(`return`, a tile of channels a threadgroup; `site_sums` where no sublayer comes before). The other begins a sublayer:
gates, collapse and norm (`enter`), or the last of them (`leave`). A launch between could not be saved: the gates need
all channels, and threadgroups cannot wait for each other.
"""

from __future__ import annotations

from functools import cache, partial

import mlx.core as mx

from ds4_mlx.kernels import stream_samples as samples
from ds4_mlx.kernels.dense_rows import ROWS
from ds4_mlx.kernels.dense_text import arrays_of, matrix_text, matrix_type, products_text
from ds4_mlx.kernels.kernel import Kernel, Launch
from ds4_mlx.kernels.metal_on_cuda import KernelText
from ds4_mlx.kernels.metal_on_cuda.signature import TemplateValue
from ds4_mlx.kernels.stream_text import STREAM_TEXT
from ds4_mlx.kernels.stream_twins import TILE, dense_return_twin, enter_twin, leave_twin, site_sums_twin
from ds4_mlx.kernels.vectors_text import LOAD_8

_SIMDGROUPS = TILE // ROWS  # per threadgroup of the kernels that write streams
_MOST_THREADS = 512
_RETURN_AHEAD = 2  # units of weights that are read before the first is used, measured on an H200

_SITE_SUMS = """
    threadgroup float z[TOKENS * N * TILE];
    uint lane = thread_index_in_simdgroup;
    uint simdgroup = simdgroup_index_in_threadgroup;
    uint tile = threadgroup_position_in_grid.x;
    Site<M, N, D, TILE, SIMDGROUPS> site;
    load_site(site, fn, tile * TILE, simdgroup, lane);
    for (uint i = thread_index_in_threadgroup; i < TOKENS * N * TILE; i += 32 * SIMDGROUPS) {
      uint channel = tile * TILE + i % TILE;
      z[i] = channel < D ? float(h[i / TILE * D + channel]) : 0.0f;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    sum_site<M, N, D, TILE, SIMDGROUPS, TOKENS>(site, z, tile, simdgroup, lane, sums);
"""

_DENSE_RETURN = """
    threadgroup float y[TOKENS * TILE];
    threadgroup float z[TOKENS * N * TILE];
    uint lane = thread_index_in_simdgroup;
    uint simdgroup = simdgroup_index_in_threadgroup;
    uint tile = threadgroup_position_in_grid.x;
    Site<M, N, D, TILE, SIMDGROUPS> site;
    load_site(site, fn, tile * TILE, simdgroup, lane);
    Old<N, (TOKENS * N * TILE + 32 * SIMDGROUPS - 1) / (32 * SIMDGROUPS)> old;
    load_old<N, D, TILE, TOKENS, 32 * SIMDGROUPS>(old, h, mix, tile * TILE, thread_index_in_threadgroup);
    {type} row[ROWS];
    Batch<ROWS, AHEAD, {type}> batch;
    rows_from<K, ROWS>({matrix}, tile * TILE + simdgroup * ROWS, D, row);
    begin_products<K>(batch, row, lane);
    Rows<T> rows;
    rows.x = u;
    rows.stride = K;
    float dots[ROWS * TOKENS];
    products_of<K, ROWS, TOKENS>(row, batch, rows, lane, dots);
    #pragma unroll
    for (uint i = 0; i < ROWS * TOKENS; i++) {{
      if (lane == i) {{ y[i % TOKENS * TILE + simdgroup * ROWS + i / TOKENS] = float(static_cast<T>(dots[i])); }}
    }}
    threadgroup_barrier(mem_flags::mem_threadgroup);
    write_back<N, D, TILE, TOKENS, 32 * SIMDGROUPS>(old, y, tile * TILE, thread_index_in_threadgroup, streams, z);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    sum_site<M, N, D, TILE, SIMDGROUPS, TOKENS>(site, z, tile, simdgroup, lane, sums);
"""

# Threadgroup (t, 0) makes the input of token t; (t, 1) how the output returns, which takes as long.
_ENTER_HEADER = """
METAL_FUNC float sigmoid(float x) { return 1.0f / (1.0f + metal::exp(-x)); }

// `totals` of rows FIRST..LAST - 1 and of the squares
template <uint M, uint FIRST, uint LAST, uint TILES, uint SIMDGROUPS>
METAL_FUNC void total(const device float* sums, uint simdgroup, uint lane, threadgroup float* totals) {
  constexpr uint ROUNDS = (LAST - FIRST + SIMDGROUPS) / SIMDGROUPS;
  float own[ROUNDS];
  #pragma unroll
  for (uint i = 0; i < ROUNDS; i++) {
    uint row = metal::min(FIRST + simdgroup + i * SIMDGROUPS, LAST);
    uint m = row == LAST ? M : row;
    own[i] = 0.0f;
    #pragma unroll 8
    for (uint tile = lane; tile < TILES; tile += 32) { own[i] += sums[m * TILES + tile]; }
  }
  #pragma unroll
  for (uint i = 0; i < ROUNDS; i++) {
    uint row = FIRST + simdgroup + i * SIMDGROUPS;
    float sum = metal::simd_sum(own[i]);
    if (lane == 0 && row <= LAST) { totals[row == LAST ? M : row] = sum; }
  }
}

// Sums over lanes that differ in the bits from FROM to TO of their number.
template <uint FROM, uint TO>
METAL_FUNC float sum_over(float x) {
  #pragma unroll
  for (uint distance = FROM; distance < TO; distance *= 2) { x += metal::simd_shuffle_xor(x, ushort(distance)); }
  return x;
}

// Lane N * j + k holds comb[j][k]; further lanes hold it again.
template <uint N, uint ITERATIONS>
METAL_FUNC float sinkhorn(float logit, float eps) {
  float top = logit;
  #pragma unroll
  for (uint distance = 1; distance < N; distance *= 2) {
    top = metal::max(top, metal::simd_shuffle_xor(top, ushort(distance)));
  }
  float comb = metal::exp(logit - top);
  comb = comb / sum_over<1, N>(comb) + eps;
  comb = comb / (sum_over<N, N * N>(comb) + eps);
  for (uint i = 1; i < ITERATIONS; i++) {
    comb = comb / (sum_over<1, N>(comb) + eps);
    comb = comb / (sum_over<N, N * N>(comb) + eps);
  }
  return comb;
}
"""

_INPUT = """
      // Whatever does not wait for the sums is read before them.
      float channels[EACH][N][8];
      float weights[EACH][8];
      float bases[N];
      float factor = scale[0];
      #pragma unroll
      for (uint j = 0; j < N; j++) { bases[j] = base[j]; }
      #pragma unroll
      for (uint e = 0; e < EACH; e++) {
        uint channel = 8 * (thread_index_in_threadgroup + e * 32 * SIMDGROUPS);
        if (channel < D) {
          load_8(norm + channel, weights[e]);
          #pragma unroll
          for (uint j = 0; j < N; j++) { load_8(h + (token * N + j) * D + channel, channels[e][j]); }
        }
      }
      total<M, 0, N, TILES, SIMDGROUPS>(of_token, simdgroup, lane, totals);
      threadgroup_barrier(mem_flags::mem_threadgroup);
      float scaling = metal::rsqrt(totals[M] / float(N * D) + eps);
      float gates[N];
      #pragma unroll
      for (uint j = 0; j < N; j++) { gates[j] = sigmoid(totals[j] * scaling * factor + bases[j]) + hc_eps; }
      float squares = 0.0f;
      #pragma unroll
      for (uint e = 0; e < EACH; e++) {
        bool inside = 8 * (thread_index_in_threadgroup + e * 32 * SIMDGROUPS) < D;
        #pragma unroll
        for (uint i = 0; i < 8; i++) {
          float v = 0.0f;
          if (inside) {
            #pragma unroll
            for (uint j = 0; j < N; j++) { v += gates[j] * channels[e][j][i]; }
            v = float(static_cast<T>(v));
          }
          channels[e][0][i] = v;
          squares += v * v;
        }
      }
      squares = metal::simd_sum(squares);
      if (lane == 0) { parts[simdgroup] = squares; }
      threadgroup_barrier(mem_flags::mem_threadgroup);
      squares = 0.0f;
      for (uint s = 0; s < SIMDGROUPS; s++) { squares += parts[s]; }
      scaling = metal::rsqrt(squares / float(D) + eps);
      #pragma unroll
      for (uint e = 0; e < EACH; e++) {
        uint channel = 8 * (thread_index_in_threadgroup + e * 32 * SIMDGROUPS);
        if (channel < D) {
          #pragma unroll
          for (uint i = 0; i < 8; i++) {
            x[token * D + channel + i] = static_cast<T>(channels[e][0][i] * scaling * weights[e][i]);
          }
        }
      }"""

_BEGIN = """
    threadgroup float totals[M + 1];
    threadgroup float parts[SIMDGROUPS];
    uint lane = thread_index_in_simdgroup;
    uint simdgroup = simdgroup_index_in_threadgroup;
    uint token = threadgroup_position_in_grid.x;
    const device float* of_token = sums + token * (M + 1) * TILES;
    if (threadgroup_position_in_grid.y == 0) {"""

_GATES = """
    } else {
      uint m = 2 * N + lane % (N * N);
      float own = base[m];
      float posts = base[N + lane % N];
      float factor = scale[2];
      float post = scale[1];
      total<M, N, M, TILES, SIMDGROUPS>(of_token, simdgroup, lane, totals);
      threadgroup_barrier(mem_flags::mem_threadgroup);
      if (simdgroup == 0) {
        float scaling = metal::rsqrt(totals[M] / float(N * D) + eps);
        float comb = sinkhorn<N, ITERATIONS>(totals[m] * scaling * factor + own, hc_eps);
        device float* gates = mix + token * (N + N * N);
        if (lane < N) { gates[lane] = 2.0f * sigmoid(totals[N + lane] * scaling * post + posts); }
        if (lane < N * N) { gates[N + lane] = comb; }
      }
    }"""


def fits(streams: int) -> bool:
    """Whether the kernels know this number of streams: a power of two whose square a simdgroup holds."""
    return streams in (2, 4)


def _template(h: mx.array, rows: int, simdgroups: int) -> list[tuple[str, TemplateValue]]:
    n, width = h.shape[1:]
    return [("T", h.dtype), ("M", rows), ("N", n), ("D", width), ("TILE", TILE), ("SIMDGROUPS", simdgroups)]


def _sums_launch(h: mx.array, fn: mx.array) -> Launch:
    tiles, threads = -(-h.shape[2] // TILE), 32 * _SIMDGROUPS
    return Launch(
        [*_template(h, fn.shape[0], _SIMDGROUPS), ("TOKENS", h.shape[0])],
        (threads * tiles, 1, 1),
        (threads, 1, 1),
        [(h.shape[0], fn.shape[0] + 1, tiles)],
        [mx.float32],
    )


def return_launch(h: mx.array, fn: mx.array) -> Launch:
    """A threadgroup per tile, `ROWS` of its channels a simdgroup; streams like h, their sums for the site with fn."""
    sums = _sums_launch(h, fn)
    return sums._replace(output_shapes=[h.shape, *sums.output_shapes], output_dtypes=[h.dtype, *sums.output_dtypes])


def _dense_return_launch(u: mx.array, h: mx.array, mix: mx.array, fn: mx.array, *arrays: mx.array) -> Launch:
    launch = return_launch(h, fn)
    return launch._replace(template=[*launch.template, ("K", u.shape[1]), ("ROWS", ROWS), ("AHEAD", _RETURN_AHEAD)])


def _enter_launch(iterations: int, h: mx.array, sums: mx.array, *rest: mx.array) -> Launch:
    tokens, n, width = h.shape
    threads = min(_MOST_THREADS, 32 * -(-width // 256))
    leaving = iterations == 0
    template = [*_template(h, sums.shape[1] - 1, threads // 32), ("EACH", -(-width // (8 * threads)))]
    template.append(("TILES", sums.shape[2]))  # or spans
    return Launch(
        template if leaving else [*template, ("ITERATIONS", iterations)],
        (threads * tokens, 1 if leaving else 2, 1),
        (threads, 1, 1),
        [(tokens, width), *([] if leaving else [(tokens, n + n * n)])],
        [h.dtype, *([] if leaving else [mx.float32])],
    )


# h [T, N, D], fn float32 [M, N * D] -> what a site needs of streams, see stream_twins.
SITE_SUMS = Kernel(
    KernelText("site_sums", ("h", "fn"), ("sums",), _SITE_SUMS, STREAM_TEXT),
    site_sums_twin,
    _sums_launch,
    samples.site_sums_samples,
)

_SITE = ("h", "sums", "base", "scale", "norm", "eps", "hc_eps")


@cache
def enter_kernel(iterations: int) -> Kernel:
    """(h [T, N, D], sums of the site, base, scale, the norm's weight [D], eps and hc_eps float32 []) -> a sublayer's
    normed input [T, D] and what `return` needs, float32 [T, N + N * N].
    """
    return Kernel(
        KernelText("site_enter", _SITE, ("x", "mix"), _BEGIN + _INPUT + _GATES, LOAD_8 + _ENTER_HEADER),
        partial(enter_twin, iterations),
        partial(_enter_launch, iterations),
        samples.enter_samples,
    )


# The same for the last collapse, whose sums have N rows -> the output matrix's input [T, D].
LEAVE = Kernel(
    KernelText("site_leave", _SITE, ("x",), f"{_BEGIN}{_INPUT}\n    }}", LOAD_8 + _ENTER_HEADER),
    leave_twin,
    partial(_enter_launch, 0),
    samples.leave_samples,
)


@cache
def dense_return_kernel(storage: str) -> Kernel:
    """(u [T, K], h [T, N, D], mix of `enter`, fn of the next site, arrays of a matrix [D, K]) -> streams with the
    product in them, and their sums.
    """
    inputs = ("u", "h", "mix", "fn", *arrays_of(storage, "w"))
    body = _DENSE_RETURN.format(matrix=matrix_text(storage, "w"), type=matrix_type(storage))
    header = LOAD_8 + products_text([storage]) + STREAM_TEXT
    return Kernel(
        KernelText(f"return_{storage}", inputs, ("streams", "sums"), body, header),
        partial(dense_return_twin, storage),
        _dense_return_launch,
        partial(samples.dense_return_samples, storage),
    )
