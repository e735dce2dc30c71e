"""The indexer for few queries: scores over packed keys found through a page table, and the best of them, exactly.

`INDEX_SCORES`: a simdgroup decodes 16 keys into the registers of simdgroup matrices and multiplies them with all heads
of a query, which lie in threadgroup memory; what remains of the products, weighted, is one number per key. Queries and
keys are FP4 numbers times powers of two, so halves hold them exactly from 2^-23 to 2^13, and their products too.

`best_entries_kernel`: the numbers of the largest scores, ascending; among equal ones the earlier. A threadgroup holds
its entries in registers and finds the threshold bit by bit, from the highest down: a bit is set if that leaves enough
entries. It ends as soon as the count is right. Nothing is sorted. Up to 16,384 entries (64 k tokens) one threadgroup
does it, for what 512 threads hold in registers ends there; more are first reduced to the best of every 4,096, which
cannot lose one of the best.

The number of pages sets all shapes, so they change as often as the page table is lengthened.
"""

from __future__ import annotations

from functools import cache, partial

import mlx.core as mx

from ds4_mlx.kernels.index_samples import best_entries_samples, index_scores_samples
from ds4_mlx.kernels.index_twins import PER_PAGE, best_entries_twin, index_scores_twin
from ds4_mlx.kernels.kernel import Kernel, Launch
from ds4_mlx.kernels.metal_on_cuda import KernelText
from ds4_mlx.kernels.metal_on_cuda.signature import TemplateValue
from ds4_mlx.kernels.unpack_rows import DECODE

_SIMDGROUPS = 8
_KEYS = 16  # of a simdgroup at once
_GROUPS = 128  # threadgroups of a query, at most

_SCORES = """
    constexpr uint FRAGS = WIDTH / 8;
    constexpr uint BLOCKS = (HEADS + 7) / 8;
    constexpr uint ACROSS = 8 * BLOCKS + 8;
    threadgroup float places[64];
    threadgroup half turned_queries[WIDTH * ACROSS];  // [column of a matrix of keys][head]
    threadgroup float factors[8 * BLOCKS];
    threadgroup float parts[SIMDGROUPS * KEYS * 4];
    uint lane = thread_index_in_simdgroup;
    uint simdgroup = simdgroup_index_in_threadgroup;
    uint token = threadgroup_position_in_grid.y;
    uint count = uint(pages_shape[1]) * PER_PAGE;
    uint visible = metal::min(queries[4 * token + 3] / 4, count);

    for (uint i = thread_index_in_threadgroup; i < 64; i += 32 * SIMDGROUPS) { places[i] = float(i); }
    // Column j of matrix f is channel FRAGS * j + f: a lane reads neighbouring channels of a key.
    for (uint i = thread_index_in_threadgroup; i < 8 * BLOCKS * WIDTH; i += 32 * SIMDGROUPS) {
      uint head = i / WIDTH;
      uint channel = i % WIDTH;
      float value = head < HEADS ? float(index[(token * HEADS + head) * WIDTH + channel]) : 0.0f;
      turned_queries[(channel % FRAGS * 8 + channel / FRAGS) * ACROSS + head] = half(value);
    }
    for (uint i = thread_index_in_threadgroup; i < 8 * BLOCKS; i += 32 * SIMDGROUPS) {
      // Scaled in the dtype of the activations, as the reference does.
      float scale = float(static_cast<T>(metal::rsqrt(float(WIDTH)) * metal::rsqrt(float(HEADS))));
      factors[i] = i < HEADS ? float(static_cast<T>(float(weights[token * HEADS + i]) * scale)) : 0.0f;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_matrix<float, 8, 8> place;
    simdgroup_load(place, places, 8);
    uint row = uint(place.thread_elements()[0]) / 8;
    uint column = uint(place.thread_elements()[0]) % 8;

    threadgroup float* own = parts + simdgroup * KEYS * 4;
    uint step = KEYS * SIMDGROUPS * uint(threadgroups_per_grid.x);
    for (uint key0 = KEYS * (threadgroup_position_in_grid.x * SIMDGROUPS + simdgroup); key0 < count; key0 += step) {
      if (key0 < visible) {
        simdgroup_matrix<half, 8, 8> keys[KEYS / 8][FRAGS];
        float sums[KEYS / 8];
        #pragma unroll
        for (uint b = 0; b < KEYS / 8; b++) {
          uint key = metal::min(key0 + 8 * b + row, visible - 1);
          size_t page = pages[queries[4 * token] * uint(pages_shape[1]) + key / PER_PAGE];
          size_t at = page * PER_PAGE + key % PER_PAGE;
          float v[2 * FRAGS];
          #pragma unroll
          for (uint i = 0; i < FRAGS / 4; i++) {
            uint channel = FRAGS * column + 8 * i;
            uint word = ((const device uint*)codes)[at * (WIDTH / 8) + channel / 8];
            float scale = block_scale(exponents[at * (WIDTH / 32) + channel / 32]);
            #pragma unroll
            for (uint j = 0; j < 8; j++) { v[8 * i + j] = e2m1_value(word >> (4 * j)) * scale; }
          }
          #pragma unroll
          for (uint f = 0; f < FRAGS; f++) {
            keys[b][f].thread_elements()[0] = half(v[f]);
            keys[b][f].thread_elements()[1] = half(v[f + FRAGS]);
          }
          sums[b] = 0.0f;
        }
        for (uint h = 0; h < BLOCKS; h++) {
          simdgroup_matrix<float, 8, 8> products[KEYS / 8];
          #pragma unroll
          for (uint b = 0; b < KEYS / 8; b++) { products[b] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f); }
          #pragma unroll
          for (uint f = 0; f < FRAGS; f++) {
            simdgroup_matrix<half, 8, 8> heads;
            simdgroup_load(heads, turned_queries + 8 * f * ACROSS + 8 * h, ACROSS);
            #pragma unroll
            for (uint b = 0; b < KEYS / 8; b++) {
              simdgroup_multiply_accumulate(products[b], keys[b][f], heads, products[b]);
            }
          }
          #pragma unroll
          for (uint b = 0; b < KEYS / 8; b++) {
            sums[b] += factors[8 * h + column] * metal::max(products[b].thread_elements()[0], 0.0f);
            sums[b] += factors[8 * h + column + 1] * metal::max(products[b].thread_elements()[1], 0.0f);
          }
        }
        #pragma unroll
        for (uint b = 0; b < KEYS / 8; b++) { own[4 * (8 * b + row) + column / 2] = sums[b]; }
        simdgroup_barrier(mem_flags::mem_threadgroup);
      }
      if (lane < KEYS && key0 + lane < count) {
        uint i = 4 * lane;
        scores[size_t(token) * count + key0 + lane] =
            key0 + lane < visible ? own[i] + own[i + 1] + own[i + 2] + own[i + 3] : 0.0f;
      }
      simdgroup_barrier(mem_flags::mem_threadgroup);
    }
"""

_BEST = """
    threadgroup uint counts[2 * SIMDGROUPS];  // of one bit and of the next, in turns
    uint lane = thread_index_in_simdgroup;
    uint simdgroup = simdgroup_index_in_threadgroup;
    uint chunk = threadgroup_position_in_grid.x;
    uint token = threadgroup_position_in_grid.y;
    uint count = uint(scores_shape[1]);
    size_t row = size_t(token) * count;
    uint first = chunk * 32 * SIMDGROUPS * VALUES + thread_index_in_threadgroup * VALUES;
    uint keys[VALUES];  // in the order of the scores; 0 for what nobody sees
    #pragma unroll
    for (uint i = 0; i < VALUES; i++) {
      keys[i] = 0u;
      if (first + i < count && {visible}) {
        float score = scores[row + first + i];
        uint bits = as_type<uint>(score == 0.0f ? 0.0f : score);
        keys[i] = bits ^ ((bits >> 31) != 0u ? 0xffffffffu : 0x80000000u);
      }
    }
    // The largest number that at least TOPK keys reach, or 1.
    uint threshold = 1u;
    uint turn = 0;
    for (uint bit = 0x80000000u; bit != 0u; bit >>= 1) {
      uint raised = (threshold & ~1u) | bit;
      uint reaching = 0;
      #pragma unroll
      for (uint i = 0; i < VALUES; i++) { reaching += keys[i] >= raised ? 1u : 0u; }
      reaching = simd_sum(reaching);
      if (lane == 0) { counts[turn * SIMDGROUPS + simdgroup] = reaching; }
      threadgroup_barrier(mem_flags::mem_threadgroup);
      uint all = 0;
      for (uint s = 0; s < SIMDGROUPS; s++) { all += counts[turn * SIMDGROUPS + s]; }
      if (all >= TOPK) { threshold = raised; }
      turn = 1 - turn;
      if (all == TOPK) { break; }
    }
    // How many are above the threshold (upper half) and at it, in this thread and in those before.
    uint mine = 0;
    #pragma unroll
    for (uint i = 0; i < VALUES; i++) {
      mine += keys[i] > threshold ? 0x10000u : keys[i] == threshold ? 1u : 0u;
    }
    uint before = simd_prefix_exclusive_sum(mine);
    if (lane == 31) { counts[turn * SIMDGROUPS + simdgroup] = before + mine; }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    uint all = 0;
    for (uint s = 0; s < SIMDGROUPS; s++) {
      if (s == simdgroup) { before += all; }
      all += counts[turn * SIMDGROUPS + s];
    }
    uint room = TOPK - (all >> 16);
    uint found = (all >> 16) + metal::min(all & 0xffffu, room);
    size_t to = (size_t(token) * uint(threadgroups_per_grid.x) + chunk) * TOPK;
    uint above = before >> 16;
    uint ties = before & 0xffffu;
    #pragma unroll
    for (uint i = 0; i < VALUES; i++) {
      bool tie = keys[i] == threshold;
      if (keys[i] > threshold || (tie && ties < room)) {
        size_t place = to + above + metal::min(ties, room);
        best[place] = {number};
        best_scores[place] = scores[row + first + i];
      }
      if (keys[i] > threshold) { above += 1; }
      if (tie) { ties += 1; }
    }
    for (uint i = found + thread_index_in_threadgroup; i < TOPK; i += 32 * SIMDGROUPS) {
      best[to + i] = 0xffffffffu;
      best_scores[to + i] = 0.0f;
    }
"""


SCORES_INPUTS = ("index", "weights", "queries", "pages", "codes", "exponents")


def scores_template(index: mx.array, weights: mx.array) -> list[tuple[str, TemplateValue]]:
    """What a kernel of index scores has to know of index queries [T, H, d] and head weights [T, H]."""
    _, heads, width = index.shape
    return [("T", weights.dtype), ("HEADS", heads), ("WIDTH", width), ("PER_PAGE", PER_PAGE)]


def _launch_scores(
    index: mx.array, weights: mx.array, queries: mx.array, pages: mx.array, codes: mx.array, exponents: mx.array
) -> Launch:
    tokens, count = index.shape[0], pages.shape[1] * PER_PAGE
    threads = 32 * _SIMDGROUPS
    return Launch(
        [*scores_template(index, weights), ("KEYS", _KEYS), ("SIMDGROUPS", _SIMDGROUPS)],
        (threads * min(_GROUPS, -(-count // (_KEYS * _SIMDGROUPS))), tokens, 1),
        (threads, 1, 1),
        [(tokens, count)],
        [mx.float32],
    )


# (index queries [T, H, d] as FP4 leaves them, what weights_proj gave [T, H], queries uint32 [T, 4] and pages uint32
# [B, P] as `attend_kernel` takes them, and the parts of the pool's index rows) -> scores float32 [T, 32 * P], 0 for
# what a query does not see.
INDEX_SCORES = Kernel(
    KernelText("index_scores", SCORES_INPUTS, ("scores",), _SCORES, DECODE),
    index_scores_twin,
    _launch_scores,
    index_scores_samples,
)

_THREADS = 512
_AT_ONCE = 16_384  # entries that one threadgroup reduces at most, if they are all
_CHUNK = 4_096  # entries of a threadgroup if there are more


def _launch_best(scores: mx.array, *_: mx.array, topk: int, chunk: int) -> Launch:
    tokens, count = scores.shape
    chunks = -(-count // chunk)
    shape = (tokens, chunks, topk)
    return Launch(
        [("TOPK", topk), ("VALUES", chunk // _THREADS), ("SIMDGROUPS", _THREADS // 32)],
        (_THREADS * chunks, tokens, 1),
        (_THREADS, 1, 1),
        [shape, shape],
        [mx.uint32, mx.float32],
    )


@cache
def best_entries_kernel(topk: int, chunk: int, *, given: bool) -> Kernel:
    """(scores float32 [T, N], queries uint32 [T, 4], and with `given` numbers uint32 [T, N]) -> numbers uint32 and
    scores float32 [T, C, topk] of the best of every `chunk` entries (a multiple of 512), in the order in which they
    came; `NO_ENTRY` and 0 where there are fewer.

    Without `given` the numbers are 0 to N - 1, and a query sees those of complete blocks of 4 tokens.
    """
    names = ["scores", "queries", *(["numbers"] if given else [])]
    source = _BEST.replace(
        "{visible}",
        "numbers[row + first + i] != 0xffffffffu" if given else "first + i < queries[4 * token + 3] / 4",
    ).replace("{number}", "numbers[row + first + i]" if given else "first + i")
    return Kernel(
        KernelText(f"best_{'of_given' if given else 'entries'}", tuple(names), ("best", "best_scores"), source),
        partial(best_entries_twin, topk, chunk),
        partial(_launch_best, topk=topk, chunk=chunk),
        lambda: best_entries_samples(given=given),
        exact=True,
    )


def best_entries(scores: mx.array, queries: mx.array, topk: int) -> mx.array:
    """scores float32 [T, N], queries uint32 [T, 4] -> the numbers of the best entries uint32 [T, topk], ascending;
    `NO_ENTRY` behind them where a query sees fewer.
    """
    best, best_scores = best_entries_kernel(topk, _chunk(scores.shape[1], topk), given=False)(scores, queries)
    while best.shape[1] > 1:
        numbers, scores = best.flatten(1), best_scores.flatten(1)
        kernel = best_entries_kernel(topk, _chunk(numbers.shape[1], topk), given=True)
        best, best_scores = kernel(scores, queries, numbers)
    return best.squeeze(1)


def _chunk(count: int, topk: int) -> int:
    """How many of `count` entries a threadgroup reduces: a power of two, so that there are few kinds. If not all, then
    at least twice `topk`, so that every round halves them.
    """
    wanted = count if count <= _AT_ONCE else max(_CHUNK, 2 * topk)
    return max(_THREADS, 1 << (wanted - 1).bit_length())
