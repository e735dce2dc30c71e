"""The trained-in rounding against DeepSeek's kernels, value for value."""

import mlx.core as mx
import numpy as np

from ds4_mlx.quant import simulate

from support import Golden


def test_fp8_in_blocks_of_64_equals_the_reference(golden: Golden) -> None:
    z = golden("kernels")
    out = simulate.simulate_fp8(mx.array(z["fp8_in"]), 64)
    assert np.array_equal(np.array(out), z["fp8_block64_out"])


def test_fp8_codes_and_scales_of_activations_equal_the_reference(golden: Golden) -> None:
    z = golden("kernels")
    codes, scales = simulate.fp8_codes(mx.array(z["act_in"]), 128)
    assert np.array_equal(np.array(codes), z["act_codes"])
    assert np.array_equal(np.array(scales), z["act_scale"])


def test_hadamard_then_fp4_is_the_hadamard_and_the_fp4_of_the_reference(golden: Golden) -> None:
    z = golden("kernels")
    rotated = mx.hadamard_transform(mx.array(z["had_in"]), scale=128**-0.5).astype(mx.bfloat16)
    ulp = np.maximum(np.abs(z["had_out"]), 2**-126) * 2.0**-7
    assert np.all(np.abs(np.array(rotated.astype(mx.float32)) - z["had_out"]) <= ulp)
    # The rotation is its own inverse, so feeding it rotated input exposes the FP4 rounding alone (to float32 rounding).
    unrotated = mx.hadamard_transform(mx.array(z["fp4_in"]), scale=128**-0.5)
    out = simulate.rotate_and_simulate_index(unrotated)
    assert np.mean(np.isclose(np.array(out), z["fp4_block32_out"], atol=1e-6)) > 0.99


def test_fp4_rounding_alone_equals_the_reference(golden: Golden) -> None:
    z = golden("kernels")
    blocks = z["fp4_in"].reshape(-1, 4, 32)
    amax = np.maximum(np.abs(blocks).max(-1, keepdims=True), 6 * 2.0**-126).astype(np.float32)
    scale = simulate.power_of_two_scale(mx.array(amax), 6.0)
    out = simulate.round_e2m1(mx.array(blocks) / scale) * scale
    assert np.array_equal(np.array(out).reshape(-1, 128), z["fp4_block32_out"])


def test_e2m1_ties_go_to_the_even_code() -> None:
    ties = mx.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -0.25, -0.75, -2.5, -5.0])
    assert simulate.round_e2m1(ties).tolist() == [0, 1, 1, 2, 2, 4, 4, 0, -1, -2, -4]


def test_a_largest_value_on_the_edge_keeps_the_smaller_scale() -> None:
    amax = mx.array([448.0, 448.0 * 4, 450.0])  # 450 is the next bf16 value
    assert simulate.power_of_two_scale(amax, 448.0).tolist() == [1.0, 4.0, 2.0]


def test_a_row_of_zeros_stays_zero() -> None:
    zeros = mx.zeros((2, 128))
    assert simulate.simulate_fp8(zeros, 64).tolist() == zeros.tolist()
    assert simulate.rotate_and_simulate_index(zeros).tolist() == zeros.tolist()


def test_rounding_twice_changes_nothing() -> None:
    x = mx.random.normal((16, 448), key=mx.random.key(0)).astype(mx.bfloat16)
    once = simulate.simulate_fp8(x, 64)
    assert mx.array_equal(simulate.simulate_fp8(once, 64), once)


def test_rope_channels_of_a_row_are_left_alone() -> None:
    row = mx.random.normal((4, 128), key=mx.random.key(1))
    out = simulate.simulate_kv(row, nope_dim=64)
    assert mx.array_equal(out[:, 64:], row[:, 64:])
    assert not mx.array_equal(out[:, :64], row[:, :64])


def test_a_width_that_is_no_multiple_of_the_block_ends_in_a_shorter_block() -> None:
    x = mx.random.normal((3, 160), key=mx.random.key(2))
    out = simulate.simulate_activation(x)
    assert mx.array_equal(out[:, :128], simulate.simulate_fp8(x[:, :128], 128))
    assert mx.array_equal(out[:, 128:], simulate.simulate_fp8(x[:, 128:], 32))
