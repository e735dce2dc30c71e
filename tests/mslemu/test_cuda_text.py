"""The CUDA text of a kernel: translated arguments, only what is needed of Metal's library, all of it valid C++."""

from itertools import pairwise

import mlx.core as mx
import pytest

from ds4_mlx.kernels.metal_on_cuda import KernelText
from ds4_mlx.kernels.metal_on_cuda.cuda_text import CudaText, cuda_text
from ds4_mlx.kernels.metal_on_cuda.shim import computes_with_vectors, shim, without_comments
from ds4_mlx.kernels.metal_on_cuda.signature import ArrayType, Signature

from mslemu import check_cuda, metal_kernel
from mslemu.sample_kernels import EXPERT_MATVEC, FLOATS, expert_matvec
from mslemu.test_collectives import EXPECTED as COLLECTIVES
from mslemu.test_grid import EXPECTED as POSITIONS
from mslemu.test_library import FLOAT_FUNCTIONS, WORD_FUNCTIONS


def text_of(source: str, dtype: mx.Dtype = mx.float32, ndim: int = 1, **options: object) -> CudaText:
    kernel = KernelText("k", ("x",), ("o",), source, **options)
    return cuda_text(Signature(kernel, [ArrayType(dtype, ndim, 64)], [dtype]))


def test_arguments_are_translated():
    text = text_of("o[0] = x[x_shape[0] * x_strides[0] * x_ndim];", mx.bfloat16)
    assert text.source == (
        "metal::user::msl_kernel("
        "(const metal::bfloat16_t*)x, x_shape.data(), x_strides.data(), x_ndim, (metal::bfloat16_t*)o);"
    )


def test_scalars_are_read_through_their_pointer():
    assert "*(const float*)x" in text_of("o[0] = x;", ndim=0).source


def test_atomic_outputs_are_cast():
    assert "(metal::atomic<float>*)o" in text_of("o[0];", atomic_outputs=True).source


def test_positions_without_vectors_are_plain_structs():
    text = text_of("o[thread_position_in_grid.x] = x[0];")
    assert "metal::msl_thread_position_in_grid()" in text.source
    assert "struct vec" not in text.header


def test_positions_used_whole_are_vectors():
    text = text_of("uint3 p = thread_position_in_grid; o[p.x] = x[0];")
    assert "metal::msl_vector(metal::msl_thread_position_in_grid())" in text.source
    assert "struct vec" in text.header


@pytest.mark.parametrize(
    ("source", "vectors"),
    [
        ("x[thread_position_in_grid.x]", False),
        ("auto p = thread_position_in_grid; p * 2;", True),
        ("float4 v;", True),
        ("vec<T, 4> v;", True),
        ("packed_half2 v;", True),
        ("m.thread_elements() * 2.0f", True),
    ],
)
def test_vectors_are_recognised(source, vectors):
    assert computes_with_vectors(source, {"thread_position_in_grid"}) is vectors


def test_the_text_is_short():
    """MLX hashes it at every call: 0.3 us per KB."""
    sample = expert_matvec(mx.float16)
    call = sample.call
    text = cuda_text(Signature.of_call(EXPERT_MATVEC, call["inputs"], call["output_dtypes"], call["template"]))
    assert len(text.header) + len(text.source) < 6000


def test_only_what_is_used_is_taken():
    assert "simd_sum" in shim({"simd_sum"})
    assert "simd_max" not in shim({"simd_sum"})
    assert len(shim(set())) < 600


def test_what_an_item_uses_comes_before_it():
    text = shim({"atomic_fetch_max_explicit"})
    places = [
        text.index(name) for name in (" as_type(", "struct msl_max", " msl_modify(", " atomic_fetch_max_explicit(")
    ]
    assert all(a < b for a, b in pairwise(places))


def test_comments_go_and_lines_stay():
    assert without_comments("  a;  // b\n\n/* c\n */ d;\n") == "a;\n\n\nd;\n"


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: str(d)[9:])
def test_arithmetic_of_every_float_compiles(dtype):
    source = """
        T a = x[0], b = T(2.0f);
        a = a * b + a / b - T(1) * -a;
        a += b; a -= b; a *= b; a /= b;
        bool less = a < b && a != b;
        float wide = float(a) * 0.5f + float(half(float(a))) + float(bfloat(float(b)));
        T c = less ? a : b;
        vec<T, 4> v = vec<T, 4>(a, b, a, b);
        v = v * b + v;
        v += vec<T, 4>(c);
        o[0] = static_cast<T>(wide) + metal::exp(c) + metal::max(a, b) + v.w + metal::exp(v).x;
    """
    assert check_cuda(metal_kernel("k", ["x"], ["o"], source), [mx.zeros(64, dtype)], [dtype], [("T", dtype)]) == []


def compiles(body: str, dtype: mx.Dtype, **options: object) -> list[str]:
    return check_cuda(metal_kernel("k", ["xs"], ["o"], body, **options), [mx.zeros(64, dtype)], [dtype])


def test_the_library_compiles():
    rows = "".join(f"o[{n}] = {expression};\n" for n, expression in enumerate(FLOAT_FUNCTIONS))
    assert compiles(f"float x = xs[0];\n{rows}", mx.float32) == []


@pytest.mark.parametrize("expression", FLOAT_FUNCTIONS)
def test_each_function_takes_all_it_needs(expression):
    assert compiles(f"float x = xs[0]; o[0] = {expression};", mx.float32) == []


def test_functions_of_integers_compile():
    rows = "".join(f"o[{n}] = {expression};\n" for n, expression in enumerate(WORD_FUNCTIONS))
    assert compiles(f"uint x = xs[0];\n{rows}", mx.uint32) == []


@pytest.mark.parametrize("expression", COLLECTIVES)
def test_each_collective_takes_all_it_needs(expression):
    assert compiles(f"uint lane = thread_index_in_simdgroup; int v = xs[lane]; o[lane] = {expression};", mx.int32) == []


@pytest.mark.parametrize("value", POSITIONS)
def test_each_position_takes_all_it_needs(value):
    assert compiles(f"o[0] = {value};", mx.uint32) == []


@pytest.mark.parametrize("name", ["add", "sub", "max", "min", "or", "and", "xor"])
def test_each_atomic_takes_all_it_needs(name):
    source = f"atomic_fetch_{name}_explicit(&o[0], xs[0], memory_order_relaxed);"
    assert compiles(source, mx.int32, atomic_outputs=True) == []


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: str(d)[9:])
def test_matrices_compile(dtype):
    name = {mx.float32: "float", mx.float16: "half", mx.bfloat16: "bfloat"}[dtype]
    source = f"""
        simdgroup_{name}8x8 a, b;
        simdgroup_load(a, xs, 8, ulong2(0), true);
        b.thread_elements() = a.thread_elements() * a.thread_elements();
        simdgroup_multiply(b, a, a);
        simdgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);
        simdgroup_store(b, o);
    """
    assert compiles(source, dtype) == []


def test_mistakes_are_named_by_the_kernels_line():
    errors = compiles("float x = xs[0];\no[0] = half(x) > half(0.0f) ? half(x) : 0.0f;", mx.float32)
    assert any(row.startswith("k.metal:2:") and "error" in row for row in errors)
