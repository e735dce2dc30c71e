"""Metal text carried over to CUDA, word by word."""

import pytest

from ds4_mlx.kernels.metal_on_cuda import KernelTextError
from ds4_mlx.kernels.metal_on_cuda.rewrite import Cuda, rewrite
from ds4_mlx.kernels.metal_on_cuda.tokens import tokenize


def to_cuda(source: str) -> str:
    """With single spaces."""
    return " ".join(rewrite(source, Cuda()).split())


@pytest.mark.parametrize(
    ("metal", "cuda"),
    [
        ("const device float* p = x;", "const float* p = x;"),
        ("thread T& r = y;", "T& r = y;"),
        ("threadgroup float* p = tile;", "float* p = tile;"),
        ("((device T4*)o)[i]", "(( T4*)o)[i]"),
        ("threadgroup float tile[64];", "__shared__ __align__(16) float tile[64];"),
        (
            "threadgroup vec<T, 4> a[2][8], b;",
            "__shared__ __align__(16) vec<T, 4> a[2][8]; __shared__ __align__(16) vec<T, 4> b;",
        ),
        (
            "threadgroup unsigned int n[sizeof(unsigned int)];",
            "__shared__ __align__(16) unsigned int n[sizeof(unsigned int)];",
        ),
        ("float f(threadgroup float tile[64], uint i)", "float f( float tile[64], uint i)"),
        ("constant float table[2] = {1.0f, 2.0f};", "const float table[2] = {1.0f, 2.0f};"),
        ("constexpr constant int N = 4;", "constexpr int N = 4;"),
        ("constant uint* p = n;", "const uint* p = n;"),
        ("const constant uint& r = n;", "const uint& r = n;"),
        ("constant const uint* p, constant uint const* q", "const uint* p, uint const* q"),
        ("f((constant T*)p)", "f((const T*)p)"),
        ("x = 1.0 + 2e-3 + .5 + 3;", "x = 1.0f + 2e-3f + .5f + 3;"),
        ("h = 1.0h + 2h + 1.5bf + 0x1F + 3u;", "h = half(1.0f) + half(2.0f) + bfloat(1.5f) + 0x1F + 3u;"),
        ("v.xy = w;", "v.template swizzle<0,1>() = w;"),
        ("v.x + v.zw.y", "v.x + v.template swizzle<2,3>().y"),
        ("float4(a, b)", "float4(a, b)"),
        ("#include <metal_stdlib>\nint x;", "int x;"),
        ("a < b; c > d", "a < b; c > d"),
    ],
)
def test_words(metal, cuda):
    assert to_cuda(metal) == cuda


def test_comments_and_strings_are_left_alone():
    source = 'f("device 1.0"); // threadgroup float x[1.0]\n/* constant */'
    assert rewrite(source, Cuda()) == source


def test_lines_stay_where_they_are():
    source = "threadgroup float a[4],\n  b[8];\nint x;\n"
    assert rewrite(source, Cuda()).split("\n")[2] == "int x;"


def test_threadgroup_variable_with_an_initializer_is_refused():
    with pytest.raises(KernelTextError, match="line 2: the threadgroup variable 'x' has an initializer"):
        rewrite("\nthreadgroup float x = 1.0f;", Cuda())


def test_tokens_joined_give_the_text():
    source = "a->b += 1.5e-3f; // c\n'\\'' \"//\" /* d\n */ vec<T, 4> x;\\\n#if 0"
    assert "".join(token.text for token in tokenize(source)) == source
