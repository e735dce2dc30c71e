"""Barriers are found in a text and removed one by one; the removal of any of a kernel's barriers is noticed."""

from dataclasses import replace

import mlx.core as mx
import pytest

from mslemu import SCHEDULES, barriers, without_barrier
from mslemu.kernel import EmulatedKernel
from mslemu.sample_kernels import HISTOGRAM, MATMUL, histogram, matmul

TEXT = """\
// threadgroup_barrier(mem_flags::mem_none) in a comment
threadgroup_barrier(mem_flags::mem_threadgroup);
x = 1; metal::simdgroup_barrier(mem_flags(mem_flags::mem_device |
    mem_flags::mem_threadgroup)); y = 2;
"""


def test_lists_calls_with_their_lines():
    assert [b.line for b in barriers(TEXT)] == [2, 3]
    assert barriers(TEXT)[0].text == "threadgroup_barrier(mem_flags::mem_threadgroup)"
    assert barriers(TEXT)[1].text.startswith("metal::simdgroup_barrier(")


def test_removes_one_call_and_keeps_all_lines():
    rows = without_barrier(TEXT, 1).split("\n")
    assert rows[:3] == [*TEXT.split("\n")[:2], "x = 1; "]
    assert rows[3] == "; y = 2;"
    assert len(barriers("\n".join(rows))) == 1


def test_index_beyond_the_last_barrier_is_an_error():
    with pytest.raises(IndexError):
        without_barrier(TEXT, 2)


@pytest.mark.parametrize(
    ("make", "index"),
    [(make, i) for make, text in ((matmul, MATMUL), (histogram, HISTOGRAM)) for i in range(len(barriers(text.source)))],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_every_removed_barrier_is_noticed(make, index):
    sample = make(mx.float32)
    mutant = EmulatedKernel(replace(sample.text, source=without_barrier(sample.text.source, index)))
    runs = [mutant.run(**sample.call, schedule=schedule) for schedule in SCHEDULES]
    assert any(run.findings or sample.error_of(run.outputs[0]) > sample.tolerance for run in runs)
