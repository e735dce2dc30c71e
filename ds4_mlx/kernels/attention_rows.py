"""What happens to the rows of a few tokens before they attend: one launch for queries, window and index queries.

- Queries: unit RMS norm per head, RoPE.
- K=V rows: RMS norm, RoPE, rounded and packed into the window. MLX's arrays are values, so a window that takes a row is
  a new array: the rows that stay are copied along, 75 KB a layer, in place of six operations that cut and join parts.
- Index queries (ratio 4): RoPE, Hadamard rotation, FP4 round trip.

A simdgroup takes a row. Its lanes hold neighbouring channels in pairs, which is what RoPE turns; a block of 64 is one
of K=V's scales or two of the index's.
"""

from __future__ import annotations

from functools import cache

import mlx.core as mx

from ds4_mlx.kernels.attention_samples import attention_rows_samples
from ds4_mlx.kernels.attention_twins import attention_rows_twin
from ds4_mlx.kernels.kernel import Kernel, Launch
from ds4_mlx.kernels.metal_on_cuda import KernelText
from ds4_mlx.kernels.metal_on_cuda.signature import TemplateValue
from ds4_mlx.kernels.pack_rows import ENCODE
from ds4_mlx.kernels.unpack_rows import DECODE

_SIMDGROUPS = 8  # per threadgroup

# For kernels that hold channels in pairs.
PAIRS = """
template <typename T>
METAL_FUNC float2 rounded(float2 v) { return float2(float(static_cast<T>(v.x)), float(static_cast<T>(v.y))); }

METAL_FUNC float2 turned(float2 v, float cosine, float sine) {
  return float2(v.x * cosine - v.y * sine, v.x * sine + v.y * cosine);
}
"""

# Two blocks of 32 in 64 channels, a half of the simdgroup each.
ROUND_INDEX = """
METAL_FUNC uint index_exponent(float2 v) {
  uint amax = metal::max(magnitude_bits(v.x), magnitude_bits(v.y));
  for (ushort distance = 1; distance < 16; distance *= 2) {
    amax = metal::max(amax, simd_shuffle_xor(amax, distance));
  }
  return block_exponent(amax, 1.0f / 6.0f, 1u);
}

// Hadamard's transform (Sylvester's order) of BLOCKS * 64 channels, or of WIDTH < 64 in the first lanes. Not scaled.
template <int WIDTH, int BLOCKS>
METAL_FUNC void hadamard(thread float2* v, uint lane) {
  for (uint b = 0; b < BLOCKS; b++) {
    v[b] = float2(v[b].x + v[b].y, v[b].x - v[b].y);
    for (ushort apart = 1; apart < 32 && 2 * apart < WIDTH; apart *= 2) {
      float2 other = float2(simd_shuffle_xor(v[b].x, apart), simd_shuffle_xor(v[b].y, apart));
      v[b] = (lane & apart) == 0 ? v[b] + other : other - v[b];
    }
  }
  for (uint apart = 1; apart < BLOCKS; apart *= 2) {
    for (uint b = 0; b < BLOCKS; b++) {
      if ((b & apart) == 0) {
        float2 first = v[b];
        v[b] = first + v[b + apart];
        v[b + apart] = first - v[b + apart];
      }
    }
  }
}
"""

_BODY = """
    constexpr uint BLOCKS = (WIDTH + 63) / 64;
    uint lane = thread_index_in_simdgroup;
    uint number = threadgroup_position_in_grid.x * SIMDGROUPS + simdgroup_index_in_threadgroup;
    uint queries = uint(q_shape[0]) * HEADS;
    uint kept = uint(sources_shape[0]);
    if (number < queries + kept) {
      bool is_query = number < queries;
      uint to = number - queries;
      int source = is_query ? -1 - int(number / HEADS) : sources[to];
      if (source < 0) {
        uint token = uint(-1 - source);
        const device T* x = is_query ? q + size_t(number) * WIDTH : kv + size_t(token) * WIDTH;
        float2 v[BLOCKS];
        float sum = 0.0f;
        #pragma unroll
        for (uint b = 0; b < BLOCKS; b++) {
          uint c = 64 * b + 2 * lane;
          v[b] = c < WIDTH ? float2(float(x[c]), float(x[c + 1])) : float2(0.0f);
          sum += v[b].x * v[b].x + v[b].y * v[b].y;
        }
        float scale = metal::rsqrt(simd_sum(sum) / float(WIDTH) + eps);
        #pragma unroll
        for (uint b = 0; b < BLOCKS; b++) {
          uint c = 64 * b + 2 * lane;
          if (c < WIDTH) {
            v[b] = v[b] * scale;
            if (!is_query) { v[b] = v[b] * float2(float(weight[c]), float(weight[c + 1])); }
            v[b] = rounded<T>(v[b]);
            if (c >= NOPE) {
              uint angle = token * uint((WIDTH - NOPE) / 2) + (c - NOPE) / 2;
              v[b] = turned(v[b], cosines[angle], sines[angle]);
            }
            if (is_query) {
              queries_out[size_t(number) * WIDTH + c] = static_cast<T>(v[b].x);
              queries_out[size_t(number) * WIDTH + c + 1] = static_cast<T>(v[b].y);
            } else if (c >= NOPE) {
              tail[size_t(to) * (WIDTH - NOPE) + c - NOPE] = static_cast<T>(v[b].x);
              tail[size_t(to) * (WIDTH - NOPE) + c - NOPE + 1] = static_cast<T>(v[b].y);
            }
          }
          if (!is_query && b < NOPE / 64) {
            uint exponent = block_exponent(
                simd_max(metal::max(magnitude_bits(v[b].x), magnitude_bits(v[b].y))), 1.0f / 448.0f, 105u);
            codes[size_t(to) * NOPE + c] = uchar(e4m3_code(v[b].x, exponent));
            codes[size_t(to) * NOPE + c + 1] = uchar(e4m3_code(v[b].y, exponent));
            if (lane == 0) { exponents[size_t(to) * (NOPE / 64) + b] = uchar(exponent); }
          }
        }
      } else {
        for (uint i = lane; i < NOPE / 4; i += 32) {
          ((device uint*)codes)[size_t(to) * (NOPE / 4) + i] =
              ((const device uint*)old_codes)[size_t(source) * (NOPE / 4) + i];
        }
        for (uint i = lane; i < NOPE / 64; i += 32) {
          exponents[size_t(to) * (NOPE / 64) + i] = old_exponents[size_t(source) * (NOPE / 64) + i];
        }
        for (uint i = lane; i < WIDTH - NOPE; i += 32) {
          tail[size_t(to) * (WIDTH - NOPE) + i] = old_tail[size_t(source) * (WIDTH - NOPE) + i];
        }
      }
    }
"""

_INDEX_BODY = """
    uint index_row = number - queries - kept;
    if (number >= queries + kept && index_row < uint(index_shape[0]) * INDEX_HEADS) {
      constexpr uint INDEX_BLOCKS = (INDEX_WIDTH + 63) / 64;
      uint token = index_row / INDEX_HEADS;
      size_t first = size_t(index_row) * INDEX_WIDTH;
      float2 v[INDEX_BLOCKS];
      #pragma unroll
      for (uint b = 0; b < INDEX_BLOCKS; b++) {
        uint c = 64 * b + 2 * lane;
        v[b] = c < INDEX_WIDTH ? float2(float(index[first + c]), float(index[first + c + 1])) : float2(0.0f);
        uint turn = c + uint(WIDTH - NOPE) - INDEX_WIDTH;  // beyond what is turned if negative
        if (turn < uint(WIDTH - NOPE)) {
          uint angle = token * uint((WIDTH - NOPE) / 2) + turn / 2;
          v[b] = rounded<T>(turned(v[b], cosines[angle], sines[angle]));
        }
      }
      hadamard<INDEX_WIDTH, INDEX_BLOCKS>(v, lane);
      #pragma unroll
      for (uint b = 0; b < INDEX_BLOCKS; b++) {
        uint c = 64 * b + 2 * lane;
        v[b] = rounded<T>(v[b] * metal::rsqrt(float(INDEX_WIDTH)));
        uint exponent = index_exponent(v[b]);
        float scale = block_scale(exponent);
        if (c < INDEX_WIDTH) {
          index_out[first + c] = static_cast<T>(e2m1_value(e2m1_code(v[b].x, exponent)) * scale);
          index_out[first + c + 1] = static_cast<T>(e2m1_value(e2m1_code(v[b].y, exponent)) * scale);
        }
      }
    }
"""


def _launch(
    q: mx.array,
    kv: mx.array,
    weight: mx.array,
    cos: mx.array,
    sin: mx.array,
    eps: mx.array,
    sources: mx.array,
    *rest: mx.array,
) -> Launch:
    (tokens, heads, width), (old_codes, _, _), index = q.shape, rest[:3], rest[3:]
    nope, kept = old_codes.shape[-1], sources.shape[0]
    template: list[tuple[str, TemplateValue]] = [
        ("T", q.dtype),
        ("HEADS", heads),
        ("WIDTH", width),
        ("NOPE", nope),
        ("SIMDGROUPS", _SIMDGROUPS),
    ]
    rows, index_shapes = tokens * heads + kept, [x.shape for x in index]
    for _, index_heads, index_width in index_shapes:
        template += [("INDEX_HEADS", index_heads), ("INDEX_WIDTH", index_width)]
        rows += tokens * index_heads
    shapes = [q.shape, (kept, nope), (kept, nope // 64), (kept, width - nope), *index_shapes]
    threads = 32 * _SIMDGROUPS
    return Launch(
        template,
        (threads * -(-rows // _SIMDGROUPS), 1, 1),
        (threads, 1, 1),
        shapes,
        [q.dtype, mx.uint8, mx.uint8, q.dtype, *(q.dtype for _ in index)],
    )


@cache
def attention_rows_kernel(*, indexed: bool) -> Kernel:
    """(q [T, H, d], kv [T, d], weight [d] of kv's norm, cosines and sines float32 [T, r / 2], eps float32 [], sources
    int32 [O], and the parts of W old window rows; with `indexed` also index queries [T, IH, e])
    -> queries [T, H, d], the parts of O window rows, index queries [T, IH, e].

    Window row o is old row sources[o], or, where that is negative, the row of token -1 - sources[o].
    """
    names = ["q", "kv", "weight", "cosines", "sines", "eps", "sources", "old_codes", "old_exponents", "old_tail"]
    outputs = ["queries_out", "codes", "exponents", "tail"]
    text = KernelText(
        "attention_rows_indexed" if indexed else "attention_rows",
        (*names, *(["index"] if indexed else [])),
        (*outputs, *(["index_out"] if indexed else [])),
        _BODY + (_INDEX_BODY if indexed else ""),
        PAIRS + ENCODE + (DECODE + ROUND_INDEX if indexed else ""),
    )
    return Kernel(text, attention_rows_twin, _launch, lambda: attention_rows_samples(indexed=indexed))
