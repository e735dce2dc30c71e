"""The indexer for many queries: the scores of `index_rows.py` as a product of tiles.

A simdgroup decodes 32 keys into registers, as left operands of the larger blocks of `tensor_text.py`, and keeps them
while the queries of many tokens pass: the heads of one token at a time, in threadgroup memory, those of the next one
read ahead. Products of a token's heads are cut at zero, weighted and added where they are, so that one number per key
leaves the registers. Queries and keys are FP4 numbers times powers of two, which halves hold exactly.

Keys that no query of a threadgroup sees cost it nothing but the zeros in their place.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from ds4_mlx.kernels.index_rows import SCORES_INPUTS, scores_template
from ds4_mlx.kernels.index_samples import index_tiles_samples
from ds4_mlx.kernels.index_twins import PER_PAGE, index_scores_twin
from ds4_mlx.kernels.kernel import Kernel, Launch
from ds4_mlx.kernels.metal_on_cuda import KernelText
from ds4_mlx.kernels.tensor_text import TENSORS
from ds4_mlx.kernels.unpack_rows import DECODE
from ds4_mlx.kernels.vectors_text import VECTORS

_SIMDGROUPS = 8
_KEYS = 32  # of a simdgroup: one a lane when scores are written
_FEWEST, _MOST = 8, 64  # queries of a threadgroup

_SCORES = """
    constexpr uint ROWS = (HEADS + 7) / 8 * 8;
    constexpr uint STRIDE = WIDTH + 8;  // a gap, so that rows fall into different banks
    constexpr uint ALONG = 40;
    constexpr uint THREADS = 32 * SIMDGROUPS;
    constexpr uint CHUNKS = (ROWS * WIDTH / 8 + THREADS - 1) / THREADS;  // of 8 channels of a query, per thread
    constexpr uint BLOCKS = KEYS / 16;
    threadgroup float places[64];
    threadgroup uint4 aligned_heads[ROWS * STRIDE / 8];  // queries of a token [ROWS][STRIDE]
    threadgroup uint4 aligned_staged[SIMDGROUPS * 16 * ALONG / 8];  // 32 columns of 16 keys of each simdgroup
    threadgroup float factors[ROWS];
    threadgroup float parts[SIMDGROUPS * KEYS * 4];
    threadgroup half* heads = (threadgroup half*)aligned_heads;
    uint lane = thread_index_in_simdgroup;
    uint simdgroup = simdgroup_index_in_threadgroup;
    uint thread_number = thread_index_in_threadgroup;
    threadgroup half* staged = (threadgroup half*)aligned_staged + simdgroup * 16 * ALONG;
    threadgroup float* own = parts + simdgroup * KEYS * 4;
    uint count = uint(pages_shape[1]) * PER_PAGE;
    uint tokens = uint(index_shape[0]);
    uint group_key0 = threadgroup_position_in_grid.x * SIMDGROUPS * KEYS;
    uint key0 = group_key0 + simdgroup * KEYS;
    uint token0 = threadgroup_position_in_grid.y * TOKENS;
    uint stop = metal::min(token0 + TOKENS, tokens);

    for (uint i = thread_number; i < 64; i += THREADS) { places[i] = float(i); }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_matrix<float, 8, 8> place;
    simdgroup_load(place, places, 8);
    uint row = uint(place.thread_elements()[0]) / 8;
    uint column = uint(place.thread_elements()[0]) % 8;
    // Scaled in the dtype of the activations, as the reference does.
    float scaling = float(static_cast<T>(metal::rsqrt(float(WIDTH)) * metal::rsqrt(float(HEADS))));

    float ahead[CHUNKS][8];
    #pragma unroll
    for (uint c = 0; c < CHUNKS; c++) {
      read_query<HEADS, WIDTH>(index, token0, c * THREADS + thread_number, ahead[c]);
    }
    Left32<half> keys[BLOCKS][WIDTH / 32];
    uint sequence = 0xffffffffu;  // whose keys they are
    for (uint token = token0; token < stop; token++) {
      uint visible = metal::min(queries[4 * token + 3] / 4, count);
      if (group_key0 < visible) {
        #pragma unroll
        for (uint c = 0; c < CHUNKS; c++) {
          uint i = c * THREADS + thread_number;
          if (i < ROWS * WIDTH / 8) { store_8(heads + i / (WIDTH / 8) * STRIDE + i % (WIDTH / 8) * 8, ahead[c]); }
        }
        for (uint i = thread_number; i < ROWS; i += THREADS) {
          factors[i] = i < HEADS ? float(static_cast<T>(float(weights[token * HEADS + i]) * scaling)) : 0.0f;
        }
        if (queries[4 * token] != sequence) {
          sequence = queries[4 * token];
          #pragma unroll
          for (uint b = 0; b < BLOCKS; b++) {
            uint key = metal::min(key0 + 16 * b + lane / 2, count - 1);
            size_t at = size_t(pages[sequence * uint(pages_shape[1]) + key / PER_PAGE]) * PER_PAGE + key % PER_PAGE;
            #pragma unroll
            for (uint s = 0; s < WIDTH / 32; s++) {
              float scale = block_scale(exponents[at * (WIDTH / 32) + s]);
              #pragma unroll
              for (uint i = 0; i < 2; i++) {
                uint word = ((const device uint*)codes)[at * (WIDTH / 8) + 4 * s + lane % 2 * 2 + i];
                float v[8];
                #pragma unroll
                for (uint j = 0; j < 8; j++) { v[j] = e2m1_value(word >> (4 * j)) * scale; }
                store_8(staged + lane / 2 * ALONG + lane % 2 * 16 + 8 * i, v);
              }
              simdgroup_barrier(mem_flags::mem_threadgroup);
              load_left(keys[b][s], staged, ALONG);
              simdgroup_barrier(mem_flags::mem_threadgroup);
            }
          }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
      }
      #pragma unroll
      for (uint c = 0; c < CHUNKS; c++) {
        read_query<HEADS, WIDTH>(index, metal::min(token + 1, stop - 1), c * THREADS + thread_number, ahead[c]);
      }
      if (key0 < visible) {
        float sums[BLOCKS][2];
        #pragma unroll
        for (uint b = 0; b < BLOCKS; b++) { sums[b][0] = sums[b][1] = 0.0f; }
        #pragma unroll 2
        for (uint h = 0; h < ROWS; h += 8) {
          simdgroup_matrix<float, 8, 8> products[BLOCKS][2];
          #pragma unroll
          for (uint b = 0; b < BLOCKS; b++) {
            products[b][0] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
            products[b][1] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
          }
          #pragma unroll
          for (uint s = 0; s < WIDTH / 32; s++) {
            Right32<half> right;
            load_right(right, heads + h * STRIDE + 32 * s, STRIDE);
            #pragma unroll
            for (uint b = 0; b < BLOCKS; b++) { multiply_32(products[b][0], products[b][1], keys[b][s], right); }
          }
          float first = factors[h + column];
          float second = factors[h + column + 1];
          #pragma unroll
          for (uint b = 0; b < BLOCKS; b++) {
            #pragma unroll
            for (uint i = 0; i < 2; i++) {
              sums[b][i] += first * metal::max(products[b][i].thread_elements()[0], 0.0f);
              sums[b][i] += second * metal::max(products[b][i].thread_elements()[1], 0.0f);
            }
          }
        }
        #pragma unroll
        for (uint b = 0; b < BLOCKS; b++) {
          #pragma unroll
          for (uint i = 0; i < 2; i++) { own[4 * (16 * b + 8 * i + row) + column / 2] = sums[b][i]; }
        }
      }
      simdgroup_barrier(mem_flags::mem_threadgroup);
      if (key0 + lane < count) {
        uint i = 4 * lane;
        scores[size_t(token) * count + key0 + lane] =
            key0 + lane < visible ? own[i] + own[i + 1] + own[i + 2] + own[i + 3] : 0.0f;
      }
      if (group_key0 < visible) { threadgroup_barrier(mem_flags::mem_threadgroup); }
    }
"""

# Channels 8 * i to 8 * i + 7 of all heads of a token; zeros for heads beyond the last.
_HEADER = """
template <uint HEADS, uint WIDTH, typename T>
METAL_FUNC void read_query(const device T* index, uint token, uint i, thread float* v) {
  if (i < HEADS * WIDTH / 8) {
    load_8(index + size_t(token) * HEADS * WIDTH + 8 * i, v);
  } else {
    #pragma unroll
    for (uint j = 0; j < 8; j++) { v[j] = 0.0f; }
  }
}
"""


def _launch(
    index: mx.array, weights: mx.array, queries: mx.array, pages: mx.array, codes: mx.array, exponents: mx.array
) -> Launch:
    tokens, count = index.shape[0], pages.shape[1] * PER_PAGE
    # Few queries are spread over more threadgroups, though keys are decoded more often then.
    each = min(_MOST, max(_FEWEST, 1 << (tokens // 32).bit_length() - 1 if tokens >= 32 else 0))
    threads = 32 * _SIMDGROUPS
    return Launch(
        [
            *scores_template(index, weights),
            ("KEYS", _KEYS),
            ("TOKENS", each),
            ("SIMDGROUPS", _SIMDGROUPS),
        ],
        (threads * -(-count // (_KEYS * _SIMDGROUPS)), -(-tokens // each), 1),
        (threads, 1, 1),
        [(tokens, count)],
        [mx.float32],
    )


# The inputs and outputs of `INDEX_SCORES`, widths a multiple of 32.
INDEX_TILES = Kernel(
    KernelText(
        "index_tiles",
        SCORES_INPUTS,
        ("scores",),
        _SCORES,
        VECTORS + TENSORS + DECODE + _HEADER,
    ),
    index_scores_twin,
    _launch,
    index_tiles_samples,
)


def query_blocks(tokens: int, pages: int) -> Sequence[slice]:
    """Queries to score at once, so that their scores stay within `_SCORE_BYTES` however long the sequences."""
    step = max(_MOST, _SCORE_BYTES // (4 * PER_PAGE * pages))
    return [slice(start, min(start + step, tokens)) for start in range(0, tokens, step)]


_SCORE_BYTES = 1 << 28  # 2,048 queries at 128 k tokens of context
