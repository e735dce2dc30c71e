"""Hyper-connections for many tokens: what a site sums of the streams, and a sublayer's output written back into them.

Streams are the largest thing there is beside weights, 67 MB for 2,048 tokens, so each kernel passes over them once:
`MANY_SUMS`, `enter_kernel` of `stream_rows.py`, and one of the returns. Sums are made apart from the return: a token
meets all rows of `fn`, 1.6 MB, which is worth reading for many tokens at once only, while the return wants as many
threads as there are channels.
"""

from __future__ import annotations

import mlx.core as mx

from ds4_mlx.kernels import stream_samples as samples
from ds4_mlx.kernels.kernel import Kernel, Launch
from ds4_mlx.kernels.metal_on_cuda import KernelText
from ds4_mlx.kernels.stream_twins import SPAN, many_expert_return_twin, many_return_twin, many_sums_twin
from ds4_mlx.kernels.vectors_text import LOAD_8, PUT_8

_SIMDGROUPS = 4  # per threadgroup of the sums
_EACH = 4  # tokens of a simdgroup: their sums, 25 for each, stay in registers
_THREADS = 256  # per threadgroup of the returns

# A lane has 8 neighbouring channels of its tokens at a time, and meets them with every row of fn.
_SUMS = """
    constexpr uint CHANNELS = N * D;
    uint lane = thread_index_in_simdgroup;
    uint token0 = (threadgroup_position_in_grid.x * SIMDGROUPS + simdgroup_index_in_threadgroup) * EACH;
    uint span = threadgroup_position_in_grid.y;
    uint tokens = uint(h_shape[0]);
    uint end = metal::min(uint(CHANNELS), (span + 1) * SPAN);
    float totals[EACH][M + 1];
    #pragma unroll
    for (uint t = 0; t < EACH; t++) {
      #pragma unroll
      for (uint m = 0; m <= M; m++) { totals[t][m] = 0.0f; }
    }
    for (uint channel = span * SPAN + 8 * lane; channel < end; channel += 256) {
      float v[EACH][8];
      #pragma unroll
      for (uint t = 0; t < EACH; t++) {
        load_8(h + size_t(metal::min(token0 + t, tokens - 1)) * CHANNELS + channel, v[t]);
        #pragma unroll
        for (uint i = 0; i < 8; i++) { totals[t][M] += v[t][i] * v[t][i]; }
      }
      #pragma unroll
      for (uint m = 0; m < M; m++) {
        float row[8];
        load_8(fn + m * CHANNELS + channel, row);
        #pragma unroll
        for (uint t = 0; t < EACH; t++) {
          #pragma unroll
          for (uint i = 0; i < 8; i++) { totals[t][m] += v[t][i] * row[i]; }
        }
      }
    }
    #pragma unroll
    for (uint t = 0; t < EACH; t++) {
      #pragma unroll
      for (uint m = 0; m <= M; m++) {
        float total = metal::simd_sum(totals[t][m]);
        if (lane == (t * (M + 1) + m) % 32 && token0 + t < tokens) {
          sums[(size_t(token0 + t) * (M + 1) + m) * SPANS + span] = total;
        }
      }
    }
"""

# A thread has 8 channels of a token, in all streams.
_RETURN = """
    uint number = thread_position_in_grid.x;
    uint token = number / (D / 8);
    uint channel = number % (D / 8) * 8;
    if (token < uint(h_shape[0])) {
      float output[8];
      {output}
      float old[N][8];
      float gates[N + N * N];
      #pragma unroll
      for (uint j = 0; j < N; j++) { load_8(h + (size_t(token) * N + j) * D + channel, old[j]); }
      #pragma unroll
      for (uint g = 0; g < N + N * N; g++) { gates[g] = mix[token * (N + N * N) + g]; }
      #pragma unroll
      for (uint k = 0; k < N; k++) {
        float fresh[8];
        #pragma unroll
        for (uint i = 0; i < 8; i++) {
          float mixed = 0.0f;
          #pragma unroll
          for (uint j = 0; j < N; j++) { mixed += gates[N + j * N + k] * old[j][i]; }
          fresh[i] = gates[k] * output[i] + mixed;
        }
        put_8(streams + (size_t(token) * N + k) * D + channel, fresh);
      }
    }
"""

_OUTPUT = "load_8(y + size_t(token) * D + channel, output);"

_EXPERTS_OUTPUT = """
      #pragma unroll
      for (uint i = 0; i < 8; i++) { output[i] = 0.0f; }
      for (uint slot = 0; slot < SLOTS; slot++) {
        float product[8];
        load_8(products + (size_t(token) * SLOTS + slot) * D + channel, product);
        #pragma unroll
        for (uint i = 0; i < 8; i++) { output[i] += product[i]; }
      }
      float common[8];
      load_8(shared + size_t(token) * D + channel, common);
      #pragma unroll
      for (uint i = 0; i < 8; i++) { output[i] = float(static_cast<T>(output[i] + common[i])); }"""


def _sums_launch(h: mx.array, fn: mx.array) -> Launch:
    tokens, n, width = h.shape
    rows, threads = fn.shape[0], 32 * _SIMDGROUPS
    spans = -(-n * width // SPAN)
    return Launch(
        [
            ("M", rows),
            ("N", n),
            ("D", width),
            ("SPAN", SPAN),
            ("SPANS", spans),
            ("EACH", _EACH),
            ("SIMDGROUPS", _SIMDGROUPS),
        ],
        (threads * -(-tokens // (_EACH * _SIMDGROUPS)), spans, 1),
        (threads, 1, 1),
        [(tokens, rows + 1, spans)],
        [mx.float32],
    )


def _return_launch(y: mx.array, h: mx.array, mix: mx.array) -> Launch:
    tokens, n, width = h.shape
    groups = -(-tokens * width // (8 * _THREADS))
    return Launch(
        [("N", n), ("D", width)],
        (_THREADS * groups, 1, 1),
        (_THREADS, 1, 1),
        [h.shape],
        [h.dtype],
    )


def _expert_return_launch(products: mx.array, shared: mx.array, h: mx.array, mix: mx.array) -> Launch:
    launch = _return_launch(shared, h, mix)
    slots = products.shape[0] // h.shape[0]
    return launch._replace(template=[("T", h.dtype), ("SLOTS", slots), *launch.template])


# h [T, N, D] (D a multiple of 8), fn float32 [M, N * D] -> what a site needs of streams, float32 [T, M + 1, spans].
MANY_SUMS = Kernel(
    KernelText("many_sums", ("h", "fn"), ("sums",), _SUMS, LOAD_8),
    many_sums_twin,
    _sums_launch,
    samples.many_sums_samples,
)

# (a sublayer's output y [T, D], streams h [T, N, D], mix of `enter_kernel`) -> streams with the output in them.
MANY_RETURN = Kernel(
    KernelText("many_return", ("y", "h", "mix"), ("streams",), _RETURN.replace("{output}", _OUTPUT), LOAD_8 + PUT_8),
    many_return_twin,
    _return_launch,
    samples.many_return_samples,
)

# The same for the output of a mixture of experts: (products [T * k, D], of the shared expert [T, D], h, mix).
MANY_EXPERT_RETURN = Kernel(
    KernelText(
        "many_expert_return",
        ("products", "shared", "h", "mix"),
        ("streams",),
        _RETURN.replace("{output}", _EXPERTS_OUTPUT),
        LOAD_8 + PUT_8,
    ),
    many_expert_return_twin,
    _expert_return_launch,
    samples.many_expert_return_samples,
)
