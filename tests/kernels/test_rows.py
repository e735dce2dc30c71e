"""The kernels that pack and unpack rows: equal to their twins, bit for bit, on the emulator."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import mlx.core as mx
import numpy as np
import pytest
from kernels.emulate import emulated, without_each_barrier

from ds4_mlx.kernels import pack_rows, unpack_rows
from ds4_mlx.kernels.kernel import Kernel
from ds4_mlx.kernels.pack_rows import PACK_INDEX, pack_kv_kernel
from ds4_mlx.kernels.row_samples import DTYPES, random_rows
from ds4_mlx.kernels.unpack_rows import UNPACK_KV, unpack_index_kernel
from ds4_mlx.quant import rows as definition

from mslemu import ORDERS, SCHEDULES, check, check_cuda

# Rows by their width: as released, as in small models, and without a multiple of anything.
KV_SIZES = [(512, 448), (128, 64), (202, 192)]
INDEX_WIDTHS = [128, 32]
Case = tuple[Kernel, list[mx.array]]


def pack_kv(width: int, nope: int, count: int, dtype: mx.Dtype) -> Case:
    return pack_kv_kernel(nope), [random_rows(count, width, dtype)]


def unpack_kv(width: int, nope: int, count: int, dtype: mx.Dtype) -> Case:
    return UNPACK_KV, list(definition.pack_kv(random_rows(count, width, dtype), nope))


def pack_index(width: int, count: int, dtype: mx.Dtype) -> Case:
    return PACK_INDEX, [random_rows(count, width, dtype)]


def unpack_index(width: int, count: int, dtype: mx.Dtype) -> Case:
    return unpack_index_kernel(dtype), list(definition.pack_index(random_rows(count, width, dtype)))


CASES: dict[str, Callable[[int, mx.Dtype], Case]] = {
    **{
        f"{make.__name__} {width}": partial(make, width, nope)
        for make in (pack_kv, unpack_kv)
        for width, nope in KV_SIZES
    },
    **{
        f"{make.__name__} {width}": partial(make, width)
        for make in (pack_index, unpack_index)
        for width in INDEX_WIDTHS
    },
}


def bits(x: mx.array) -> np.ndarray:
    """One NaN for all: which one a GPU makes is its own affair."""
    if not mx.issubdtype(x.dtype, mx.floating):
        return np.array(x)
    x = mx.where(mx.isnan(x), mx.array(mx.nan, dtype=x.dtype), x)
    return np.array(x.view({2: mx.uint16, 4: mx.uint32}[x.dtype.size]))


def assert_is_twin(kernel: Kernel, inputs: list[mx.array], **options: str) -> None:
    """One run in checked mode."""
    for found, expected in zip(emulated(kernel, inputs, **options), kernel.twin(*inputs), strict=True):
        assert found.dtype == expected.dtype
        assert np.array_equal(bits(found), bits(expected))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
class TestEveryKernel:
    @pytest.mark.parametrize("count", [1, 13])
    def test_equals_its_twin(self, case: str, dtype: mx.Dtype, count: int) -> None:
        assert_is_twin(*CASES[case](count, dtype))

    def test_is_metal_and_cuda(self, case: str, dtype: mx.Dtype) -> None:
        for count in (1, 9):  # inputs of fewer than 8 elements are in another address space
            kernel, inputs = CASES[case](count, dtype)
            call = kernel.launch(*inputs)._asdict()
            assert check(kernel.text, inputs=inputs, **call) == []
            assert check_cuda(kernel.text, inputs=inputs, **call) == []


@pytest.mark.parametrize(("schedule", "order"), list(zip(SCHEDULES, ORDERS, strict=True)))
@pytest.mark.parametrize("case", ["pack_kv 202", "unpack_kv 202", "pack_index 32", "unpack_index 32"])
def test_any_schedule(case: str, schedule: str, order: str) -> None:
    assert_is_twin(*CASES[case](5, mx.float32), schedule=schedule, order=order, strict=True)


def test_there_are_no_barriers_to_forget() -> None:
    for kernel in (pack_kv_kernel(64), UNPACK_KV, PACK_INDEX, unpack_index_kernel(mx.float32)):
        assert without_each_barrier(kernel) == []


def every_magnitude(width: int) -> mx.array:
    """Rows float32 [n, width] over the whole range, with blocks at the edges of scales and of rounding, and damage."""
    rng = np.random.default_rng(width)
    # Eighths of every step of both grids, at sizes that are powers of two or nearly so.
    steps = np.arange(-width // 2, width // 2) / 8
    sizes = np.exp2(np.arange(-149, 126, 3)) * rng.choice([1, 1 + 2.0**-23, 1 - 2.0**-24, 1.75], 92)
    rows = [steps / np.abs(steps).max() * size for size in sizes]
    rows += [rng.standard_normal(width) * np.exp2(rng.integers(-12, 3, width)) for _ in range(20)]
    for amax in (0.0, 1e-4, 448.0, 6.0, 450.0, 6 * 2.0**-126, 448 * 2.0**-22, np.finfo(np.float32).max):
        rows += [steps / np.abs(steps).max() * amax]
    for value in (np.nan, -np.nan, np.inf, -np.inf, -0.0):
        rows += [np.where(np.arange(width) == 1, value, steps)]
    return mx.array(np.stack(rows).astype(np.float32))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_packing_any_number(dtype: mx.Dtype) -> None:
    assert_is_twin(pack_kv_kernel(128), [every_magnitude(160).astype(dtype)])
    assert_is_twin(PACK_INDEX, [every_magnitude(128).astype(dtype)])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_unpacking_any_byte(dtype: mx.Dtype) -> None:
    codes = mx.broadcast_to(mx.arange(256), (256, 256)).astype(mx.uint8)
    exponents = mx.arange(256).astype(mx.uint8)[:, None]
    tail = mx.zeros((256, 2), dtype=dtype)
    assert_is_twin(UNPACK_KV, [codes, mx.repeat(exponents, 4, axis=1), tail])
    assert_is_twin(unpack_index_kernel(dtype), [codes, mx.repeat(exponents, 16, axis=1)])


def test_no_rows_are_packed_without_a_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    def launched(*_: mx.array) -> list[mx.array]:
        raise AssertionError

    monkeypatch.setattr(Kernel, "__call__", launched)
    kv = unpack_rows.unpack_kv(pack_rows.pack_kv(mx.zeros((0, 128), dtype=mx.bfloat16), 64))
    index = unpack_rows.unpack_index(pack_rows.pack_index(mx.zeros((0, 128))), mx.bfloat16)
    assert [(x.shape, x.dtype) for x in (kv, index)] == [((0, 128), mx.bfloat16)] * 2
