"""The chats that ds4-tiny is trained on, made by rules: `make`, `recall`, `render`, `prompt`, and `grading.correct`."""

from __future__ import annotations

import random
from collections.abc import Callable

from . import arithmetic_more, code, copying, lists, long_copies, mixed, small_talk, sums, system, tool_calls
from . import recall as _recall
from .core import Context, Example, chat, draw, how_many_turns, prompt, render
from .grading import correct
from .recall import CROWD_SHARE, recall

__all__ = ["CROWD_SHARE", "FAMILIES", "Context", "Example", "correct", "make", "prompt", "recall", "render"]

# Shares of training tokens.
FAMILIES: dict[str, float] = {
    "small_talk": 0.07,
    "addition": 0.06,
    "subtraction": 0.08,
    "word_problem": 0.03,
    "arithmetic_more": 0.02,
    "strings": 0.07,
    "copying": 0.03,
    "long_copying": 0.10,
    "recall": 0.22,
    "code": 0.04,
    "code_output": 0.02,
    "tool_call": 0.12,
    "tool_answer": 0.09,
    "system": 0.03,
    "mixed": 0.02,
}

_Maker = Callable[[str, random.Random, bool], Example]


def _word_problems(family: str, rng: random.Random, held_out: bool) -> Example:
    turns = [draw(sums.word_problem, rng, held_out) for _ in range(how_many_turns(rng, 0.8, 3))]
    return chat(family, turns, thinking=rng.random() < 0.4)


_MAKERS: dict[str, _Maker] = {
    "small_talk": small_talk.make,
    "addition": sums.make_sums,
    "subtraction": sums.make_sums,
    "word_problem": _word_problems,
    "arithmetic_more": arithmetic_more.make,
    "strings": lists.make_strings,
    "code": code.make_code,
    "code_output": code.make_output,
    "tool_call": tool_calls.make,
    "tool_answer": tool_calls.make,
    "system": system.make,
    "mixed": mixed.make,
}
# These also use the prose of the context.
_WITH_CONTEXT = {"copying": copying.make, "long_copying": long_copies.make, "recall": _recall.make}


def make(family: str, rng: random.Random, *, held_out: bool, context: Context) -> Example:
    """One example of a family, from `rng` alone; held-out ones never occur in training."""
    if family in _WITH_CONTEXT:
        return _WITH_CONTEXT[family](family, rng, held_out, context)
    return _MAKERS[family](family, rng, held_out)
