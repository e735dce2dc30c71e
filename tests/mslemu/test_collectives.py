"""What the lanes of a simdgroup do together, lane by lane against numpy."""

import mlx.core as mx
import numpy as np
import pytest

from mslemu import ORDERS, metal_kernel

LANES = np.arange(32)
VALUES = np.random.default_rng(0).permutation(32).astype(np.int32) * 3 + 1


def over_lanes(expression: str, values: np.ndarray = VALUES, **options: object) -> np.ndarray:
    """The value of `expression` in each lane; `v` is the lane's number of `values`."""
    source = f"uint lane = thread_index_in_simdgroup; auto v = x[lane]; o[lane] = {expression};"
    x = mx.array(values)
    (output,) = metal_kernel("lanes", ["x"], ["o"], source)(
        inputs=[x], output_shapes=[(32,)], output_dtypes=[x.dtype], grid=(32, 1, 1), threadgroup=(32, 1, 1), **options
    )
    return np.array(output)


EXPECTED = {
    "simd_sum(v)": VALUES.sum(),
    "simd_product(1 + v % 2)": np.prod(1 + VALUES % 2),
    "simd_max(v)": VALUES.max(),
    "simd_min(v)": VALUES.min(),
    "simd_and(v | 64)": np.bitwise_and.reduce(VALUES | 64),
    "simd_or(v)": np.bitwise_or.reduce(VALUES),
    "simd_xor(v)": np.bitwise_xor.reduce(VALUES),
    "int(simd_any(v == 1))": 1,
    "int(simd_any(v == 2))": 0,
    "int(simd_all(v >= 1))": 1,
    "int(simd_all(v > 1))": 0,
    "int(uint(ulong(simd_ballot(lane % 3 == 0)) & 0xffffu))": sum(1 << lane for lane in range(0, 16, 3)),
    "int(simd_ballot(v > 0).all())": 1,
    "simd_broadcast(v, ushort(5))": VALUES[5],
    "simd_broadcast_first(v)": VALUES[0],
    "int(simd_is_first())": LANES == 0,
    "simd_shuffle(v, ushort(31 - lane))": VALUES[::-1],
    "simd_shuffle_xor(v, ushort(5))": VALUES[LANES ^ 5],
    "simd_shuffle_down(v, ushort(3))": VALUES[np.where(LANES + 3 > 31, LANES, LANES + 3)],
    "simd_shuffle_up(v, ushort(3))": VALUES[np.where(LANES < 3, LANES, LANES - 3)],
    "simd_shuffle_rotate_down(v, ushort(3))": VALUES[(LANES + 3) % 32],
    "simd_shuffle_rotate_up(v, ushort(3))": VALUES[(LANES - 3) % 32],
    "simd_prefix_inclusive_sum(v)": VALUES.cumsum(),
    "simd_prefix_exclusive_sum(v)": VALUES.cumsum() - VALUES,
    "quad_sum(v)": VALUES.reshape(8, 4).sum(1).repeat(4),
    "quad_shuffle_xor(v, ushort(3))": VALUES[LANES ^ 3],
    "quad_broadcast(v, ushort(2))": VALUES.reshape(8, 4)[:, 2].repeat(4),
    "simd_sum(int2(v, 1)).x * 100 + simd_sum(int2(v, 1)).y": VALUES.sum() * 100 + 32,
}


def test_integers():
    source = "uint lane = thread_index_in_simdgroup; int v = x[lane];\n"
    source += "\n".join(f"o[{n * 32} + lane] = {expression};" for n, expression in enumerate(EXPECTED))
    (output,) = metal_kernel("all_collectives", ["x"], ["o"], source)(
        inputs=[VALUES],
        output_shapes=[(len(EXPECTED), 32)],
        output_dtypes=[mx.int32],
        grid=(32, 1, 1),
        threadgroup=(32, 1, 1),
    )
    for row, (expression, expected) in zip(np.array(output), EXPECTED.items(), strict=True):
        assert np.array_equal(row, np.broadcast_to(expected, 32)), expression


@pytest.mark.parametrize("order", ORDERS)
def test_order_of_a_sum(order):
    values = np.random.default_rng(1).standard_normal(32).astype(np.float32)
    tree = values
    while tree.size > 1:
        tree = tree[: tree.size // 2] + tree[tree.size // 2 :]
    expected = {"tree": tree[0], "ascending": values.cumsum()[-1], "descending": values[::-1].cumsum()[-1]}[order]
    assert np.array_equal(over_lanes("simd_sum(v)", values, order=order), np.full(32, expected))


def test_lanes_that_take_no_part_do_not_count():
    values = -VALUES
    source = "lane < 7 ? simd_max(v) : 0"
    assert over_lanes(source, values, strict=False).tolist() == [values[:7].max()] * 7 + [0] * 25


def test_matrix_product_and_transposed_load():
    rng = np.random.default_rng(2)
    a, b = (rng.integers(-8, 8, (8, 8)).astype(np.float32) for _ in range(2))
    source = """
        simdgroup_float8x8 ma, mb, mc;
        simdgroup_load(ma, a, 8, ulong2(0), true);
        simdgroup_load(mb, b);
        simdgroup_multiply(mc, ma, mb);
        simdgroup_multiply_accumulate(mc, ma, mb, mc);
        simdgroup_store(mc, o);
    """
    (output,) = metal_kernel("product", ["a", "b"], ["o"], f"{source} // thread_position_in_grid")(
        inputs=[a, b], output_shapes=[(8, 8)], output_dtypes=[mx.float32], grid=(32, 1, 1), threadgroup=(32, 1, 1)
    )
    assert np.array_equal(np.array(output), 2 * a.T @ b)
