"""Planted mistakes: the checked mode must find each, name its kind and line, and say nothing of sound kernels."""

import mlx.core as mx
import pytest

from mslemu import MODES, EmulationError, Run, metal_kernel

INPUT = mx.arange(128).astype(mx.float32)
# Two threadgroups of 64 threads; t is the place in the threadgroup, i in the grid.
HEAD = "uint t = thread_position_in_threadgroup.x; uint i = thread_position_in_grid.x; threadgroup float s[64];\n"
BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"


def run(body: str, **options: object) -> Run:
    kernel = metal_kernel("fault", ["a"], ["out"], HEAD + body)
    return kernel.run(
        inputs=[INPUT],
        output_shapes=[(128,)],
        output_dtypes=[mx.float32],
        grid=(128, 1, 1),
        threadgroup=(64, 1, 1),
        **options,
    )


FAULTS = {
    "read past the end of an input": ("out-of-bounds", "out[i] = a[i + 1];"),
    "write past the end of an output": ("out-of-bounds", "out[i + 1] = a[i];"),
    "read before the start of an input": ("out-of-bounds", "out[i] = a[int(i) - 1];"),
    "vector read past the end": ("out-of-bounds", "out[i] = (*(const device float4*)(a + 4 * i)).x;"),
    "write to an input": ("out-of-bounds", "((device float*)a)[i] = 1.0f; out[i] = a[i];"),
    "index past a threadgroup array": ("undefined", f"s[t + 1] = a[t]; {BARRIER} out[i] = s[t];"),
    "pointer past all threadgroup memory": (
        "out-of-bounds",
        "threadgroup float* p = s; p[t + 1] = a[t]; out[i] = p[t + 1];",
    ),
    "index past a local array": (
        "undefined",
        "float m[4]; for (int k = 0; k <= 4; k++) { m[k] = a[i]; } out[i] = m[i % 4];",
    ),
    "no barrier between write and read": ("race", "s[t] = a[t]; out[i] = s[63 - t];"),
    "no barrier before the second round": (
        "race",
        f"for (int r = 0; r < 2; r++) {{ s[t] = a[t] + float(r); {BARRIER} out[i] = s[63 - t]; }}",
    ),
    "two threads write one place": ("race", f"s[t / 2] = a[t]; {BARRIER} out[i] = s[t / 2];"),
    "barrier without memory flag": (
        "race",
        "s[t] = a[t]; threadgroup_barrier(mem_flags::mem_none); out[i] = s[63 - t];",
    ),
    "barrier for other memory": (
        "race",
        "s[t] = a[t]; threadgroup_barrier(mem_flags::mem_device); out[i] = s[63 - t];",
    ),
    "simdgroup barrier across simdgroups": (
        "race",
        "s[t] = a[t]; simdgroup_barrier(mem_flags::mem_threadgroup); out[i] = s[63 - t];",
    ),
    "simdgroup barrier without memory flag": (
        "race",
        "s[t] = a[t]; simdgroup_barrier(mem_flags::mem_none); out[i] = s[t ^ 31];",
    ),
    "simd_sum taken for a barrier": ("race", "s[t] = a[t]; float n = simd_sum(1.0f); out[i] = s[t ^ 31] + n;"),
    "plain read of what atomics write": (
        "race",
        "threadgroup atomic_uint c[1]; if (t == 0) { atomic_store_explicit(c, 0u, memory_order_relaxed); }\n"
        f"{BARRIER} atomic_fetch_add_explicit(c, 1u, memory_order_relaxed); out[i] = float(*(threadgroup uint*)c);",
    ),
    "read of unwritten threadgroup memory": (
        "uninitialised",
        f"if (t < 32) {{ s[t] = a[t]; }} {BARRIER} out[i] = s[t];",
    ),
    "read of an earlier threadgroup's memory": (
        "uninitialised",
        f"if (i < 64) {{ s[t] = a[t]; }} {BARRIER} out[i] = s[t];",
    ),
    "atomic on unwritten threadgroup memory": (
        "uninitialised",
        "threadgroup atomic_uint c[1]; out[i] = float(atomic_fetch_add_explicit(c, 1u, memory_order_relaxed));",
    ),
    "read of an unwritten output": ("uninitialised", "out[i] += a[i];"),
    "barrier that some threads miss": ("barrier-divergence", f"if (t < 40) {{ {BARRIER} }} out[i] = a[i];"),
    "one barrier in each branch": (
        "barrier-divergence",
        f"if (t < 32) {{\n{BARRIER}\n}} else {{\n{BARRIER}\n}} out[i] = a[i];",
    ),
    "simd_sum that some lanes miss": (
        "simd-divergence",
        "float n = 0.0f; if (t % 32 < 5) { n = simd_sum(a[t]); } out[i] = n;",
    ),
    "simd_sum after an early return": ("simd-divergence", "if (i >= 100) { return; } out[i] = simd_sum(a[i]);"),
    "shuffle from lane 32": ("inactive-lane", "out[i] = simd_shuffle(a[i], ushort(thread_index_in_simdgroup + 1));"),
    "output element that nobody writes": ("unwritten", "if (i != 77) { out[i] = a[i]; }"),
    "output written by two threads": ("device-race", "out[i] = a[i]; if (i % 2 == 1) { out[i - 1] = 3.0f; }"),
    "output written by two threadgroups": ("device-race", "out[i] = a[i]; out[(i + 64) % 128] = 1.0f;"),
    "output written after another thread read it": (
        "device-race",
        "out[i] = a[i]; threadgroup_barrier(mem_flags::mem_device); float n = out[i ^ 1]; out[i] = n;",
    ),
    "shift by the width": ("undefined", "out[i] = float(1u << (i + 1));"),
    "signed overflow": ("undefined", "out[i] = float(int(i) * 100000000);"),
    "integer division by zero": ("undefined", "out[i] = float(100 / int(i));"),
    "misaligned vector": ("undefined", "out[i] = (*(const device float4*)(a + i % 30)).x;"),
    "float too large for an int": ("undefined", "out[i] = float(int(a[i] * 1.0e30f));"),
    "more threadgroup memory than there is": (
        "threadgroup-memory",
        f"threadgroup float big[8192]; big[t] = a[t]; {BARRIER} out[i] = big[t] + 0.0f * a[t]; s[t] = 0.0f;",
    ),
}

SOUND = {
    "every element by its thread": "out[i] = a[i];",
    "barrier between write and read": f"s[t] = a[t]; {BARRIER} out[i] = s[63 - t];",
    "simdgroup barrier within a simdgroup": (
        "s[t] = a[t]; simdgroup_barrier(mem_flags::mem_threadgroup); out[i] = s[t ^ 31];"
    ),
    "write after a read that a simdgroup barrier orders": (
        "s[t] = a[t]; simdgroup_barrier(mem_flags::mem_threadgroup); float n = s[t ^ 31];\n"
        "simdgroup_barrier(mem_flags::mem_threadgroup); n += s[t ^ 30];\n"
        "simdgroup_barrier(mem_flags::mem_threadgroup); s[t] = n; out[i] = s[t];"
    ),
    "outputs exchanged through a device barrier": (
        "out[i] = a[i]; threadgroup_barrier(mem_flags::mem_device); float n = out[i ^ 1];\n"
        "threadgroup_barrier(mem_flags::mem_device); out[i] = n;"
    ),
    "atomic load beside plain reads": (
        "threadgroup atomic_uint c[1]; if (t == 0) { atomic_store_explicit(c, 7u, memory_order_relaxed); }\n"
        f"{BARRIER} uint n = atomic_load_explicit(c, memory_order_relaxed); out[i] = float(n + *(threadgroup uint*)c);"
    ),
    "table in the body's constant memory": "constexpr float table[2] = {1.0f, 2.0f}; out[i] = table[i % 2];",
    "return after the last collective": (
        "float n = simd_sum(a[i]); out[i] = n; if (t > 3) { return; } out[i] = n + 1.0f;"
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_finds(name):
    kind, body = FAULTS[name]
    assert kind in {finding.kind for finding in run(body).findings}


@pytest.mark.parametrize("name", SOUND)
def test_accepts(name):
    assert run(SOUND[name]).findings == []


def test_names_the_line_of_an_access():
    (finding,) = run("float n = 1.0f;\n\nout[i] = a[i + 1] * n;").findings
    assert finding.where == "fault.metal:4"
    assert "'a' (size 512)" in finding.text


def test_names_the_line_of_a_barrier_in_the_header():
    header = "\nMETAL_FUNC void wait() {\n  threadgroup_barrier(mem_flags::mem_none);\n}\n"
    kernel = metal_kernel("waits", ["a"], ["out"], f"{HEAD} if (t < 40) {{ wait(); }} out[i] = a[i];", header)
    run = kernel.run(
        inputs=[INPUT], output_shapes=[(128,)], output_dtypes=[mx.float32], grid=(128, 1, 1), threadgroup=(64, 1, 1)
    )
    assert [finding.where for finding in run.findings] == ["waits.header.metal:3"]


def test_call_raises_with_all_findings():
    kernel = metal_kernel("fault", ["a"], ["out"], f"{HEAD} if (i != 77) {{ out[i] = float(int(i) * 100000000); }}")
    call = {"output_shapes": [(128,)], "output_dtypes": [mx.float32], "grid": (128, 1, 1), "threadgroup": (64, 1, 1)}
    with pytest.raises(EmulationError, match="signed integer overflow") as error:
        kernel(inputs=[INPUT], **call)
    assert [finding.kind for finding in error.value.findings] == ["undefined", "unwritten"]


def test_runs_with_missing_lanes_unless_strict():
    body = "float n = 0.0f; if (t % 32 < 5) { n = simd_sum(1.0f); } out[i] = n;"
    result = run(body, strict=False)
    assert result.findings == []
    assert result.outputs[0].tolist() == ([5.0] * 5 + [0.0] * 27) * 4


@pytest.mark.parametrize("index", ["i + 100000", "int(i) - 100000"])
def test_fast_mode_finds_accesses_far_outside(index):
    (finding,) = run(f"out[i] = a[{index}];", mode="fast").findings
    assert finding.kind == "out-of-bounds"
    assert "'a'" in finding.text


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "body",
    [
        "while (t < 1000) { threadgroup_barrier(mem_flags::mem_none); }",
        "while (t < 1000) { atomic_fetch_add_explicit((device atomic_uint*)out, 1u, memory_order_relaxed); }",
    ],
    ids=["barriers", "atomics"],
)
def test_stops_endless_kernels(body, mode):
    assert "endless" in {finding.kind for finding in run(body, mode=mode, time_limit=0.1).findings}


def test_goes_on_after_a_stopped_kernel():
    assert run("out[i] = a[i + 1];").findings
    assert run("out[i] = a[i];").outputs[0].tolist() == INPUT.tolist()
