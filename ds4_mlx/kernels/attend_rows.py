"""Attention of a few queries over packed rows: what the window holds, and entries found through a page table.

Two kernels. `attend` divides the keys of a query among SPLITS threadgroups per 16 heads, so that one token fills a GPU:
each keeps a running softmax and leaves its sums. `combine` joins them, adds the sink, turns back (inverse RoPE) and
rounds. How a query's keys are divided depends on nothing but their number: not on the other queries of the call.

K=V rows are 64 channels wide for a simdgroup, which is one of their blocks (or the RoPE tail): it decodes its part of a
key straight into the registers of simdgroup matrices and uses them for 16 heads, as K and again as V. Nothing of a row
goes through threadgroup memory, only scores do. Which channel is in which column of a matrix is ours to choose: column
j of matrix f is channel 8 j + f, so a lane reads 16 channels of a key, or 8 of a query, at once. Where in a matrix a
lane's elements are differs between GPUs, so it is looked up: a matrix that holds its own indices is loaded first.

Matrices hold halves unless activations are float. A half has all bits of a bfloat16 or FP8 value above 2^-17, and what
a norm made is far from 65504; probabilities, at most 1, are rounded by 2^-12. Sums are float.
"""

from __future__ import annotations

from functools import cache, partial

import mlx.core as mx

from ds4_mlx.kernels.attention_rows import PAIRS
from ds4_mlx.kernels.attention_samples import attend_samples, combine_samples
from ds4_mlx.kernels.attention_twins import SPLITS, attend_twin, combine_twin
from ds4_mlx.kernels.kernel import Kernel, Launch
from ds4_mlx.kernels.metal_on_cuda import KernelText
from ds4_mlx.kernels.unpack_rows import DECODE
from ds4_mlx.kernels.vectors_text import VECTORS

_HEADS = 16  # of a threadgroup
_KEYS = 32  # of a step: one per lane in the softmax

_HEADER = """
METAL_FUNC void decode_16(const device uint8_t* codes, float scale, thread float* v) {
  uint4 words = *((const device uint4*)codes);
  #pragma unroll
  for (uint i = 0; i < 16; i++) {
    uint word = i < 4 ? words.x : i < 8 ? words.y : i < 12 ? words.z : words.w;
    v[i] = e4m3_value((word >> (8 * (i % 4))) & 0xffu) * scale;
  }
}
"""

_ATTEND = """
    constexpr uint SIMDGROUPS = WIDTH / 64;
    constexpr uint OWN = (GROUP + SIMDGROUPS - 1) / SIMDGROUPS;  // heads whose softmax a simdgroup keeps
    constexpr uint PER_PAGE = RATIO == 0 ? 1 : 128 / RATIO;
    constexpr uint ACROSS = GROUP + 1;  // lanes read scores of one head: they are to be in different banks
    constexpr uint ALONG = KEYS + 8;
    threadgroup float places[64];
    threadgroup float scores[SIMDGROUPS * KEYS * ACROSS];  // [simdgroup][key][head]: what its channels add
    threadgroup H weights[GROUP * ALONG];                  // [head][key]
    threadgroup float shrink[GROUP];
    uint lane = thread_index_in_simdgroup;
    uint simdgroup = simdgroup_index_in_threadgroup;
    uint split = threadgroup_position_in_grid.x;
    uint head0 = threadgroup_position_in_grid.y * GROUP;
    uint token = threadgroup_position_in_grid.z;

    uint held = queries[4 * token + 2];
    uint visible = RATIO == 0 ? 0u : queries[4 * token + 3] / metal::max(uint(RATIO), 1u);
    uint count = held + (CHOSEN ? metal::min(visible, uint(chosen_shape[1])) : visible);
    uint blocks = (count + 7) / 8;
    uint key0 = blocks * split / SPLITS * 8;
    uint end = metal::min(count, blocks * (split + 1) / SPLITS * 8);

    for (uint i = thread_index_in_threadgroup; i < 64; i += 32 * SIMDGROUPS) { places[i] = float(i); }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_matrix<float, 8, 8> place;
    simdgroup_load(place, places, 8);
    uint row = uint(place.thread_elements()[0]) / 8;
    uint column = uint(place.thread_elements()[0]) % 8;  // of the lane's first element; the second is its neighbour

    // Turned over [channel][head]; and sums [head][channel].
    simdgroup_matrix<H, 8, 8> heads[GROUP / 8][8];
    simdgroup_matrix<float, 8, 8> sums[GROUP / 8][8];
    #pragma unroll
    for (uint h = 0; h < GROUP / 8; h++) {
      float first[8];
      float second[8];
      size_t head = head0 + 8 * h + column;
      size_t channel = 64 * simdgroup + 8 * row;
      load_8(q + (token * HEADS + metal::min(head, size_t(HEADS - 1))) * WIDTH + channel, first);
      load_8(q + (token * HEADS + metal::min(head + 1, size_t(HEADS - 1))) * WIDTH + channel, second);
      #pragma unroll
      for (uint f = 0; f < 8; f++) {
        heads[h][f].thread_elements()[0] = static_cast<H>(first[f]);
        heads[h][f].thread_elements()[1] = static_cast<H>(second[f]);
        sums[h][f] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
      }
    }
    float most[OWN];
    float total[OWN];
    #pragma unroll
    for (uint i = 0; i < OWN; i++) {
      most[i] = -INFINITY;
      total[i] = 0.0f;
    }

    for (; key0 < end; key0 += KEYS) {
      simdgroup_matrix<H, 8, 8> keys[KEYS / 8][8];  // [key][channel]
      #pragma unroll
      for (uint b = 0; b < KEYS / 8; b++) {
        if (key0 + 8 * b < end) {
          uint key = metal::min(key0 + 8 * b + row, end - 1);
          bool in_window = key < held;
          size_t at = key + queries[4 * token + 1];
          if (!in_window) {
            uint entry = CHOSEN ? chosen[token * uint(chosen_shape[1]) + key - held] : key - held;
            at = pages[queries[4 * token] * uint(pages_shape[1]) + entry / PER_PAGE] * PER_PAGE + entry % PER_PAGE;
          }
          float v[16];
          uint channel = 64 * simdgroup + 8 * column;
          if (channel < NOPE) {
            size_t block = at * (NOPE / 64) + simdgroup;
            float scale = block_scale(in_window ? window_exponents[block] : entry_exponents[block]);
            decode_16((in_window ? window_codes : entry_codes) + at * NOPE + channel, scale, v);
          } else {
            const device T* tail = (in_window ? window_tail : entry_tail) + at * (WIDTH - NOPE) + channel - NOPE;
            load_8(tail, v);
            load_8(tail + 8, v + 8);
          }
          #pragma unroll
          for (uint f = 0; f < 8; f++) {
            keys[b][f].thread_elements()[0] = static_cast<H>(v[f]);
            keys[b][f].thread_elements()[1] = static_cast<H>(v[f + 8]);
          }
          #pragma unroll
          for (uint h = 0; h < GROUP / 8; h++) {
            simdgroup_matrix<float, 8, 8> products = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
            #pragma unroll
            for (uint f = 0; f < 8; f++) { simdgroup_multiply_accumulate(products, keys[b][f], heads[h][f], products); }
            simdgroup_store(products, scores + (simdgroup * KEYS + 8 * b) * ACROSS + 8 * h, ACROSS);
          }
        }
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
      #pragma unroll
      for (uint i = 0; i < OWN; i++) {
        uint head = simdgroup + i * SIMDGROUPS;
        if (head >= GROUP) { continue; }
        float score = -INFINITY;
        if (key0 + lane < end) {
          score = 0.0f;
          for (uint s = 0; s < SIMDGROUPS; s++) { score += scores[(s * KEYS + lane) * ACROSS + head]; }
          score *= metal::rsqrt(float(WIDTH));
        }
        float top = metal::max(most[i], simd_max(score));
        float weight = metal::exp(score - top);
        float less = metal::exp(most[i] - top);
        total[i] = total[i] * less + simd_sum(weight);
        most[i] = top;
        weights[head * ALONG + lane] = static_cast<H>(weight);
        if (lane == 0) { shrink[head] = less; }
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
      #pragma unroll
      for (uint h = 0; h < GROUP / 8; h++) {
        float less = shrink[8 * h + row];
        #pragma unroll
        for (uint f = 0; f < 8; f++) {
          sums[h][f].thread_elements()[0] *= less;
          sums[h][f].thread_elements()[1] *= less;
        }
        #pragma unroll
        for (uint b = 0; b < KEYS / 8; b++) {
          if (key0 + 8 * b < end) {
            simdgroup_matrix<H, 8, 8> share;
            simdgroup_load(share, weights + 8 * h * ALONG + 8 * b, ALONG);
            #pragma unroll
            for (uint f = 0; f < 8; f++) { simdgroup_multiply_accumulate(sums[h][f], share, keys[b][f], sums[h][f]); }
          }
        }
      }
    }

    size_t to = (size_t(token) * SPLITS + split) * HEADS;
    #pragma unroll
    for (uint h = 0; h < GROUP / 8; h++) {
      size_t head = head0 + 8 * h + row;
      if (head < HEADS) {
        device float4* out = (device float4*)(partial + (to + head) * WIDTH + 64 * simdgroup + 8 * column);
        #pragma unroll
        for (uint f = 0; f < 8; f += 4) {
          for (uint e = 0; e < 2; e++) {
            out[f / 4 + 2 * e] = float4(sums[h][f].thread_elements()[e], sums[h][f + 1].thread_elements()[e],
                sums[h][f + 2].thread_elements()[e], sums[h][f + 3].thread_elements()[e]);
          }
        }
      }
    }
    #pragma unroll
    for (uint i = 0; i < OWN; i++) {
      uint own = simdgroup + i * SIMDGROUPS;
      size_t head = head0 + own;
      if (lane == 0 && own < GROUP && head < HEADS) {
        softmax[2 * (to + head)] = total[i] == 0.0f ? 0.0f : most[i];
        softmax[2 * (to + head) + 1] = total[i];
      }
    }
"""

_COMBINE = """
    threadgroup float shares[SPLITS];
    threadgroup float all;
    uint head = threadgroup_position_in_grid.x;
    uint token = threadgroup_position_in_grid.y;
    uint lane = thread_index_in_simdgroup;
    uint c = 4 * thread_index_in_threadgroup;
    size_t first = size_t(token) * SPLITS * HEADS + head;
    // A lane has a split. Sums of one without keys are zeros.
    if (simdgroup_index_in_threadgroup == 0) {
      float part = 0.0f;
      float most = -INFINITY;
      if (lane < SPLITS) { part = softmax[2 * (first + lane * HEADS) + 1]; }
      if (part != 0.0f) { most = softmax[2 * (first + lane * HEADS)]; }
      float top = simd_max(most);
      float share = part != 0.0f ? metal::exp(most - top) : 0.0f;
      if (lane < SPLITS) { shares[lane] = share; }
      part = simd_sum(part * share);
      if (lane == 0) { all = metal::exp(float(sink[head]) - top) + part; }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float total = all;
    float4 sum = float4(0.0f);
    const device float* sums = partial + first * WIDTH + metal::min(c, uint(WIDTH - 4));
    #pragma unroll 16
    for (uint s = 0; s < SPLITS; s++) {
      uint4 words = *((const device uint4*)(sums + size_t(s) * HEADS * WIDTH));
      sum.x += as_type<float>(words.x) * shares[s];
      sum.y += as_type<float>(words.y) * shares[s];
      sum.z += as_type<float>(words.z) * shares[s];
      sum.w += as_type<float>(words.w) * shares[s];
    }
    if (c < WIDTH) {
      sum = sum / total;
      for (uint i = 0; i < 2; i++) {
        float2 v = rounded<T>(i == 0 ? float2(sum.x, sum.y) : float2(sum.z, sum.w));
        if (c >= NOPE) {
          uint angle = token * uint((WIDTH - NOPE) / 2) + (c - NOPE) / 2 + i;
          v = turned(v, cosines[angle], -sines[angle]);
        }
        size_t to = (size_t(token) * HEADS + head) * WIDTH + c + 2 * i;
        o[to] = static_cast<T>(v.x);
        o[to + 1] = static_cast<T>(v.y);
      }
    }
"""


def _launch_attend(
    q: mx.array,
    queries: mx.array,
    pages: mx.array,
    chosen: mx.array,
    window_codes: mx.array,
    *_: mx.array,
    ratio: int,
    choosing: bool,
) -> Launch:
    tokens, heads, width = q.shape
    threads = width // 2
    return Launch(
        [
            ("T", q.dtype),
            ("H", mx.float32 if q.dtype == mx.float32 else mx.float16),
            ("HEADS", heads),
            ("WIDTH", width),
            ("NOPE", window_codes.shape[1]),
            ("RATIO", ratio),
            ("CHOSEN", choosing),
            ("SPLITS", SPLITS),
            ("GROUP", _HEADS),
            ("KEYS", _KEYS),
        ],
        (threads * SPLITS, -(-heads // _HEADS), tokens),
        (threads, 1, 1),
        [(tokens, SPLITS, heads, width), (tokens, SPLITS, heads, 2)],
        [mx.float32, mx.float32],
    )


def _launch_combine(
    partial: mx.array, softmax: mx.array, sink: mx.array, cos: mx.array, sin: mx.array, *, dtype: mx.Dtype
) -> Launch:
    tokens, splits, heads, width = partial.shape
    threads = -(-width // 128) * 32
    return Launch(
        [
            ("T", dtype),
            ("HEADS", heads),
            ("WIDTH", width),
            ("NOPE", width - 2 * cos.shape[1]),
            ("SPLITS", splits),
        ],
        (threads * heads, tokens, 1),
        (threads, 1, 1),
        [(tokens, heads, width)],
        [dtype],
    )


# Names of the parts of window rows, and of the pool's entries.
ROW_PARTS = tuple(f"{rows}_{part}" for rows in ("window", "entry") for part in ("codes", "exponents", "tail"))


@cache
def attend_kernel(ratio: int, *, choosing: bool) -> Kernel:
    """(q [T, H, d], queries uint32 [T, 4], pages uint32 [B, P], chosen uint32 [T, K], the parts of window rows, and
    those of the pool's entries) -> sums [T, SPLITS, H, d] and [T, SPLITS, H, 2]: maximum and denominator, zeros where a
    split has no keys.

    A query is: its row of `pages`, its first window row, how many of them it sees, and its position + 1. Of entries it
    sees those whose tokens are all before it; with `choosing` the first min(K, those) of its row of `chosen`. Entry n
    of a sequence is in the pool at row pages[b, n / per page] * per page + n % per page. d is a multiple of 64, and so
    is the number of codes.
    """
    text = KernelText(
        f"attend_{ratio}{'_chosen' if choosing else ''}",
        (
            "q",
            "queries",
            "pages",
            "chosen",
            *ROW_PARTS,
        ),
        ("partial", "softmax"),
        _ATTEND,
        VECTORS + DECODE + _HEADER,
    )
    return Kernel(
        text,
        partial(attend_twin, ratio, choosing),
        partial(_launch_attend, ratio=ratio, choosing=choosing),
        lambda: attend_samples(ratio, choosing=choosing),
    )


@cache
def combine_kernel(dtype: mx.Dtype) -> Kernel:
    """(what `attend` left, sink [H], cosines and sines float32 [T, r / 2]) -> o [T, H, d] of `dtype`."""
    name = f"attend_combine_{str(dtype).rpartition('.')[-1]}"
    text = KernelText(name, ("partial", "softmax", "sink", "cosines", "sines"), ("o",), _COMBINE, PAIRS)
    return Kernel(text, partial(combine_twin, dtype), partial(_launch_combine, dtype=dtype), combine_samples)
