"""One step of a compressor: pools the blocks that a few tokens complete, and keeps what later blocks need.

Pooling (a softmax per channel), RMS norm, RoPE, rounding and packing are one launch for all sequences of a call; the
projections that stay are copied in the same launch, as the window is (attention_rows.py). A threadgroup takes an entry,
a simdgroup 64 of its channels, or copies a row.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Literal

import mlx.core as mx

from ds4_mlx.kernels.attention_rows import PAIRS, ROUND_INDEX
from ds4_mlx.kernels.kernel import Kernel, Launch
from ds4_mlx.kernels.metal_on_cuda import KernelText
from ds4_mlx.kernels.pack_rows import ENCODE
from ds4_mlx.kernels.pool_samples import keep_samples, pool_samples
from ds4_mlx.kernels.pool_twins import NO_ROW, keep_twin, pool_twin
from ds4_mlx.quant.simulate import INDEX_BLOCK, KV_BLOCK

Kind = Literal["kv", "index"]
KINDS: tuple[Kind, ...] = ("kv", "index")

_COPY = """
    uint group = threadgroup_position_in_grid.x;
    uint lane = thread_index_in_simdgroup;
    uint kept = uint(sources_shape[0]);
    if (group < kept) {
      int source = sources[group];
      for (uint i = thread_index_in_threadgroup; i < CHANNELS; i += 32 * SIMDGROUPS) {
        size_t to = size_t(group) * CHANNELS + i;
        if (source >= 0) {
          size_t from = size_t(source) * CHANNELS + i;
          values_out[to] = old_values[from];
          gates_out[to] = old_gates[from];
        } else {
          uint token = uint(-1 - source);
          values_out[to] = values[token * CHANNELS + i];
          gates_out[to] = gates[token * CHANNELS + i] + float(ape[uint(phases[token]) * CHANNELS + i]);
        }
      }
    }
"""

_POOL = """
    threadgroup float squares[SIMDGROUPS];
    uint entry = group < kept ? 0 : group - kept;  // who copied arrives at the barriers too
    uint slots = group < kept ? 0 : uint(blocks_shape[1]);
    uint c = 64 * simdgroup_index_in_threadgroup + 2 * lane;
    float2 v = float2(0.0f);
    if (c < WIDTH) {
      float2 top = float2(-INFINITY);
      float2 total = float2(0.0f);
      for (uint s = 0; s < slots; s++) {
        int source = blocks[entry * slots + s];
        if (source == NO_ROW) { continue; }
        // Of two series, the first is for the block before.
        uint channel = c + (CHANNELS > WIDTH && 2 * s >= slots ? WIDTH : 0);
        float2 value;
        float2 gate;
        if (source >= 0) {
          size_t from = size_t(source) * CHANNELS + channel;
          value = float2(old_values[from], old_values[from + 1]);
          gate = float2(old_gates[from], old_gates[from + 1]);
        } else {
          uint token = uint(-1 - source);
          uint from = token * CHANNELS + channel;
          uint phase = uint(phases[token]) * CHANNELS + channel;
          value = float2(values[from], values[from + 1]);
          gate = float2(gates[from] + float(ape[phase]), gates[from + 1] + float(ape[phase + 1]));
        }
        float2 higher = float2(metal::max(top.x, gate.x), metal::max(top.y, gate.y));
        float2 less = float2(metal::exp(top.x - higher.x), metal::exp(top.y - higher.y));
        float2 weight = float2(metal::exp(gate.x - higher.x), metal::exp(gate.y - higher.y));
        total = total * less + weight;
        v = v * less + weight * value;
        top = higher;
      }
      v = rounded<T>(v / total);
    }
    float sum = simd_sum(v.x * v.x + v.y * v.y);
    if (lane == 0) { squares[simdgroup_index_in_threadgroup] = sum; }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    sum = 0.0f;
    for (uint s = 0; s < SIMDGROUPS; s++) { sum += squares[s]; }
    if (c < WIDTH) {
      float scale = metal::rsqrt(sum / float(WIDTH) + eps);
      v = rounded<T>(v * scale * float2(float(weight[c]), float(weight[c + 1])));
      if (c >= WIDTH - TURNED) {
        uint angle = entry * uint(TURNED / 2) + (c - (WIDTH - TURNED)) / 2;
        v = rounded<T>(turned(v, cosines[angle], sines[angle]));
      }
    }
"""

_PACK_KV = """
    constexpr uint NOPE = WIDTH - TURNED;
    uint block = c / 64;
    if (group >= kept && c < NOPE) {
      uint amax = simd_max(metal::max(magnitude_bits(v.x), magnitude_bits(v.y)));
      uint exponent = block_exponent(amax, 1.0f / 448.0f, 105u);
      codes[size_t(entry) * NOPE + c] = uchar(e4m3_code(v.x, exponent));
      codes[size_t(entry) * NOPE + c + 1] = uchar(e4m3_code(v.y, exponent));
      if (lane == 0) { exponents[size_t(entry) * (NOPE / 64) + block] = uchar(exponent); }
    } else if (group >= kept && c < WIDTH) {
      tail[size_t(entry) * TURNED + c - NOPE] = static_cast<T>(v.x);
      tail[size_t(entry) * TURNED + c - NOPE + 1] = static_cast<T>(v.y);
    }
"""

_PACK_INDEX = """
    threadgroup float normed[64 * SIMDGROUPS];
    normed[c] = v.x;
    normed[c + 1] = v.y;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (group >= kept && simdgroup_index_in_threadgroup == 0) {
      float2 row[SIMDGROUPS];
      for (uint b = 0; b < SIMDGROUPS; b++) {
        row[b] = float2(normed[64 * b + 2 * lane], normed[64 * b + 2 * lane + 1]);
      }
      hadamard<WIDTH, SIMDGROUPS>(row, lane);
      for (uint b = 0; b < SIMDGROUPS; b++) {
        uint channel = 64 * b + 2 * lane;
        float2 turned_row = rounded<T>(row[b] * metal::rsqrt(float(WIDTH)));
        uint exponent = index_exponent(turned_row);
        if (channel < WIDTH) {
          codes[(size_t(entry) * WIDTH + channel) / 2] =
              uchar(e2m1_code(turned_row.x, exponent) | (e2m1_code(turned_row.y, exponent) << 4));
          if (lane % 16 == 0) { exponents[(size_t(entry) * WIDTH + channel) / 32] = uchar(exponent); }
        }
      }
    }
"""


_SIMDGROUPS = 8  # where rows are only copied


def _launch_keep(values: mx.array, *inputs: mx.array) -> Launch:
    channels, kept, threads = values.shape[1], inputs[-1].shape[0], 32 * _SIMDGROUPS
    return Launch(
        [("CHANNELS", channels), ("SIMDGROUPS", _SIMDGROUPS)],
        (threads * kept, 1, 1),
        (threads, 1, 1),
        [(kept, channels)] * 2,
        [mx.float32] * 2,
    )


def _launch(values: mx.array, *inputs: mx.array, kind: Kind, dtype: mx.Dtype) -> Launch:
    *_, sources, weight, _, blocks, cos, _ = inputs
    channels, kept, width = values.shape[1], sources.shape[0], weight.shape[0]
    entries, turned = blocks.shape[0], 2 * cos.shape[1]
    if kind == "kv":
        nope = width - turned
        widths, dtypes = [nope, nope // KV_BLOCK, turned], [mx.uint8, mx.uint8, dtype]
    else:
        widths, dtypes = [width // 2, width // INDEX_BLOCK], [mx.uint8, mx.uint8]
    simdgroups = -(-width // 64)
    threads = 32 * simdgroups
    return Launch(
        [
            ("T", dtype),
            ("CHANNELS", channels),
            ("WIDTH", width),
            ("TURNED", turned),
            ("SIMDGROUPS", simdgroups),
            ("NO_ROW", NO_ROW),
        ],
        (threads * (kept + entries), 1, 1),
        (threads, 1, 1),
        [(kept, channels), (kept, channels), *((entries, part) for part in widths)],
        [mx.float32, mx.float32, *dtypes],
    )


_KEEP_INPUTS = ("values", "gates", "ape", "phases", "old_values", "old_gates", "sources")

# (values and gates float32 [T, c * d] of the new tokens, ape [m, c * d], phases int32 [T] (positions modulo m),
# R rows of old values and gates, sources int32 [O]) -> O rows of values and gates, ape included. Row o is old row
# sources[o], or, where that is negative, of token -1 - sources[o].
KEEP_ROWS = Kernel(
    KernelText("keep_rows", _KEEP_INPUTS, ("values_out", "gates_out"), _COPY), keep_twin, _launch_keep, keep_samples
)


@cache
def pool_kernel(kind: Kind, dtype: mx.Dtype) -> Kernel:
    """(what `KEEP_ROWS` takes, weight [d] and eps [] of the norm, blocks int32 [E, slots], cosines and sines float32
    [E, r / 2]) -> what `KEEP_ROWS` gives, and the parts of E entries as the cache stores them.

    `blocks` names the rows of an entry as `sources` does, or `NO_ROW`. Activations are of `dtype`.
    """
    parts = ("codes", "exponents", "tail") if kind == "kv" else ("codes", "exponents")
    text = KernelText(
        f"pool_{kind}_{str(dtype).rpartition('.')[-1]}",
        (*_KEEP_INPUTS, "weight", "eps", "blocks", "cosines", "sines"),
        ("values_out", "gates_out", *parts),
        _COPY + _POOL + (_PACK_KV if kind == "kv" else _PACK_INDEX),
        PAIRS + ENCODE + (ROUND_INDEX if kind == "index" else ""),
    )
    launch = partial(_launch, kind=kind, dtype=dtype)
    return Kernel(text, partial(pool_twin, kind, dtype), launch, partial(pool_samples, kind))
