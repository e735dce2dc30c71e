"""What g++ builds is kept by content, built once, and safe to build from several processes."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlx.core as mx
import pytest

from ds4_mlx.kernels.metal_on_cuda import KernelTextError

from mslemu import compiler, metal_kernel

CALL = {"output_shapes": [(1,)], "output_dtypes": [mx.float32], "grid": (1, 1, 1), "threadgroup": (1, 1, 1)}


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, "_folder", lambda: tmp_path)
    return tmp_path


def write(text: str):
    def build(scratch: Path) -> Path:
        file = scratch / "made"
        file.write_text(text)
        return file

    return build


def test_the_same_content_is_built_once(empty_cache):
    first = compiler.cached_library("thing", "content", write("first"))
    assert compiler.cached_library("thing", "content", write("second")) == first
    assert first.read_text() == "first"


def test_other_content_is_another_library(empty_cache):
    assert compiler.cached_library("thing", "a", write("a")) != compiler.cached_library("thing", "b", write("b"))


def test_nothing_is_left_behind_by_a_build_that_fails(empty_cache):
    with pytest.raises(compiler.CompilerError):
        compiler.cached_library("thing", "content", lambda scratch: compiler.compile_cpp(scratch / "missing.cpp"))
    assert list(empty_cache.iterdir()) == []


def test_builds_at_the_same_time_do_not_disturb_each_other(empty_cache):
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda i: compiler.cached_library("thing", "content", write("same")), range(16)))
    assert {path.read_text() for path in made} == {"same"}
    assert list(empty_cache.iterdir()) == [made[0]]


def test_a_text_that_does_not_compile_is_shown_with_its_line():
    with pytest.raises(
        KernelTextError, match=r"kernel broken: g\+\+ does not accept the text(.|\n)*broken.metal:2:\d+: error"
    ):
        metal_kernel("broken", ["x"], ["o"], "float y = x;\no[0] = y nonsense;")(inputs=[1.0], **CALL)


def test_huge_local_arrays_are_refused():
    with pytest.raises(KernelTextError, match="frame size"):
        metal_kernel(
            "huge", ["x"], ["o"], "float m[20000]; for (int i = 0; i < 20000; i++) { m[i] = x; } o[0] = m[int(x)];"
        )(inputs=[1.0], **CALL)


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(compiler.CompilerError, match=r"apt install g\+\+"):
        compiler.compiler.__wrapped__()
