"""What goes into a kernel and comes out of it: dtypes, scalars, strides, initial values."""

import mlx.core as mx
import numpy as np
import pytest

from ds4_mlx.kernels.metal_on_cuda.signature import METAL_TYPES

from mslemu import metal_kernel

DTYPES = list(METAL_TYPES)


def copy(
    x: object, shape: tuple[int, ...], dtype: mx.Dtype, source: str = "out[i] = x[i];", **options: object
) -> mx.array:
    n = int(np.prod(shape))
    (output,) = metal_kernel("copy", ["x"], ["out"], f"uint i = thread_position_in_grid.x;\n{source}", **options)(
        inputs=[x], output_shapes=[shape], output_dtypes=[dtype], grid=(n, 1, 1), threadgroup=(32, 1, 1)
    )
    return output


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[9:])
def test_every_dtype_passes_unchanged(dtype):
    x = mx.arange(12).reshape(3, 4).astype(dtype)
    output = copy(x, (3, 4), dtype)
    assert output.dtype == dtype
    assert mx.array_equal(output, x)


def test_scalars_and_numpy_arrays_are_taken_as_mlx_takes_them():
    kernel = metal_kernel(
        "scalars", ["a", "b", "c", "d"], ["out"], "out[0] = float(a) + b + (c ? 100.0f : 0.0f) + d[1];"
    )
    (output,) = kernel(
        inputs=[3, 0.5, True, np.array([10.0, 20.0])],
        output_shapes=[(1,)],
        output_dtypes=[mx.float32],
        grid=(1, 1, 1),
        threadgroup=(1, 1, 1),
    )
    assert output.item() == 123.5


def test_scalar_outputs_have_no_dimension():
    output = copy(mx.array([2.5] * 8), (), mx.bfloat16, "out[0] = static_cast<bfloat>(x[3]);")
    assert (output.shape, output.item()) == ((), 2.5)


def test_transposed_inputs_are_copied_into_rows():
    x = mx.arange(24).astype(mx.float32).reshape(4, 6).T
    assert mx.array_equal(copy(x, (6, 4), mx.float32), x)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=lambda d: str(d)[9:])
def test_strides_reach_the_kernel_without_a_copy(dtype):
    x = mx.arange(24).reshape(4, 6).astype(dtype)[1:, ::2].T
    source = "out[i] = x[elem_to_loc(i, x_shape, x_strides, x_ndim)];"
    assert mx.array_equal(copy(x, (3, 3), dtype, source, ensure_row_contiguous=False), x)


def test_memory_between_strided_elements_is_part_of_the_input():
    x = mx.arange(12)[::3]
    assert copy(x, (10,), mx.int32, ensure_row_contiguous=False).tolist() == list(range(10))


def test_negative_strides_are_refused_without_a_copy():
    x = mx.arange(8)[::-1]
    assert copy(x, (8,), mx.int32).tolist() == x.tolist()
    with pytest.raises(ValueError, match="negative strides"):
        copy(x, (8,), mx.int32, ensure_row_contiguous=False)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.int32], ids=lambda d: str(d)[9:])
def test_init_value_fills_the_outputs(dtype):
    kernel = metal_kernel("some", ["x"], ["out"], "out[1] += x;")
    (output,) = kernel(
        inputs=[mx.array(1, dtype)],
        output_shapes=[(3,)],
        output_dtypes=[dtype],
        grid=(1, 1, 1),
        threadgroup=(1, 1, 1),
        init_value=7,
    )
    assert output.tolist() == [7, 8, 7]


def test_inputs_keep_their_values():
    x = mx.arange(8)
    kernel = metal_kernel("write", ["x"], ["out"], "((device int*)x)[0] = 9; out[0] = x[0];")
    kernel.run(
        inputs=[x], output_shapes=[(1,)], output_dtypes=[mx.int32], grid=(1, 1, 1), threadgroup=(1, 1, 1), mode="fast"
    )
    assert x.tolist() == list(range(8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": [1.0, 2.0]}, "inputs must be 1"),
        ({"output_dtypes": []}, "output_dtypes must be 1"),
        ({"output_shapes": []}, "output_shapes must be 1"),
        ({"inputs": [mx.zeros(8, mx.complex64)]}, "complex64 has no Metal type"),
        ({"mode": "quick"}, "mode must be one of checked, fast, not 'quick'"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    call = {
        "inputs": [1.0],
        "output_shapes": [(1,)],
        "output_dtypes": [mx.float32],
        "grid": (1, 1, 1),
        "threadgroup": (1, 1, 1),
    }
    with pytest.raises(ValueError, match=message):
        metal_kernel("one", ["x"], ["out"], "out[0] = x;")(**call | change)


def test_verbose_prints_what_mlx_would_compile(capsys):
    kernel = metal_kernel("shown", ["x"], ["out"], "out[thread_position_in_grid.x] = x[0];")
    call = {"output_shapes": [(1,)], "output_dtypes": [mx.float32], "grid": (1, 1, 1), "threadgroup": (1, 1, 1)}
    kernel(inputs=[mx.zeros(4)], **call, verbose=True)
    printed = capsys.readouterr().out
    assert "[[kernel]] void custom_kernel_shown(" in printed
    assert "const constant float* x [[buffer(0)]]" in printed
    assert "uint3 thread_position_in_grid [[thread_position_in_grid]]" in printed
