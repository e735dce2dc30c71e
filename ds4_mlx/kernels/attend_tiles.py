"""Attention of many queries over packed rows, as `attend_rows.py` defines it for few: tiles on matrix units.

A threadgroup takes one query and 32 of its heads, from the first key to the last: no scores and no partial sums are in
device memory. 16 keys at a time are decoded into threadgroup memory once, for all these heads, as K and again as V. A
simdgroup has 16 heads and a slice of the channels, a quarter of 512: its part of the queries (32 registers a lane as
halves) and of the sums (64, floats) stay in registers. So scores are sums over slices, which meet in threadgroup
memory, where the running softmax is kept. The sink, the denominator and the inverse RoPE follow in registers.

Why so. For 16 keys and 32 heads eight simdgroups issue 256 tensor instructions, 136 loads of their operands and about
600 instructions to decode. With 64 heads in a threadgroup decoding would be half of that per head, but 512 threads with
128 registers are more than Apple's cores have, and two threadgroups of 256 on one of NVIDIA's hide each other's
barriers. Several queries in a threadgroup could share keys only where neighbours see the same ones; of the 640 that
most queries see, 512 are their own choice.

Keys of the next step are read while these are multiplied; which rows they are is looked up for as many keys as there
are threads at once. Matrices hold halves unless activations are float (`attend_rows.py` says why that is enough).
"""

from __future__ import annotations

from functools import cache, partial

import mlx.core as mx

from ds4_mlx.kernels.attend_rows import ROW_PARTS
from ds4_mlx.kernels.attention_rows import PAIRS
from ds4_mlx.kernels.attention_samples import attend_tiles_samples
from ds4_mlx.kernels.attention_twins import attend_tiles_twin
from ds4_mlx.kernels.kernel import Kernel, Launch
from ds4_mlx.kernels.metal_on_cuda import KernelText
from ds4_mlx.kernels.tensor_text import TENSOR_SUMS, TENSORS
from ds4_mlx.kernels.unpack_rows import DECODE
from ds4_mlx.kernels.vectors_text import VECTORS

_HEADS = 32  # of a threadgroup
_SLICES = 4  # of the channels, at most

# `Raw`: four channels of the RoPE tail as they lie in memory, so that nothing waits for them before they are put.
_HEADER = """
// Two FP8 codes as halves, 2^8 too small.
METAL_FUNC uint e4m3_pair(uint codes) {
  uint apart = ((codes & 0xff00u) << 16) | ((codes & 0xffu) << 8);
  return (apart & 0x80008000u) | ((apart >> 1) & 0x3f803f80u);
}

METAL_FUNC void put_codes(threadgroup half* p, uint2 codes, uint exponent) {
  float scale = 256.0f * block_scale(exponent);
  uint pair = half_pair(scale, scale);
  *((threadgroup uint4*)p) = uint4(
      multiply_pairs(e4m3_pair(codes.x & 0xffffu), pair), multiply_pairs(e4m3_pair(codes.x >> 16), pair),
      multiply_pairs(e4m3_pair(codes.y & 0xffffu), pair), multiply_pairs(e4m3_pair(codes.y >> 16), pair));
}

METAL_FUNC void put_codes(threadgroup float* p, uint2 codes, uint exponent) {
  float scale = block_scale(exponent);
  float v[8];
  #pragma unroll
  for (uint i = 0; i < 8; i++) {
    v[i] = e4m3_value(((i < 4 ? codes.x : codes.y) >> (8 * (i % 4))) & 0xffu) * scale;
  }
  store_8(p, v);
}

template <typename T> struct Raw { uint2 words; };
template <> struct Raw<float> { float4 words; };

template <typename T>
METAL_FUNC void load_raw(thread Raw<T>& raw, const device T* p) { raw.words = *((const device uint2*)p); }

METAL_FUNC void load_raw(thread Raw<float>& raw, const device float* p) { raw.words = *((const device float4*)p); }

template <typename T>
METAL_FUNC void put_raw(threadgroup half* p, const thread Raw<T>& raw) {
  float2 first = float2(as_type<vec<T, 2>>(raw.words.x));
  float2 second = float2(as_type<vec<T, 2>>(raw.words.y));
  *((threadgroup uint2*)p) = uint2(half_pair(first.x, first.y), half_pair(second.x, second.y));
}

METAL_FUNC void put_raw(threadgroup float* p, const thread Raw<float>& raw) { *((threadgroup float4*)p) = raw.words; }
"""

_BODY = """
    constexpr uint SIMDGROUPS = GROUP / 16 * SLICES;
    constexpr uint THREADS = 32 * SIMDGROUPS;
    constexpr uint SLICE = WIDTH / SLICES;
    constexpr uint STRIDE = WIDTH + 16 / sizeof(H);  // gaps, so that rows fall into different banks
    constexpr uint ALONG = KEYS + 16 / sizeof(H);
    constexpr uint ACROSS = KEYS + 4;
    constexpr uint TAIL = WIDTH - NOPE;
    constexpr uint PER_KEY = THREADS / KEYS;  // threads that decode a key
    constexpr uint CODES = (NOPE / 8 + PER_KEY - 1) / PER_KEY;  // runs of 8 codes, per thread
    constexpr uint TAILS = (TAIL / 4 + PER_KEY - 1) / PER_KEY;
    constexpr uint LANES = KEYS / 2;  // that share the softmax of a head
    constexpr uint OWN = (GROUP + 32 / LANES * SIMDGROUPS - 1) / (32 / LANES * SIMDGROUPS);  // heads of a lane
    constexpr uint PER_PAGE = RATIO == 0 ? 1 : 128 / RATIO;
    threadgroup uint4 aligned_keys[KEYS * STRIDE * sizeof(H) / 16];
    threadgroup H* keys = (threadgroup H*)aligned_keys;      // [key][channel]
    threadgroup float2 aligned_scores[SLICES * GROUP * ACROSS / 2];
    threadgroup float* scores = (threadgroup float*)aligned_scores;  // [slice][head][key]: what its channels add
    threadgroup uint4 aligned_weights[GROUP * ALONG * sizeof(H) / 16];
    threadgroup H* weights = (threadgroup H*)aligned_weights;  // [head][key]
    threadgroup float factors[GROUP];
    threadgroup uint rows[THREADS];
    uint thread_number = thread_index_in_threadgroup;
    uint lane = thread_index_in_simdgroup;
    uint simdgroup = simdgroup_index_in_threadgroup;
    uint slice = simdgroup % SLICES;
    uint part = simdgroup / SLICES * 16;  // first head of the simdgroup, of those of the threadgroup
    uint head0 = threadgroup_position_in_grid.x * GROUP;
    uint token = threadgroup_position_in_grid.y;

    uint held = queries[4 * token + 2];
    uint visible = RATIO == 0 ? 0u : queries[4 * token + 3] / metal::max(uint(RATIO), 1u);
    uint count = held + (CHOSEN ? metal::min(visible, uint(chosen_shape[1])) : visible);

    for (uint i = thread_number; i < 64; i += THREADS) { scores[i] = float(i); }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_matrix<float, 8, 8> place;
    simdgroup_load(place, scores, 8);
    uint row = uint(place.thread_elements()[0]) / 8;
    uint column = uint(place.thread_elements()[0]) % 8;  // of the lane's first element; the second is its neighbour

    Left32<H> left[SLICE / 32];
    #pragma unroll
    for (uint k = 0; k < SLICE / 32; k++) {
      #pragma unroll
      for (uint i = 0; i < 8; i++) {
        size_t head = metal::min(head0 + part + i % 2 * 8 + row, uint(HEADS - 1));
        size_t from = (size_t(token) * HEADS + head) * WIDTH + slice * SLICE + 32 * k + i / 2 * 8 + column;
        left[k].parts[i].thread_elements()[0] = static_cast<H>(float(q[from]));
        left[k].parts[i].thread_elements()[1] = static_cast<H>(float(q[from + 1]));
      }
    }
    simdgroup_matrix<float, 8, 8> sums[SLICE / 4];  // [eight channels][eight heads]
    #pragma unroll
    for (uint i = 0; i < SLICE / 4; i++) { sums[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f); }
    float most[OWN];
    float total[OWN];  // of the lane's keys
    #pragma unroll
    for (uint i = 0; i < OWN; i++) {
      most[i] = -INFINITY;
      total[i] = 0.0f;
    }

    uint own_key = thread_number / PER_KEY;
    uint own = thread_number % PER_KEY;
    uint2 codes[CODES];
    uint exponents[CODES];
    Raw<T> tail[TAILS];
    for (uint known = 0; known < count; known += THREADS) {
      uint key = metal::min(known + thread_number, count - 1);
      uint at = key + queries[4 * token + 1];
      if (key >= held) {
        uint entry = CHOSEN ? chosen[size_t(token) * uint(chosen_shape[1]) + key - held] : key - held;
        at = pages[size_t(queries[4 * token]) * uint(pages_shape[1]) + entry / PER_PAGE] * PER_PAGE + entry % PER_PAGE;
      }
      rows[thread_number] = at;
      threadgroup_barrier(mem_flags::mem_threadgroup);
      uint end = metal::min(count - known, THREADS);
      uint next = 0;
      {read}
      for (uint key0 = 0; key0 < end; key0 += KEYS) {
        #pragma unroll
        for (uint i = 0; i < CODES; i++) {
          uint c = 8 * (own + i * PER_KEY);
          if (c < NOPE) { put_codes(keys + own_key * STRIDE + c, codes[i], exponents[i]); }
        }
        #pragma unroll
        for (uint i = 0; i < TAILS; i++) {
          uint c = 4 * (own + i * PER_KEY);
          if (c < TAIL) { put_raw(keys + own_key * STRIDE + NOPE + c, tail[i]); }
        }
        next = key0 + KEYS;
        if (next < end) {
          {read}
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        #pragma unroll
        for (uint b = 0; b < KEYS / 8; b++) {
          simdgroup_matrix<float, 8, 8> upper = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
          simdgroup_matrix<float, 8, 8> lower = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
          #pragma unroll
          for (uint k = 0; k < SLICE / 32; k++) {
            Right32<H> right;
            load_right(right, keys + 8 * b * STRIDE + slice * SLICE + 32 * k, STRIDE);
            multiply_32(upper, lower, left[k], right);
          }
          threadgroup float* to = scores + (slice * GROUP + part) * ACROSS + 8 * b;
          simdgroup_store(upper, to, ACROSS);
          simdgroup_store(lower, to + 8 * ACROSS, ACROSS);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        #pragma unroll
        for (uint i = 0; i < OWN; i++) {
          uint head = (i * SIMDGROUPS + simdgroup) * (32 / LANES) + lane / LANES;
          uint pair = lane % LANES;
          float2 score = float2(0.0f);
          if (head < GROUP) {
            #pragma unroll
            for (uint s = 0; s < SLICES; s++) {
              score = score + *((threadgroup float2*)(scores + (s * GROUP + head) * ACROSS + 2 * pair));
            }
          }
          score = score * metal::rsqrt(float(WIDTH));
          if (key0 + 2 * pair >= end) { score.x = -INFINITY; }
          if (key0 + 2 * pair + 1 >= end) { score.y = -INFINITY; }
          float top = metal::max(score.x, score.y);
          #pragma unroll
          for (ushort apart = 1; apart < LANES; apart *= 2) { top = metal::max(top, simd_shuffle_xor(top, apart)); }
          top = metal::max(most[i], top);
          float less = metal::exp(most[i] - top);
          float2 weight = float2(metal::exp(score.x - top), metal::exp(score.y - top));
          total[i] = total[i] * less + weight.x + weight.y;
          most[i] = top;
          if (head < GROUP) {
            weights[head * ALONG + 2 * pair] = static_cast<H>(weight.x);
            weights[head * ALONG + 2 * pair + 1] = static_cast<H>(weight.y);
            if (pair == 0) { factors[head] = less; }
          }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        float less[2] = {factors[part + row], factors[part + 8 + row]};
        if (simd_any(less[0] != 1.0f || less[1] != 1.0f)) {  // seldom after the first keys
          #pragma unroll
          for (uint i = 0; i < SLICE / 4; i++) {
            sums[i].thread_elements()[0] *= less[i % 2];
            sums[i].thread_elements()[1] *= less[i % 2];
          }
        }
        Shares<H, KEYS> shares;
        load_shares(shares, weights + part * ALONG, ALONG);
        #pragma unroll
        for (uint f = 0; f < SLICE / 16; f++) {
          Values<H, KEYS> values;
          load_values(values, keys + slice * SLICE + 16 * f, STRIDE);
          add_shares(sums + 4 * f, shares, values);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
      }
    }

    #pragma unroll
    for (uint i = 0; i < OWN; i++) {
      uint own_head = (i * SIMDGROUPS + simdgroup) * (32 / LANES) + lane / LANES;
      float whole = total[i];
      #pragma unroll
      for (ushort apart = 1; apart < LANES; apart *= 2) { whole += simd_shuffle_xor(whole, apart); }
      if (own_head < GROUP && lane % LANES == 0) {
        float more = metal::exp(float(sink[metal::min(head0 + own_head, uint(HEADS - 1))]) - most[i]);
        factors[own_head] = 1.0f / (whole + more);
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    #pragma unroll
    for (uint i = 0; i < SLICE / 4; i++) {
      uint of_group = part + i % 2 * 8 + row;
      uint c = slice * SLICE + i / 2 * 8 + column;
      float2 v = float2(sums[i].thread_elements()[0], sums[i].thread_elements()[1]);
      v = rounded<T>(v * factors[of_group]);
      if (c >= NOPE) {
        uint angle = token * uint(TAIL / 2) + (c - NOPE) / 2;
        v = turned(v, cosines[angle], -sines[angle]);
      }
      if (head0 + of_group < HEADS) {
        size_t to = (size_t(token) * HEADS + head0 + of_group) * WIDTH + c;
        o[to] = static_cast<T>(v.x);
        o[to + 1] = static_cast<T>(v.y);
      }
    }
"""

# The codes and the tail of key `next` + own_key of those that are known.
_READ = """{
            uint known_key = metal::min(next + own_key, end - 1);
            bool in_window = known + known_key < held;
            size_t from = rows[known_key];
            #pragma unroll
            for (uint i = 0; i < CODES; i++) {
              uint c = 8 * (own + i * PER_KEY);
              if (c < NOPE) {
                codes[i] = *((const device uint2*)((in_window ? window_codes : entry_codes) + from * NOPE + c));
                exponents[i] = (in_window ? window_exponents : entry_exponents)[from * (NOPE / 64) + c / 64];
              }
            }
            #pragma unroll
            for (uint i = 0; i < TAILS; i++) {
              uint c = 4 * (own + i * PER_KEY);
              if (c < TAIL) { load_raw(tail[i], (in_window ? window_tail : entry_tail) + from * TAIL + c); }
            }
          }"""


def _launch(
    q: mx.array,
    queries: mx.array,
    pages: mx.array,
    chosen: mx.array,
    sink: mx.array,
    cos: mx.array,
    sin: mx.array,
    window_codes: mx.array,
    *_: mx.array,
    ratio: int,
    choosing: bool,
) -> Launch:
    tokens, heads, width = q.shape
    slices = max(n for n in range(1, _SLICES + 1) if width // 32 % n == 0)
    threads = 32 * slices * (_HEADS // 16)
    exact = q.dtype == mx.float32
    return Launch(
        [
            ("T", q.dtype),
            ("H", mx.float32 if exact else mx.float16),
            ("HEADS", heads),
            ("WIDTH", width),
            ("NOPE", window_codes.shape[1]),
            ("RATIO", ratio),
            ("CHOSEN", choosing),
            ("GROUP", _HEADS),
            ("SLICES", slices),
            ("KEYS", 8 if exact else 16),  # 16 floats of 512 channels each are more than a threadgroup's memory
        ],
        (threads * -(-heads // _HEADS), tokens, 1),
        (threads, 1, 1),
        [q.shape],
        [q.dtype],
    )


@cache
def attend_tiles_kernel(ratio: int, *, choosing: bool) -> Kernel:
    """(q [T, H, d] normed and turned, queries uint32 [T, 4], pages uint32 [B, P], chosen uint32 [T, K], sink float32
    [H], cosines and sines float32 [T, r / 2], the parts of window rows, and those of the pool's entries) -> o [T, H, d]
    in the dtype of q, turned back.

    Queries, pages, chosen and rows are those of `attend_kernel`. T is at most 65,535.
    """
    text = KernelText(
        f"attend_tiles_{ratio}{'_chosen' if choosing else ''}",
        (
            "q",
            "queries",
            "pages",
            "chosen",
            "sink",
            "cosines",
            "sines",
            *ROW_PARTS,
        ),
        ("o",),
        _BODY.replace("{read}", _READ),
        VECTORS + TENSORS + TENSOR_SUMS + DECODE + PAIRS + _HEADER,
    )
    return Kernel(
        text,
        partial(attend_tiles_twin, ratio, choosing),
        partial(_launch, ratio=ratio, choosing=choosing),
        lambda: attend_tiles_samples(ratio, choosing=choosing),
    )
