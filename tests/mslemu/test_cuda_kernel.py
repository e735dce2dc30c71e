"""`cuda_kernel` is called like a Metal kernel, builds late, and builds once per signature."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from ds4_mlx.errors import UserError
from ds4_mlx.kernels.metal_on_cuda import cuda_kernel
from ds4_mlx.kernels.metal_on_cuda.included import folder, included

CALL = {"output_shapes": [(64,)], "output_dtypes": [mx.float32], "grid": (64, 1, 1), "threadgroup": (32, 1, 1)}


class Recorder:
    """Stands for `mx.fast.cuda_kernel`, which refuses to build where MLX has no CUDA."""

    def __init__(self) -> None:
        self.built: list[dict[str, Any]] = []
        self.calls: list[dict[str, Any]] = []

    def __call__(self, **arguments: Any) -> Any:
        self.built.append(arguments)
        return lambda **call: self.calls.append(call) or [mx.zeros(shape) for shape in call["output_shapes"]]


@pytest.fixture
def recorder(monkeypatch, tmp_path):
    included.cache_clear()
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path))
    recorder = Recorder()
    monkeypatch.setattr(mx.fast, "cuda_kernel", recorder)
    return recorder


def kernel():
    return cuda_kernel("twice", ["x"], ["y"], "uint i = thread_position_in_grid.x; y[i] = float(x[i]) * 2.0f;")


def test_nothing_is_built_before_the_first_call(recorder):
    twice = kernel()
    assert recorder.built == []
    twice(inputs=[mx.zeros(64)], **CALL)
    assert len(recorder.built) == 1


def test_one_kernel_per_signature(recorder):
    twice = kernel()
    for x in (mx.zeros(64), mx.ones(32), mx.zeros(64, mx.float16), mx.zeros((8, 8)), mx.zeros(64)):
        twice(inputs=[x], **CALL)
    assert len(recorder.built) == 3
    assert len(recorder.calls) == 5


def test_template_arguments_of_equal_value_are_told_apart(recorder):
    twice = kernel()
    for value in (1, True, 1):
        twice(inputs=[mx.zeros(64)], template=[("N", value)], **CALL)
    assert ["<1>" in b["source"] for b in recorder.built] == [True, False]
    assert "<true>" in recorder.built[1]["source"]


def test_the_threadgroup_is_no_larger_than_the_grid(recorder):
    kernel()(inputs=[mx.zeros(64)], **CALL | {"threadgroup": (256, 1, 1)})
    assert recorder.calls[0]["threadgroup"] == (64, 1, 1)


def test_scalars_are_taken(recorder):
    kernel()(inputs=[2.5], **CALL, init_value=0)
    assert recorder.calls[0]["inputs"][0].dtype == mx.float32
    assert recorder.calls[0]["init_value"] == 0


@pytest.mark.parametrize(
    ("grid", "threadgroup"), [((100, 1, 1), (32, 1, 1)), ((64, 3, 1), (32, 2, 1)), ((48, 1, 1), (48, 1, 1))]
)
def test_ragged_grids_are_refused(recorder, grid, threadgroup):
    with pytest.raises(ValueError, match="kernel twice: on CUDA each side of the grid"):
        kernel()(inputs=[mx.zeros(64)], **CALL | {"grid": grid, "threadgroup": threadgroup})
    assert recorder.built == []


def test_wrong_numbers_of_arrays_are_named(recorder):
    with pytest.raises(ValueError, match=r"kernel twice: inputs must be 1 \(x\), not 2"):
        kernel()(inputs=[mx.zeros(64), 1.0], **CALL)


def test_names_must_suit_cpp():
    with pytest.raises(ValueError, match="'two words' is none"):
        cuda_kernel("two words", ["x"], ["y"], "")


def test_the_text_is_in_a_file_named_by_its_contents(recorder):
    twice = kernel()
    for x in (mx.zeros(64), mx.zeros(64, mx.float16)):
        twice(inputs=[x], **CALL)
    (first, second) = [b["header"] for b in recorder.built]
    assert first != second
    assert all(len(header) < 300 and header.startswith(f'#include "{folder()}') for header in (first, second))
    assert "msl_kernel" in Path(first.split('"')[1]).read_text()
    assert len(list(folder().iterdir())) == 2


def test_a_damaged_file_is_written_anew(recorder):
    path = Path(included("int good;").split('"')[1])
    path.write_text("int ba")
    included.cache_clear()
    included("int good;")
    assert path.read_text() == "int good;"


def test_a_file_that_cannot_be_written_is_named(recorder, tmp_path):
    (tmp_path / "cuda").write_text("in the way")
    with pytest.raises(UserError, match=r"Cannot write .*cuda"):
        included("int x;")
