"""Whole kernels with their calls and right answers: what this folder's tests run, check and mutate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from ds4_mlx.kernels.metal_on_cuda.signature import KernelText

FLOATS = (mx.float32, mx.float16, mx.bfloat16)


@dataclass(frozen=True)
class Sample:
    """`call` are the arguments of the kernel's call; `tolerance` bounds its error relative to the largest value."""

    text: KernelText
    call: dict[str, Any]
    expected: np.ndarray
    tolerance: float

    def error_of(self, output: mx.array) -> float:
        """The largest difference relative to the largest expected value."""
        difference = np.abs(as_float64(output) - self.expected).max()
        return float(difference / np.abs(self.expected).max())


def as_float64(array: mx.array) -> np.ndarray:
    """Exact, also for bfloat16, which numpy has not."""
    return np.array(array.astype(mx.float32)).astype(np.float64)


def normal(shape: tuple[int, ...], dtype: mx.Dtype, seed: int) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32)).astype(dtype)


EXPERT_MATVEC = KernelText(
    "expert_matvec",
    ("x", "w", "scales", "biases", "chosen"),
    ("y",),
    header="""
        template <typename T>
        METAL_FUNC float dot16(uint packed, const thread float* x) {
          float sum = 0.0f;
          for (int j = 0; j < 16; j++) { sum += float((packed >> (2 * j)) & 3u) * x[j]; }
          return sum;
        }
    """,
    source="""
        // A simdgroup makes ROWS rows of a chosen expert's output: K values of 2 bits, 16 in a word, GROUP to a scale.
        constexpr int WORDS = K / 16;
        constexpr int GROUPS = K / GROUP;
        uint lane = thread_index_in_simdgroup;
        uint slot = threadgroup_position_in_grid.z;
        uint row0 = (threadgroup_position_in_grid.y * SIMDGROUPS + simdgroup_index_in_threadgroup) * ROWS;
        size_t expert = size_t(chosen[slot]);
        const device uint32_t* words = w + (expert * N + row0) * WORDS;
        const device T* scale = scales + (expert * N + row0) * GROUPS;
        const device T* bias = biases + (expert * N + row0) * GROUPS;
        float sums[ROWS];
        for (int r = 0; r < ROWS; r++) { sums[r] = 0.0f; }
        for (int i = lane; i < WORDS; i += 32) {
          float values[16];
          float total = 0.0f;
          const device T* xs = x + 16 * i;
          for (int j = 0; j < 16; j++) {
            values[j] = float(xs[j]);
            total += values[j];
          }
          int group = i * 16 / GROUP;
          for (int r = 0; r < ROWS; r++) {
            sums[r] += float(scale[r * GROUPS + group]) * dot16<T>(words[r * WORDS + i], values)
                + float(bias[r * GROUPS + group]) * total;
          }
        }
        for (int r = 0; r < ROWS; r++) {
          float sum = simd_sum(sums[r]);
          if (lane == 0) { y[size_t(slot) * N + row0 + r] = static_cast<T>(sum); }
        }
    """,
)


def expert_matvec(dtype: mx.Dtype) -> Sample:
    """Rows of 3 of 5 experts in MLX's affine 2-bit format times one vector."""
    experts, n, k, rows, simdgroups = 5, 64, 512, 4, 2
    x, chosen = normal((1, k), dtype, 0), mx.array([4, 0, 3], mx.uint32)
    packed, scales, biases = mx.quantize(normal((experts, n, k), dtype, 1), group_size=64, bits=2)
    exact = (scales.astype(mx.float32), biases.astype(mx.float32))
    weights = mx.dequantize(packed, exact[0], exact[1], group_size=64, bits=2)
    call = {
        "inputs": [x, packed, scales, biases, chosen],
        "template": [("T", dtype), ("K", k), ("N", n), ("GROUP", 64), ("ROWS", rows), ("SIMDGROUPS", simdgroups)],
        "grid": (32 * simdgroups, n // (rows * simdgroups), chosen.size),
        "threadgroup": (32 * simdgroups, 1, 1),
        "output_shapes": [(chosen.size, n)],
        "output_dtypes": [dtype],
    }
    expected = (as_float64(weights)[np.array(chosen)] @ as_float64(x)[0][:, None])[..., 0]
    return Sample(EXPERT_MATVEC, call, expected, 5e-3 if dtype == mx.bfloat16 else 1e-3)


MATMUL = KernelText(
    "matmul",
    ("a", "b"),
    ("c",),
    header="#include <metal_simdgroup_matrix>\n",
    source="""
        // Four simdgroups make a 32x32 tile of C = A B from tiles of A and B in threadgroup memory.
        constexpr int DEPTH = 16;
        threadgroup T left[32 * DEPTH];
        threadgroup T right[DEPTH * 32];
        uint thread_index = thread_index_in_threadgroup;
        uint row0 = threadgroup_position_in_grid.y * 32;
        uint column0 = threadgroup_position_in_grid.x * 32;
        uint row = (simdgroup_index_in_threadgroup / 2) * 16;
        uint column = (simdgroup_index_in_threadgroup % 2) * 16;
        simdgroup_matrix<float, 8, 8> sums[2][2];
        for (int i = 0; i < 2; i++) {
          for (int j = 0; j < 2; j++) { sums[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f); }
        }
        for (int k0 = 0; k0 < K; k0 += DEPTH) {
          for (uint i = thread_index; i < 32 * DEPTH; i += 128) {
            left[i] = a[(row0 + i / DEPTH) * K + k0 + i % DEPTH];
            right[i] = b[(k0 + i / 32) * N + column0 + i % 32];
          }
          threadgroup_barrier(mem_flags::mem_threadgroup);
          for (int k = 0; k < DEPTH; k += 8) {
            simdgroup_matrix<T, 8, 8> ma[2];
            simdgroup_matrix<T, 8, 8> mb[2];
            for (int i = 0; i < 2; i++) {
              simdgroup_load(ma[i], left + (row + 8 * i) * DEPTH + k, DEPTH);
              simdgroup_load(mb[i], right + k * 32 + column + 8 * i, 32);
            }
            for (int i = 0; i < 2; i++) {
              for (int j = 0; j < 2; j++) { simdgroup_multiply_accumulate(sums[i][j], ma[i], mb[j], sums[i][j]); }
            }
          }
          threadgroup_barrier(mem_flags::mem_threadgroup);
        }
        for (int i = 0; i < 2; i++) {
          for (int j = 0; j < 2; j++) {
            simdgroup_store(sums[i][j], c + (row0 + row + 8 * i) * N + column0 + column + 8 * j, N);
          }
        }
    """,
)


def matmul(dtype: mx.Dtype) -> Sample:
    """A [64, 48] times B [48, 96]."""
    m, n, k = 64, 96, 48
    a, b = normal((m, k), dtype, 2), normal((k, n), dtype, 3)
    call = {
        "inputs": [a, b],
        "template": [("T", dtype), ("N", n), ("K", k)],
        "grid": (n // 32 * 128, m // 32, 1),
        "threadgroup": (128, 1, 1),
        "output_shapes": [(m, n)],
        "output_dtypes": [mx.float32],
    }
    return Sample(MATMUL, call, as_float64(a) @ as_float64(b), 1e-6)


HISTOGRAM = KernelText(
    "histogram",
    ("v",),
    ("counts",),
    atomic_outputs=True,
    source="""
        threadgroup atomic_uint part[BINS];
        uint t = thread_index_in_threadgroup;
        if (t < BINS) { atomic_store_explicit(&part[t], 0u, memory_order_relaxed); }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        atomic_fetch_add_explicit(&part[v[thread_position_in_grid.x] % BINS], 1u, memory_order_relaxed);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (t < BINS) {
          uint count = atomic_load_explicit(&part[t], memory_order_relaxed);
          atomic_fetch_add_explicit(&counts[t], count, memory_order_relaxed);
        }
    """,
)


def histogram(_: mx.Dtype = mx.uint32) -> Sample:
    """How often each remainder by 32 occurs among 4,096 numbers."""
    values = np.random.default_rng(4).integers(0, 1000, 4096).astype(np.uint32)
    call = {
        "inputs": [mx.array(values)],
        "template": [("BINS", 32)],
        "grid": (4096, 1, 1),
        "threadgroup": (256, 1, 1),
        "output_shapes": [(32,)],
        "output_dtypes": [mx.uint32],
        "init_value": 0,
    }
    return Sample(HISTOGRAM, call, np.bincount(values % 32, minlength=32).astype(np.float64), 0)


SWIGLU = KernelText(
    "clamped_swiglu",
    ("gate", "up", "limit"),
    ("o",),
    source="""
        uint i = thread_position_in_grid.x;
        using T4 = vec<T, 4>;
        float4 g = float4(((const device T4*)gate)[i]);
        float4 u = float4(((const device T4*)up)[i]);
        g = metal::min(g, limit);
        u = metal::clamp(u, -limit, limit);
        float4 y = g / (1.0f + metal::exp(-g)) * u;
        float2 low = y.xy, high = y.zw;
        ((device T4*)o)[i] = T4(float4(low, high));
    """,
)


def swiglu(dtype: mx.Dtype) -> Sample:
    """Vector loads, swizzles and a 0-d input."""
    g, u, limit = normal((4, 256), dtype, 5) * 3, normal((4, 256), dtype, 6) * 3, 1.5
    call = {
        "inputs": [g, u, limit],
        "template": [("T", dtype)],
        "grid": (256, 1, 1),
        "threadgroup": (64, 1, 1),
        "output_shapes": [g.shape],
        "output_dtypes": [dtype],
    }
    gate = np.minimum(as_float64(g), limit)
    expected = gate / (1 + np.exp(-gate)) * np.clip(as_float64(u), -limit, limit)
    return Sample(SWIGLU, call, expected, {mx.float32: 1e-6, mx.float16: 1e-3, mx.bfloat16: 4e-3}[dtype])


LOOKUP = KernelText(
    "lookup",
    ("codes", "scales"),
    ("o",),
    header="""
        constant uint8_t VALUES[4] = {1, 3, 5, 7};
        constant constexpr float HALF = 0.5f;
        METAL_FUNC float value(constant uint8_t* table, uint i) { return float(table[i]) * HALF; }
    """,
    source="""
        uint i = thread_position_in_grid.x;
        o[i] = static_cast<T>(value(VALUES, codes[i] % 4) * float(scales[i % 3]));
    """,
)


def lookup(dtype: mx.Dtype) -> Sample:
    """A table in the header, and an input small enough for the address space `constant`."""
    codes, scales = np.arange(96, dtype=np.uint8), mx.array([1.0, -2.0, 0.25]).astype(dtype)
    call = {
        "inputs": [mx.array(codes), scales],
        "template": [("T", dtype)],
        "grid": (96, 1, 1),
        "threadgroup": (32, 1, 1),
        "output_shapes": [(96,)],
        "output_dtypes": [dtype],
    }
    expected = np.array([0.5, 1.5, 2.5, 3.5])[codes % 4] * as_float64(scales)[np.arange(96) % 3]
    return Sample(LOOKUP, call, expected, 0)


SAMPLES: dict[str, Callable[[mx.Dtype], Sample]] = {
    "expert_matvec": expert_matvec,
    "matmul": matmul,
    "histogram": histogram,
    "swiglu": swiglu,
    "lookup": lookup,
}
