"""The kernels of routed experts against their twins, on the emulator."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import pytest
from kernels.emulate import emulated, without_each_barrier

from ds4_mlx.kernels import expert_samples as samples
from ds4_mlx.kernels.expert_plan import PAIRS
from ds4_mlx.kernels.expert_rows import MOST_TOKENS, down_kernel, gate_up_kernel
from ds4_mlx.kernels.expert_samples import DTYPES, Sizes
from ds4_mlx.kernels.expert_tiles import tile_down_kernel, tile_gate_up_kernel
from ds4_mlx.kernels.kernel import Kernel, relative_error, tolerance
from ds4_mlx.kernels.runs import FORMATS

from mslemu import ORDERS, SCHEDULES, EmulationError, check, check_cuda

Inputs = Callable[[str, Sizes, mx.Dtype], list[mx.array]]
ROWS: dict[str, tuple[Callable[[str], Kernel], Inputs]] = {
    "gate_up": (gate_up_kernel, samples.gate_up_inputs),
    "down": (down_kernel, samples.down_inputs),
}
TILES: dict[str, tuple[Callable[[str], Kernel], Inputs]] = {
    "gate_up": (tile_gate_up_kernel, samples.tile_gate_up_inputs),
    "down": (tile_down_kernel, samples.tile_down_inputs),
}
# More tokens than fit a tile for one expert, tiles that are not full, rows that fill no stripe.
UNEVEN = Sizes(109, 2, 3, 256, 136)


def assert_equals_twin(kernel: Kernel, inputs: list[mx.array], **options: str) -> None:
    """One run in checked mode."""
    found = emulated(kernel, inputs, **options)
    assert relative_error(found, kernel.twin(*inputs)) <= tolerance(inputs[0].dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("role", ROWS)
class TestRows:
    def test_one_token(self, role: str, name: str, dtype: mx.Dtype) -> None:
        kernel, inputs = ROWS[role]
        assert_equals_twin(kernel(name), inputs(name, Sizes(1, 3, 4, 512, 17), dtype))

    def test_an_expert_of_several_tokens(self, role: str, name: str, dtype: mx.Dtype) -> None:
        kernel, inputs = ROWS[role]
        assert_equals_twin(kernel(name), inputs(name, Sizes(MOST_TOKENS, 3, 4, 256, 5), dtype))

    def test_rows_longer_than_a_simdgroup_holds_at_once(self, role: str, name: str, dtype: mx.Dtype) -> None:
        kernel, inputs = ROWS[role]
        assert_equals_twin(kernel(name), inputs(name, Sizes(2, 2, 3, 1280, 3), dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("role", TILES)
def test_tiles(role: str, name: str, dtype: mx.Dtype) -> None:
    kernel, inputs = TILES[role]
    assert_equals_twin(kernel(name), inputs(name, UNEVEN, dtype))


def test_tiles_of_rows_that_are_an_odd_number_of_runs() -> None:
    kernel, inputs = TILES["gate_up"]
    assert_equals_twin(kernel("mxfp4"), inputs("mxfp4", Sizes(9, 2, 3, 96, 17), mx.bfloat16))


@pytest.mark.parametrize("kernels", [ROWS, TILES], ids=["rows", "tiles"])
@pytest.mark.parametrize("role", ["gate_up", "down"])
class TestOnce:
    """What does not depend on format and dtype."""

    rows = Sizes(5, 2, 3, 256, 17)
    tiles = Sizes(PAIRS - 7, 2, 2, 256, 17)  # an expert has pairs for several blocks of 8

    def sizes(self, kernels: dict) -> Sizes:
        return self.rows if kernels is ROWS else self.tiles

    @pytest.mark.parametrize(("schedule", "order"), list(zip(SCHEDULES, ORDERS, strict=True)))
    def test_any_schedule(self, kernels: dict, role: str, schedule: str, order: str) -> None:
        kernel, inputs = kernels[role]
        arguments = inputs("iq2_xxs", self.sizes(kernels), mx.float32)
        assert_equals_twin(kernel("iq2_xxs"), arguments, schedule=schedule, order=order)

    def test_every_barrier_is_needed(self, kernels: dict, role: str) -> None:
        kernel, inputs = kernels[role]
        arguments = inputs("iq2_xxs", self.sizes(kernels), mx.float32)
        mutants = without_each_barrier(kernel("iq2_xxs"))
        assert mutants
        for mutant in mutants:
            with pytest.raises(EmulationError):
                emulated(mutant, arguments)


# Routes of 4 pairs are in another address space than those of 16.
@pytest.mark.parametrize("sizes", [Sizes(1, 2, 3, 256, 17), Sizes(8, 2, 9, 256, 17)], ids=["few pairs", "more pairs"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kernels", [ROWS, TILES], ids=["rows", "tiles"])
@pytest.mark.parametrize("role", ["gate_up", "down"])
def test_is_metal_and_cuda(kernels: dict, role: str, name: str, dtype: mx.Dtype, sizes: Sizes) -> None:
    make, inputs = kernels[role]
    kernel, arguments = make(name), inputs(name, sizes, dtype)
    call = kernel.launch(*arguments)._asdict()
    assert check(kernel.text, inputs=arguments, **call) == []
    assert check_cuda(kernel.text, inputs=arguments, **call) == []


def test_an_expert_named_twice_by_a_token_counts_twice() -> None:
    kernel = down_kernel("q2_k")
    inner, _, *arrays = samples.down_inputs("q2_k", Sizes(2, 3, 3, 256, 5), mx.float32)
    twice = mx.array([[1, 1, 1], [1, 0, 1]], dtype=mx.uint32)
    assert_equals_twin(kernel, [inner, twice, *arrays])


def test_a_token_s_sum_does_not_depend_on_the_others() -> None:
    kernel = down_kernel("iq2_xxs")
    inner, experts, *arrays = samples.down_inputs("iq2_xxs", Sizes(6, 3, 4, 256, 5), mx.float32)
    (together,) = emulated(kernel, [inner, experts, *arrays])
    (alone,) = emulated(kernel, [inner[9:12], experts[3:4], *arrays])
    assert mx.array_equal(together[3:4], alone)
