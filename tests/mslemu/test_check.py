"""The type check reports what Metal's compiler would not take, at its line, and nothing of sound kernels."""

import mlx.core as mx
import pytest

from mslemu import check, metal_kernel

LARGE, SMALL = mx.zeros(64), mx.zeros(4)  # 64 elements lie in `device`, 4 in `constant`


def problems(
    source: str, header: str = "", inputs: tuple[mx.array, ...] = (LARGE, SMALL), **options: object
) -> list[str]:
    kernel = metal_kernel("checked", ["a", "s"], ["out"], source, header)
    return check(kernel, list(inputs), [mx.float32], **options)


FAULTS = {
    "device pointer to a small input": ("const device float* p = s; out[0] = p[0];", "'constant float const *'"),
    "cast from constant to device": (
        "const device float* p = (const device float*)s; out[0] = p[0];",
        "changes the address space",
    ),
    "threadgroup pointer to an input": ("threadgroup float* p = a; out[0] = p[0];", "cannot initialize"),
    "pointer without a space to an output": ("float* p = out; p[0] = 1.0f;", "has no address space"),
    "pointer without a space to a local": ("float m[4]; float* p = m; out[0] = p[0];", "has no address space"),
    "cast without a space": ("out[0] = *(float*)out;", "has no address space"),
    "write to an input": ("a[0] = 1.0f;", "not assignable"),
    "min of two types": ("uint i = 3; out[0] = float(metal::min(i, 3));", "ambiguous"),
    "half4 as float4": ("half4 h = half4(1.0f); float4 f = h; out[0] = f.x;", "cannot initialize"),
    "double literal": ("float4 f = float4(1.0f) * 2.0; out[0] = f.x;", "write 2.0f"),
    "three components for four": ("float4 f = float4(1.0f, 2.0f, 3.0f); out[0] = f.x;", "as many components"),
    "as_type to another size": ("out[0] = as_type<float>(half(1.0f));", "sizes differ"),
    "if constexpr": ("if constexpr (true) { out[0] = 1.0f; }", "C++17"),
    "double": ("double d = 1.0f; out[0] = float(d);", "no double"),
    "lambda": ("auto f = [&](float x) { return x; }; out[0] = f(1.0f);", "lambda"),
    "std::max": ("out[0] = std::max(1.0f, 2.0f);", "no std::"),
    "threadgroup variable in a block": (
        "if (true) { threadgroup float b[4]; b[0] = 1.0f; out[0] = b[0]; }",
        "outermost scope",
    ),
    "unknown function": ("out[0] = metal::erfinv(1.0f);", "erfinv"),
    "uninitialised local": ("float x; out[0] = x;", "uninitialized"),
    "shift by the width": ("out[0] = float(1u << 32);", "shift count"),
    "attribute in a comment only": ("// no thread_position_in_grid\nout[0] = 1.0f;", "takes the comment's"),
    "another word that holds a shape's name": (
        "int max_s_shape = 1; out[0] = float(max_s_shape);",
        "rename the input 's'",
    ),
}

SOUND = {
    "pointers into every space": (
        "const device float* p = a + 1; const constant float* q = s; float m[2] = {p[0], q[1]};\n"
        "thread float* r = m; threadgroup float b[4]; threadgroup float* t = b; t[0] = r[1]; out[0] = b[0];"
    ),
    "products that look like pointers": (
        "constexpr int M = 2; int k = 3; float x = float(M * k); x = (x * x); out[0] = x;"
    ),
    "half and float mixed": "half h = 2.0h; float f = h * 0.5f + float(bfloat(h == 2 ? 1.0f : 0.0f)); out[0] = f;",
    "threadgroup memory through atomics": (
        "threadgroup atomic_uint n[1]; atomic_store_explicit(&n[0], 0u, memory_order_relaxed);\n"
        "out[0] = float(atomic_load_explicit(&n[0], memory_order_relaxed));"
    ),
    "vectors": "float4 v = float4(float2(1.0f), 2.0f, 3.0f); float3 w = metal::min(v.xyz, 1.0f) * 2.0f; out[0] = w.z;",
}


@pytest.mark.parametrize("name", FAULTS)
def test_reports(name):
    source, expected = FAULTS[name]
    assert expected in "\n".join(problems(source))


@pytest.mark.parametrize("name", SOUND)
def test_accepts(name):
    assert problems(SOUND[name]) == []


def test_one_body_can_pass_for_a_large_input_and_fail_for_a_small_one():
    source = "const device float* p = s; out[0] = p[0];"
    assert problems(source, inputs=(LARGE, LARGE)) == []
    assert problems(source) != []


def test_scalars_are_references():
    assert problems("out[0] = s;", inputs=(LARGE, mx.array(1.0))) == []
    assert problems("out[0] = s[0];", inputs=(LARGE, mx.array(1.0))) != []


def test_names_line_and_column():
    (problem,) = problems("float x = 1.0f;\nout[0] = x +\n    nothing;")
    assert problem == "checked.metal:3:5: error: use of undeclared identifier 'nothing'"


def test_names_lines_of_the_header():
    (problem,) = problems("out[0] = twice(1.0f);", header="\nMETAL_FUNC float twice(float x) {\n  return x + y;\n}\n")
    assert problem.startswith("checked.header.metal:3:14: error:")


def test_a_template_is_checked_for_the_types_of_the_call():
    source = "T x = T(a[0]); out[0] = float(x.y);"
    assert "member reference" in problems(source, template=[("T", mx.float32)])[0]


def test_template_parameter_in_the_preprocessor():
    source = "#if (D % 4) != 0\nout[0] = 1.0f;\n#endif"
    (problem,) = problems(source, template=[("D", 6)])
    assert problem.startswith("checked.metal:1: lint: a template parameter is nothing (0) to the preprocessor")


def test_cast_between_spaces_is_found_in_a_template():
    source = "const device T* p = (const device T*)s; out[0] = float(p[0]);"
    assert "changes the address space" in "\n".join(problems(source, template=[("T", mx.float32)]))
