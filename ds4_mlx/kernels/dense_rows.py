"""Dense matrices for few tokens: one launch for all that share an input, every weight read once.

Memory speed is the limit, and what it takes is bytes on their way: compilers do not move loads of later steps before
the work of this one, so the text does. A simdgroup takes a few rows of a matrix over their whole length, 16 bytes of
each a lane, and asks for AHEAD steps of all its rows before it uses the first. A gate and up are rows of one simdgroup.
Threadgroups are counted through the matrices; none serves two. Where the input is normed, the weights are asked for
before the norm, which is made once a threadgroup.
"""

from __future__ import annotations

from functools import cache, partial

import mlx.core as mx

from ds4_mlx.kernels.dense_samples import dense_samples
from ds4_mlx.kernels.dense_text import arrays_of, matrix_text, matrix_type, products_text
from ds4_mlx.kernels.dense_twins import Job, dense_twin, parts_of
from ds4_mlx.kernels.kernel import Kernel, Launch
from ds4_mlx.kernels.metal_on_cuda import KernelText
from ds4_mlx.kernels.metal_on_cuda.signature import TemplateValue
from ds4_mlx.kernels.vectors_text import LOAD_8

_SIMDGROUPS = 8  # per threadgroup
ROWS = 2  # per simdgroup


def chosen(tokens: int, normed: bool, grouped: bool) -> tuple[int, int]:
    """Rows of a simdgroup, and how many units of weights are read before the first is used (AHEAD).

    4 KB of weights a simdgroup for one token; more tokens need the registers for their sums. A short row that is normed
    is asked for as a whole, and four of them share the norm.
    """
    if normed:
        return (4, 2) if tokens <= 2 else (2, 2)
    return (ROWS, 4) if tokens <= 2 and not grouped else (ROWS, 2)


# Numbers are normed where they are read, rounded as the norm's result would be.
_NORMED = """
template <typename T, typename W, uint TOKENS>
struct NormedRows { const device T* x; const device W* weight; uint stride; float scales[TOKENS]; };

template <typename T, typename W, uint TOKENS>
METAL_FUNC void read_row(const thread NormedRows<T, W, TOKENS>& rows, uint token, uint n, thread float* v) {
  float weights[8];
  load_8(rows.x + token * rows.stride + 8 * n, v);
  load_8(rows.weight + 8 * n, weights);
  #pragma unroll
  for (int i = 0; i < 8; i++) { v[i] = float(static_cast<T>(v[i] * rows.scales[token] * weights[i])); }
}

// 1 / rms of token `simdgroup` and of every SIMDGROUPS-th after it.
template <uint K, uint TOKENS, uint SIMDGROUPS, typename T>
METAL_FUNC void norm_scales(const device T* x, float eps, uint simdgroup, uint lane, threadgroup float* scales) {
  for (uint t = simdgroup; t < TOKENS; t += SIMDGROUPS) {
    float squares = 0.0f;
    #pragma unroll 4
    for (uint n = lane; n < K / 8; n += 32) {
      float v[8];
      load_8(x + t * K + 8 * n, v);
      #pragma unroll
      for (int i = 0; i < 8; i++) { squares += v[i] * v[i]; }
    }
    squares = metal::simd_sum(squares);
    if (lane == 0) { scales[t] = metal::rsqrt(squares / float(K) + eps); }
  }
}
"""

# Sums of rows from `row0` on of a matrix with `count` of them.
_STORE = """
template <uint ROWS, uint TOKENS, typename Y>
METAL_FUNC void store(const thread float* sums, uint row0, uint count, uint lane, device Y* y) {
  #pragma unroll
  for (uint i = 0; i < ROWS * TOKENS; i++) {
    uint row = row0 + i / TOKENS;
    if (lane == i % 32 && row < count) { y[size_t(i % TOKENS) * count + row] = static_cast<Y>(sums[i]); }
  }
}
"""

# The first half of the sums are gates, the other half what they multiply.
_SWIGLU = """
template <uint EACH, uint TOKENS, typename T>
METAL_FUNC void multiply_gates(thread float* sums, float limit) {
  #pragma unroll
  for (uint i = 0; i < EACH * TOKENS; i++) {
    float g = metal::min(float(static_cast<T>(sums[i])), limit);
    float u = metal::clamp(float(static_cast<T>(sums[EACH * TOKENS + i])), -limit, limit);
    sums[i] = g / (1.0f + metal::exp(-g)) * u;
  }
}
"""

_BEGIN = """
    uint lane = thread_index_in_simdgroup;
    uint simdgroup = simdgroup_index_in_threadgroup;
    uint group = threadgroup_position_in_grid.x;"""

# Groups of the input: one after the other in a row of x, each with its share of a matrix's rows.
_ROWS = """
    Rows<T> rows;
    rows.x = x;
    rows.stride = GROUPS * K;"""

_NORMED_ROWS = """
    threadgroup float scales[TOKENS];
    NormedRows<T, W, TOKENS> rows;
    rows.x = x;
    rows.weight = norm;
    rows.stride = K;"""

# A job: weights are on their way before the input is normed.
_JOB = """
      float sums[ROWS * TOKENS];
      {matrix} row[ROWS];
      Batch<ROWS, AHEAD, {matrix}> batch;
      uint row0 = ((group - {begin}) * SIMDGROUPS + simdgroup) * (ROWS / {matrices});
      {rows}
      begin_products<K>(batch, row, lane);{norm}
      products_of<K, ROWS, TOKENS>(row, batch, rows, lane, sums);{swiglu}
      store<ROWS / {matrices}, TOKENS>(sums, row0, N{number}, lane, y{number});"""

_NORM = """
      norm_scales<K, TOKENS, SIMDGROUPS>(x, eps, simdgroup, lane, scales);
      threadgroup_barrier(mem_flags::mem_threadgroup);
      for (uint t = 0; t < TOKENS; t++) { rows.scales[t] = scales[t]; }"""


def _job_text(job: Job, number: int, normed: bool, grouped: bool) -> str:
    matrices = [matrix_text(job.storage, name) for name in _names(job, number)]
    each = job.matrices
    rows = [
        f"rows_from<K, ROWS / {each}>({matrix}, row0, N{number}, row + {i} * (ROWS / {each}));"
        for i, matrix in enumerate(matrices)
    ]
    if grouped:
        rows.append(f"rows.x += metal::min(row0, uint(N{number} - 1)) / (N{number} / GROUPS) * K;")
    return _JOB.format(
        matrix=matrix_type(job.storage),
        matrices=each,
        begin=f"END{number - 1}" if number else "0",
        rows="\n      ".join(rows),
        norm=_NORM if normed else "",
        swiglu=f"\n      multiply_gates<ROWS / {each}, TOKENS, T>(sums, limit);" if job.result == "swiglu" else "",
        number=number,
    )


def _names(job: Job, number: int) -> list[str]:
    return [f"{matrix}{number}" for matrix in ("m", "w")[: job.matrices]]


def _text(jobs: tuple[Job, ...], grouped: bool, normed: bool) -> KernelText:
    inputs = ["x", *(["norm", "eps"] if normed else [])]
    inputs += ["limit"] if any(job.result == "swiglu" for job in jobs) else []
    body = _BEGIN + (_NORMED_ROWS if normed else _ROWS)
    for number, job in enumerate(jobs):
        inputs += [array for name in _names(job, number) for array in arrays_of(job.storage, name)]
        text = _job_text(job, number, normed, grouped)
        body += f"\n    {'else ' if number else ''}if (group < END{number}) {{{text}\n    }}"
    header = LOAD_8 + products_text([job.storage for job in jobs]) + (_NORMED if normed else "") + _STORE
    header += _SWIGLU if any(job.result == "swiglu" for job in jobs) else ""
    name = "_".join(["dense", *(["normed"] if normed else []), *(f"{job.storage}{job.result[0]}" for job in jobs)])
    return KernelText(name, tuple(inputs), tuple(f"y{i}" for i in range(len(jobs))), body, header)


def _launch(jobs: tuple[Job, ...], groups: int, normed: bool, *inputs: mx.array) -> Launch:
    x = inputs[0]
    tokens = x.shape[0]
    rows_each, ahead = chosen(tokens, normed, groups > 1)
    template: list[tuple[str, TemplateValue]] = [("T", x.dtype), ("K", x.shape[1] // groups), ("TOKENS", tokens)]
    template += [("ROWS", rows_each), ("AHEAD", ahead), ("SIMDGROUPS", _SIMDGROUPS), ("GROUPS", groups)]
    template += [("W", inputs[1].dtype)] if normed else []
    place = 1 + 2 * normed + any(job.result == "swiglu" for job in jobs)
    end = 0
    shapes: list[tuple[int, ...]] = []
    dtypes: list[mx.Dtype] = []
    for number, job in enumerate(jobs):
        rows = inputs[place].shape[0]
        if groups > 1 and (rows % groups or rows // groups % rows_each):
            raise ValueError(f"{rows} rows of a matrix in {groups} groups are no multiple of {rows_each} in each.")
        end += -(-rows * job.matrices // (rows_each * _SIMDGROUPS))
        template += [(f"N{number}", rows), (f"END{number}", end)]
        shapes.append((tokens, rows))
        dtypes.append(mx.float32 if job.result == "float32" else x.dtype)
        place += job.matrices * parts_of(job.storage)
    threads = 32 * _SIMDGROUPS
    return Launch(template, (threads * end, 1, 1), (threads, 1, 1), shapes, dtypes)


@cache
def dense_kernel(jobs: tuple[Job, ...], *, groups: int = 1, normed: bool = False) -> Kernel:
    """(x [T, groups * in], with `normed` the norm's weight [in] and eps float32 [], with a swiglu its limit float32 [],
    and the arrays of every job's matrices [out, in]) -> an array [T, out] per job, for at most `MOST_TOKENS` tokens.

    Numbers of x are normed first if `normed`. With groups > 1, every group of x meets its share of a matrix's rows.
    """
    return Kernel(
        _text(jobs, groups > 1, normed),
        partial(dense_twin, jobs, groups, normed),
        partial(_launch, jobs, groups, normed),
        partial(dense_samples, jobs, groups, normed),
    )
