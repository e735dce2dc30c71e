"""Dense matrices for few tokens: one launch for all that share an input, every weight read once.

Memory speed is the limit. A simdgroup takes a few rows of a matrix over their whole length, 8 neighbouring weights a
lane: a lane's weights lie beside its neighbour's, and so do the numbers of x. Threadgroups are counted through the
matrices; none serves two.
"""

from __future__ import annotations

from functools import cache, partial

import mlx.core as mx

from ds4_mlx.kernels.dense_samples import dense_samples
from ds4_mlx.kernels.dense_text import arrays_of, matrix_text, products_text
from ds4_mlx.kernels.dense_twins import Job, dense_twin, parts_of
from ds4_mlx.kernels.kernel import Kernel, Launch
from ds4_mlx.kernels.metal_on_cuda import KernelText
from ds4_mlx.kernels.metal_on_cuda.signature import TemplateValue
from ds4_mlx.kernels.vectors_text import LOAD_8

_SIMDGROUPS = 8  # per threadgroup
# Rows per simdgroup. NVIDIA's compiler needs 40 registers for one token and 84 for eight; with 4 rows 128 for eight.
ROWS = 2

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
"""

_NORM = """
    NormedRows<T, W, TOKENS> rows;
    rows.x = x;
    rows.weight = norm;
    rows.stride = K;
    #pragma unroll
    for (uint t = 0; t < TOKENS; t++) {
      float squares = 0.0f;
      for (uint n = lane; n < K / 8; n += 32) {
        float v[8];
        load_8(x + t * K + 8 * n, v);
        #pragma unroll
        for (int i = 0; i < 8; i++) { squares += v[i] * v[i]; }
      }
      rows.scales[t] = metal::rsqrt(metal::simd_sum(squares) / float(K) + eps);
    }"""

# Groups of the input: one after the other in a row of x, each with its share of a matrix's rows.
_ROWS = """
    Rows<T> rows;
    rows.x = x;
    rows.stride = GROUPS * K;"""

_JOBS = """
template <uint ROWS, uint TOKENS, typename Y>
METAL_FUNC void store(const thread float* sums, uint row0, uint count, uint lane, device Y* y) {
  #pragma unroll
  for (uint i = 0; i < ROWS * TOKENS; i++) {
    uint row = row0 + i / TOKENS;
    if (lane == i && row < count) { y[size_t(i % TOKENS) * count + row] = static_cast<Y>(sums[i]); }
  }
}

// Number `n` of the simdgroups that share a matrix.
template <uint K, uint ROWS, uint TOKENS, uint GROUPS, typename M, typename X, typename Y>
METAL_FUNC void product_job(M matrix, X rows, uint n, uint count, uint lane, device Y* y) {
  uint row0 = n * ROWS;
  if (GROUPS > 1) { rows.x += metal::min(row0, count - 1) / (count / GROUPS) * K; }
  float sums[ROWS * TOKENS];
  products_of<K, ROWS, TOKENS>(matrix, rows, row0, count, lane, sums);
  store<ROWS, TOKENS>(sums, row0, count, lane, y);
}
"""

# Half as many rows of two matrices.
_SWIGLU_JOB = """
template <uint K, uint ROWS, uint TOKENS, typename M, typename X, typename Y>
METAL_FUNC void swiglu_job(M gate, M up, float limit, X rows, uint n, uint count, uint lane, device Y* y) {
  constexpr uint EACH = ROWS / 2;
  float sums[EACH * TOKENS];
  float ups[EACH * TOKENS];
  products_of<K, EACH, TOKENS>(gate, rows, n * EACH, count, lane, sums);
  products_of<K, EACH, TOKENS>(up, rows, n * EACH, count, lane, ups);
  #pragma unroll
  for (uint i = 0; i < EACH * TOKENS; i++) {
    float g = metal::min(float(static_cast<Y>(sums[i])), limit);
    float u = metal::clamp(float(static_cast<Y>(ups[i])), -limit, limit);
    sums[i] = g / (1.0f + metal::exp(-g)) * u;
  }
  store<EACH, TOKENS>(sums, n * EACH, count, lane, y);
}
"""

_BEGIN = """
    uint lane = thread_index_in_simdgroup;
    uint group = threadgroup_position_in_grid.x;
    uint n = group * SIMDGROUPS + simdgroup_index_in_threadgroup;"""


def _text(jobs: tuple[Job, ...], normed: bool) -> KernelText:
    inputs = ["x", *(["norm", "eps"] if normed else [])]
    inputs += ["limit"] if any(job.result == "swiglu" for job in jobs) else []
    body, begin = _BEGIN + (_NORM if normed else _ROWS), "0"
    for number, job in enumerate(jobs):
        names = [f"{matrix}{number}" for matrix in ("m", "w")[: job.matrices]]
        inputs += [array for name in names for array in arrays_of(job.storage, name)]
        matrices = ", ".join(matrix_text(job.storage, name) for name in names)
        rest = f"rows, n - {begin} * SIMDGROUPS, N{number}, lane, y{number}"
        body += "\n    else " if number else "\n    "
        body += f"if (group < END{number}) {{ "
        if job.result == "swiglu":
            body += f"swiglu_job<K, ROWS, TOKENS>({matrices}, limit, {rest}); }}"
        else:
            body += f"product_job<K, ROWS, TOKENS, GROUPS>({matrices}, {rest}); }}"
        begin = f"END{number}"
    header = LOAD_8 + products_text([job.storage for job in jobs]) + (_NORMED if normed else "") + _JOBS
    header += _SWIGLU_JOB if any(job.result == "swiglu" for job in jobs) else ""
    name = "_".join(["dense", *(["normed"] if normed else []), *(f"{job.storage}{job.result[0]}" for job in jobs)])
    return KernelText(name, tuple(inputs), tuple(f"y{i}" for i in range(len(jobs))), body, header)


def _launch(jobs: tuple[Job, ...], groups: int, normed: bool, *inputs: mx.array) -> Launch:
    x = inputs[0]
    tokens = x.shape[0]
    template: list[tuple[str, TemplateValue]] = [("T", x.dtype), ("K", x.shape[1] // groups), ("TOKENS", tokens)]
    template += [("ROWS", ROWS), ("SIMDGROUPS", _SIMDGROUPS), ("GROUPS", groups)]
    template += [("W", inputs[1].dtype)] if normed else []
    place = 1 + 2 * normed + any(job.result == "swiglu" for job in jobs)
    end = 0
    shapes: list[tuple[int, ...]] = []
    dtypes: list[mx.Dtype] = []
    for number, job in enumerate(jobs):
        rows = inputs[place].shape[0]
        if groups > 1 and (rows % groups or rows // groups % ROWS):
            raise ValueError(f"{rows} rows of a matrix in {groups} groups are no multiple of {ROWS} in each of them.")
        end += -(-rows * job.matrices // (ROWS * _SIMDGROUPS))
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
        _text(jobs, normed),
        partial(dense_twin, jobs, groups, normed),
        partial(_launch, jobs, groups, normed),
        partial(dense_samples, jobs, groups, normed),
    )
