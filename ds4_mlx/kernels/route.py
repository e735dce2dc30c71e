"""Routing: from the router's products to experts and their weights, in one launch.

A threadgroup has a token. An expert's place is the number of experts before it, which every thread counts for its own:
no rounds, and ties fall to the lower number as in the twin's stable sort.
"""

from __future__ import annotations

from functools import cache, partial

import mlx.core as mx
import numpy as np

from ds4_mlx.kernels.dense_samples import random_floats
from ds4_mlx.kernels.kernel import Kernel, Launch
from ds4_mlx.kernels.metal_on_cuda import KernelText

_MOST_THREADS = 512

_HEADER = """
// sqrt(softplus(z)); log(1 + e) that is exact for small e too
METAL_FUNC float score_of(float z) {
  float e = metal::exp(-metal::abs(z));
  float u = 1.0f + e;
  float log1p = u == 1.0f ? e : metal::log(u) * (e / (u - 1.0f));
  return metal::sqrt(metal::max(z, 0.0f) + log1p);
}
"""

_BEGIN = """
    threadgroup float scores[EXPERTS];
    threadgroup uint chosen[SLOTS];
    uint token = threadgroup_position_in_grid.x;
    uint i = thread_index_in_threadgroup;"""

_SCORED = """
    threadgroup float ranked[EXPERTS];
    for (uint e = i; e < EXPERTS; e += THREADS) {
      scores[e] = score_of(logits[token * EXPERTS + e]);
      float rank = scores[e] + bias[e];
      ranked[e] = rank == rank ? rank : as_type<float>(0xff800000u);  // NaN has a place too: the last
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint e = i; e < EXPERTS; e += THREADS) {
      float own = ranked[e];
      uint before = 0;
      #pragma unroll 8
      for (uint f = 0; f < EXPERTS; f++) { before += ranked[f] > own || (ranked[f] == own && f < e) ? 1 : 0; }
      if (before < SLOTS) { chosen[before] = e; }
    }"""

_HASHED = """
    for (uint e = i; e < EXPERTS; e += THREADS) { scores[e] = score_of(logits[token * EXPERTS + e]); }
    if (i < SLOTS) { chosen[i] = uint(tid2eid[size_t(ids[token]) * SLOTS + i]); }"""

_END = """
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (i < SLOTS) {
      float sum = 0.0f;
      for (uint slot = 0; slot < SLOTS; slot++) { sum += scores[chosen[slot]]; }
      experts[token * SLOTS + i] = chosen[i];
      weights[token * SLOTS + i] = scores[chosen[i]] / sum * scaling;
    }
"""


def scores_of(logits: mx.array) -> mx.array:
    """sqrt(softplus) of the router's products (spec 9)."""
    return mx.sqrt(mx.logaddexp(logits, 0.0))


def weights_of(scores: mx.array, experts: mx.array, scaling: mx.array | float) -> mx.array:
    """Weights float32 [T, k] of the chosen experts [T, k]: their shares of their scores, times a constant."""
    weights = mx.take_along_axis(scores, experts, axis=-1)
    return weights / weights.sum(axis=-1, keepdims=True) * scaling


def best_experts(scores: mx.array, bias: mx.array, k: int) -> mx.array:
    """The k experts with the highest scores plus bias, the best first; the lower number of equals: uint32 [T, k]."""
    return mx.argsort(-(scores + bias), axis=-1)[:, :k]


def _scored_twin(slots: int, logits: mx.array, bias: mx.array, scaling: mx.array) -> list[mx.array]:
    scores = scores_of(logits)
    experts = best_experts(scores, bias, slots)
    return [experts.astype(mx.uint32), weights_of(scores, experts, scaling)]


def _hashed_twin(logits: mx.array, tid2eid: mx.array, ids: mx.array, scaling: mx.array) -> list[mx.array]:
    experts = tid2eid[ids]
    return [experts.astype(mx.uint32), weights_of(scores_of(logits), experts, scaling)]


def _launch(slots: int, logits: mx.array, *_: mx.array) -> Launch:
    tokens, experts = logits.shape
    threads = min(_MOST_THREADS, 32 * -(-max(experts, slots) // 32))
    return Launch(
        [("EXPERTS", experts), ("SLOTS", slots), ("THREADS", threads)],
        (threads * tokens, 1, 1),
        (threads, 1, 1),
        [(tokens, slots), (tokens, slots)],
        [mx.uint32, mx.float32],
    )


def scored_inputs(tokens: int, experts: int) -> list[mx.array]:
    """Inputs of `scored_kernel`."""
    rng = np.random.default_rng([tokens, experts])
    return [3 * random_floats(rng, tokens, experts), random_floats(rng, experts), mx.array(1.5)]


def hashed_inputs(tokens: int, experts: int, slots: int) -> list[mx.array]:
    """Inputs of `HASHED`, 50 token ids."""
    rng = np.random.default_rng([tokens, experts, slots])
    table = np.stack([rng.permutation(experts)[:slots] for _ in range(50)]).astype(np.int32)
    ids = rng.integers(0, 50, tokens, dtype=np.int32)
    return [3 * random_floats(rng, tokens, experts), mx.array(table), mx.array(ids), mx.array(1.5)]


@cache
def scored_kernel(slots: int) -> Kernel:
    """(logits float32 [T, E], bias float32 [E], scaling float32 []) -> experts uint32, weights float32 [T, slots]."""
    return Kernel(
        KernelText("route", ("logits", "bias", "scaling"), ("experts", "weights"), _BEGIN + _SCORED + _END, _HEADER),
        partial(_scored_twin, slots),
        partial(_launch, slots),
        lambda: iter([scored_inputs(1, 256), scored_inputs(8, 40)]),
    )


# (logits float32 [T, E], tid2eid int32 [V, k], token ids int32 [T], scaling float32 []) -> the same, k a token.
HASHED = Kernel(
    KernelText(
        "route_hashed",
        ("logits", "tid2eid", "ids", "scaling"),
        ("experts", "weights"),
        _BEGIN + _HASHED + _END,
        _HEADER,
    ),
    _hashed_twin,
    lambda logits, tid2eid, *rest: _launch(tid2eid.shape[1], logits, *rest),
    lambda: iter([hashed_inputs(1, 256, 6), hashed_inputs(8, 40, 3)]),
)
