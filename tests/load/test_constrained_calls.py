"""The short form of constrained_calls.py."""

import ds4_mlx

from load.constrained_calls import run


def test_constrained_calls_parse_and_follow_their_schemas_at_a_high_temperature():
    done = run(ds4_mlx.load(), 2, 1.5, "required")
    assert done.bad == []
    assert (done.with_calls, done.valid) == (2, 2)
