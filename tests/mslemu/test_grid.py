"""Threads know where they stand, in ragged grids too."""

import mlx.core as mx
import numpy as np
import pytest

from mslemu import MODES, metal_kernel

GRID, THREADGROUP = (10, 5, 3), (8, 2, 1)  # the last threadgroups are 2 wide, or 1 high
Z, Y, X = np.meshgrid(range(3), range(5), range(10), indexing="ij")
WIDTH, HEIGHT = np.where(X < 8, 8, 2), np.where(Y < 4, 2, 1)
INDEX = X % 8 + WIDTH * (Y % 2)
EXPECTED = {
    "thread_position_in_grid.x + 100 * thread_position_in_grid.y + 10000 * thread_position_in_grid.z": X
    + 100 * Y
    + 10000 * Z,
    "thread_position_in_threadgroup.x + 100 * thread_position_in_threadgroup.y": X % 8 + 100 * (Y % 2),
    "threadgroup_position_in_grid.x + 100 * threadgroup_position_in_grid.y": X // 8 + 100 * (Y // 2),
    "threads_per_threadgroup.x + 100 * threads_per_threadgroup.y": WIDTH + 100 * HEIGHT,
    "dispatch_threads_per_threadgroup.x + 100 * dispatch_threads_per_threadgroup.y": 208 + 0 * X,
    "threadgroups_per_grid.x + 100 * threadgroups_per_grid.y + 10000 * threadgroups_per_grid.z": 30302 + 0 * X,
    "threads_per_grid.x + 100 * threads_per_grid.y + 10000 * threads_per_grid.z": 30510 + 0 * X,
    "grid_size.x + 100 * grid_size.y + grid_origin.x": 510 + 0 * X,
    "thread_index_in_threadgroup": INDEX,
    "thread_index_in_simdgroup": INDEX % 32,
    "thread_index_in_quadgroup": INDEX % 4,
    "simdgroup_index_in_threadgroup": INDEX // 32,
    "quadgroup_index_in_threadgroup": INDEX // 4,
    "simdgroups_per_threadgroup + 100 * dispatch_simdgroups_per_threadgroup": 101 + 0 * X,
    "threads_per_simdgroup + 100 * thread_execution_width": 3232 + 0 * X,
}


@pytest.mark.parametrize("mode", MODES)
def test_positions(mode):
    writes = "\n".join(f"o[i * {len(EXPECTED)} + {n}] = {value};" for n, value in enumerate(EXPECTED))
    place = "uint3 p = thread_position_in_grid; uint3 g = threads_per_grid; uint i = (p.z * g.y + p.y) * g.x + p.x;\n"
    (output,) = metal_kernel("positions", ["a"], ["o"], f"{place}{writes}")(
        inputs=[0.0],
        output_shapes=[(3, 5, 10, len(EXPECTED))],
        output_dtypes=[mx.uint32],
        grid=GRID,
        threadgroup=THREADGROUP,
        mode=mode,
    )
    for n, (value, expected) in enumerate(EXPECTED.items()):
        assert np.array_equal(np.array(output)[..., n], expected), value


def test_simdgroups_are_counted_in_the_threadgroup():
    (output,) = metal_kernel(
        "simdgroups",
        ["a"],
        ["o"],
        """
        o[thread_position_in_grid.x] = simdgroup_index_in_threadgroup * 100 + thread_index_in_simdgroup;
    """,
    )(inputs=[0.0], output_shapes=[(160,)], output_dtypes=[mx.uint32], grid=(160, 1, 1), threadgroup=(96, 1, 1))
    expected = [t // 32 * 100 + t % 32 for t in (i % 96 for i in range(160))]
    assert output.tolist() == expected


@pytest.mark.parametrize(
    ("grid", "threadgroup", "message"),
    [
        ((64, 1, 1), (2048, 1, 1), "at most 1024 threads"),
        ((0, 1, 1), (32, 1, 1), "positive"),
        ((64, 1), (32, 1), "three"),
    ],
)
def test_impossible_grids_are_refused(grid, threadgroup, message):
    kernel = metal_kernel("nothing", ["a"], ["o"], "o[thread_position_in_grid.x] = a;")
    with pytest.raises(ValueError, match=message):
        kernel(inputs=[0.0], output_shapes=[(64,)], output_dtypes=[mx.float32], grid=grid, threadgroup=threadgroup)
