"""Every kernel against its twin on the user's own device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import mlx.core as mx

from ds4_mlx.kernels.attend_rows import attend_kernel, combine_kernel
from ds4_mlx.kernels.attend_tiles import attend_tiles_kernel
from ds4_mlx.kernels.attention_rows import attention_rows_kernel
from ds4_mlx.kernels.dense_rows import dense_kernel
from ds4_mlx.kernels.dense_twins import Job
from ds4_mlx.kernels.expert_return import expert_return_kernel
from ds4_mlx.kernels.expert_rows import down_kernel, gate_up_kernel
from ds4_mlx.kernels.expert_tiles import tile_down_kernel, tile_gate_up_kernel
from ds4_mlx.kernels.index_rows import INDEX_SCORES, best_entries_kernel
from ds4_mlx.kernels.index_tiles import INDEX_TILES
from ds4_mlx.kernels.kernel import Kernel, relative_error
from ds4_mlx.kernels.pack_rows import PACK_INDEX, pack_kv_kernel
from ds4_mlx.kernels.pool_rows import KEEP_ROWS, KINDS, pool_kernel
from ds4_mlx.kernels.route import HASHED, scored_kernel
from ds4_mlx.kernels.row_samples import DTYPES, NOPE
from ds4_mlx.kernels.runs import FORMATS
from ds4_mlx.kernels.stream_many import MANY_EXPERT_RETURN, MANY_RETURN, MANY_SUMS
from ds4_mlx.kernels.stream_rows import LEAVE, SITE_SUMS, dense_return_kernel, enter_kernel
from ds4_mlx.kernels.unpack_rows import UNPACK_KV, unpack_index_kernel

KERNELS: list[Kernel] = [
    *(make(name) for make in (gate_up_kernel, down_kernel, tile_gate_up_kernel, tile_down_kernel) for name in FORMATS),
    dense_kernel((Job("mxfp8"), Job("q8_0"), Job("BF16", "float32"), Job("F32"))),
    dense_kernel((Job("mxfp8"),), groups=2),
    dense_kernel((Job("mxfp8"), Job("q8_0")), normed=True),
    dense_kernel((Job("BF16", "float32"), Job("mxfp8", "swiglu"))),
    scored_kernel(6),
    HASHED,
    SITE_SUMS,
    enter_kernel(20),
    *(dense_return_kernel(storage) for storage in ("mxfp8", "q8_0")),
    LEAVE,
    MANY_SUMS,
    MANY_RETURN,
    MANY_EXPERT_RETURN,
    *(expert_return_kernel(name, "mxfp8") for name in FORMATS),
    pack_kv_kernel(NOPE),
    UNPACK_KV,
    PACK_INDEX,
    *(unpack_index_kernel(dtype) for dtype in DTYPES),
    *(attention_rows_kernel(indexed=indexed) for indexed in (False, True)),
    attend_kernel(0, choosing=False),
    attend_kernel(4, choosing=False),
    attend_kernel(4, choosing=True),
    attend_kernel(128, choosing=False),
    *(combine_kernel(dtype) for dtype in DTYPES),
    attend_tiles_kernel(0, choosing=False),
    attend_tiles_kernel(4, choosing=False),
    attend_tiles_kernel(4, choosing=True),
    attend_tiles_kernel(128, choosing=False),
    INDEX_SCORES,
    INDEX_TILES,
    *(best_entries_kernel(512, 2_048, given=given) for given in (False, True)),
    KEEP_ROWS,
    *(pool_kernel(kind, dtype) for kind in KINDS for dtype in DTYPES),
]


class Outcome(NamedTuple):
    """The largest `relative_error` of a kernel over its samples with activations of `dtype`.

    `tolerance` is what it may be. `error` is infinite if the kernel gave something that is not a number; `problem` says
    why it could not run at all.
    """

    kernel: str
    dtype: mx.Dtype
    error: float
    tolerance: float
    problem: str = ""

    @property
    def good(self) -> bool:
        """Whether kernel and twin agree."""
        return not self.problem and self.error <= self.tolerance


def selftest(kernels: list[Kernel] = KERNELS) -> Iterator[Outcome]:
    """Runs `kernels` on the default device. Where that is the CPU, kernels are their twins and nothing can differ.

    Twins always run on the CPU: on NVIDIA, MLX rounds the inputs of float32 matmuls.
    """
    for kernel in kernels:
        errors: dict[mx.Dtype, float] = {}
        bounds: dict[mx.Dtype, float] = {}
        problem = ""
        for inputs in kernel.samples():
            dtype = inputs[0].dtype
            bounds[dtype] = kernel.tolerance(inputs)
            with mx.stream(mx.cpu):
                expected = kernel.twin(*inputs)
                mx.eval(expected)
            try:
                error = relative_error(kernel(*inputs), expected)
            except Exception as failure:  # a compiler's complaint can be of any type
                problem, error = str(failure).strip() or repr(failure), float("inf")
            errors[dtype] = max(errors.get(dtype, 0.0), error)
            if problem:
                break
        for dtype, error in errors.items():
            yield Outcome(kernel.text.name, dtype, error, bounds[dtype], problem)
