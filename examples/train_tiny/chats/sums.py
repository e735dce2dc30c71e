"""Addition and subtraction of numbers of up to three digits, and word problems."""

from __future__ import annotations

import random

from .core import Example, Turn, chat, draw, how_many_turns
from .phrasing import ask
from .words import FIRST_NAMES, number, split

_ADD = (
    "What is {a} + {b}?", "{a}+{b}", "{a} + {b}", "{a} + {b} =", "{a}+{b}=", "{a} + {b}?", "Compute {a} + {b}.",
    "{a} plus {b}", "What is {a} plus {b}?", "How much is {a} + {b}?", "How much is {a} plus {b}?", "Add {a} and {b}.",
    "Calculate {a} + {b}.", "Add {b} to {a}.", "What is the sum of {a} and {b}?", "What's {a} + {b}?",
    "What do you get when you add {a} and {b}?", "Work out {a} + {b}.", "Give me the sum of {a} and {b}.",
    "Can you add {a} and {b}?", "Solve {a} + {b}.", "What does {a} + {b} make?", "I need {a} + {b}.", "Sum: {a} + {b}",
)  # fmt: skip
_SUBTRACT = (
    "What is {a} - {b}?", "{a}-{b}", "{a} - {b}", "{a} - {b} =", "{a}-{b}=", "{a} - {b}?", "Compute {a} - {b}.",
    "{a} minus {b}", "What is {a} minus {b}?", "How much is {a} - {b}?", "How much is {a} minus {b}?",
    "Subtract {b} from {a}.", "Calculate {a} - {b}.", "Take {b} away from {a}.", "What's {a} - {b}?",
    "What is the difference {a} - {b}?", "Work out {a} - {b}.", "What is left of {a} if I take away {b}?",
    "Can you subtract {b} from {a}?", "Solve {a} - {b}.", "I need {a} - {b}.", "{a} less {b}, what is that?",
)  # fmt: skip


def operands(rng: random.Random) -> tuple[int, int]:
    """Two numbers, of three digits in most cases."""
    return number(rng), number(rng)


def addition_key(a: int, b: int) -> str:
    """The same for a + b and b + a, so that neither gives the other away."""
    return f"add {min(a, b)} {max(a, b)}"


def subtraction_key(a: int, b: int) -> str:
    """The same for a - b and b - a."""
    return f"subtract {min(a, b)} {max(a, b)}"


def addition(rng: random.Random) -> Turn:
    """One sum."""
    a, b = operands(rng)
    question = ask(rng, _ADD, a=a, b=b)
    return Turn(addition_key(a, b), question, f"{a} + {b} = {a + b}", add_by_columns(a, b), str(a + b))


def subtraction(rng: random.Random) -> Turn:
    """One difference, which may be negative."""
    a, b = operands(rng)
    question = ask(rng, _SUBTRACT, a=a, b=b)
    return Turn(subtraction_key(a, b), question, f"{a} - {b} = {a - b}", subtract_by_columns(a, b), str(a - b))


def add_by_columns(a: int, b: int) -> str:
    """12 + 30: `2+0=2, write 2 carry 0; 1+3=4, write 4 carry 0. Result 42.`"""
    steps, carry, x, y = [], 0, a, b
    while x or y or not steps:
        total = x % 10 + y % 10 + carry
        plus = f"+{carry}" if carry else ""
        steps.append(f"{x % 10}+{y % 10}{plus}={total}, write {total % 10} carry {total // 10}")
        x, y, carry = x // 10, y // 10, total // 10
    return f"{a} + {b}: {'; '.join(steps)}. Result {a + b}."


def subtract_by_columns(a: int, b: int) -> str:
    """The larger minus the smaller number, column by column, and then the sign."""
    if a < b:
        return f"{a} is less than {b}, so the result is negative. {_columns(b, a)} Result {a - b}."
    return f"{_columns(a, b)} Result {a - b}."


def _columns(large: int, small: int) -> str:
    steps, borrow, x, y = [], 0, large, small
    while x or y or not steps:
        top = x % 10 - borrow
        down = f"{x % 10}-{borrow}={top}, " if borrow else ""
        borrow = int(top < y % 10)
        top += 10 * borrow
        steps.append(f"{down}{top}-{y % 10}={top - y % 10} borrow {borrow}")
        x, y = x // 10, y // 10
    return f"{large} - {small}: {'; '.join(steps)}."


_MAKERS = {"addition": addition, "subtraction": subtraction}


def make_sums(family: str, rng: random.Random, held_out: bool) -> Example:
    """One to six sums, the last one of the family asked for."""
    count = how_many_turns(rng, 0.55, 6)
    others = [rng.choice(("addition", "subtraction", family, family)) for _ in range(count - 1)]
    turns = [draw(_MAKERS[name], rng, held_out) for name in [*others, family]]
    return chat(family, turns, thinking=rng.random() < 0.4)


# (story, question, answer): the sum is a + b or a - b.
_MORE = (
    ("{n} has {a} {things} and gets {b} more.", "How many {things} does {n} have now?", "{n} has {r} {things} now."),
    ("{n} has {a} {things}. {m} gives {n} {b} more.", "How many {things} does {n} have now?",
     "{n} has {r} {things} now."),
    ("{n} has {a} {things} and {m} has {b}.", "How many {things} do they have together?",
     "Together they have {r} {things}."),
    ("There are {a} {things} in one box and {b} in another.", "How many {things} are there in all?",
     "There are {r} {things} in all."),
    ("A shop sold {a} {things} on Monday and {b} on Tuesday.", "How many {things} did it sell in total?",
     "It sold {r} {things} in total."),
    ("{n} found {a} {things} in the morning and {b} in the evening.", "How many {things} did {n} find?",
     "{n} found {r} {things}."),
    ("{n} collects {things}. There were {a} in the collection, and {b} were added.",
     "How many {things} are in it now?", "There are {r} {things} in it now."),
)  # fmt: skip
_FEWER = (
    ("{n} has {a} {things} and gives {b} of them to {m}.", "How many {things} does {n} have left?",
     "{n} has {r} {things} left."),
    ("{n} had {a} {things} but lost {b}.", "How many {things} does {n} have left?", "{n} has {r} {things} left."),
    ("There were {a} {things} in the box. {n} took {b} out.", "How many {things} are left in the box?",
     "There are {r} {things} left in the box."),
    ("A shop had {a} {things} and sold {b}.", "How many {things} are left?", "There are {r} {things} left."),
    ("{n} has {a} {things}. {m} has {b} fewer.", "How many {things} does {m} have?", "{m} has {r} {things}."),
    ("{n} wants {a} {things} and already has {b}.", "How many more {things} does {n} need?",
     "{n} needs {r} more {things}."),
)  # fmt: skip
_THINGS = split(
    """apples pears books coins stamps cards pencils marbles shells stones balls eggs flowers stickers cookies
    candles buttons tickets photos bottles cups plates nuts lemons oranges letters boxes keys hats toys"""
)
_ENDINGS = ("{0} {1}", "{0} {1}", "{0} {1}", "{1} {0}", "Here is a problem. {0} {1}", "{0} {1} Please help.")


def word_problem(rng: random.Random) -> Turn:
    """A small story about a sum or a difference."""
    a, b = operands(rng)
    a, b = max(a, 2), max(b, 2)
    n, m = rng.sample(FIRST_NAMES, 2)
    adds = rng.random() < 0.5
    if not adds and a < b + 2:
        a, b = max(a, b) + 2, min(a, b)
    story, question, answer = rng.choice(_MORE if adds else _FEWER)
    values = {"n": n, "m": m, "things": rng.choice(_THINGS), "a": a, "b": b, "r": a + b if adds else a - b}
    text = rng.choice(_ENDINGS).format(story, question).format(**values)
    thought = add_by_columns(a, b) if adds else subtract_by_columns(a, b)
    key = addition_key(a, b) if adds else subtraction_key(a, b)
    return Turn(key, text, answer.format(**values), thought, str(values["r"]))
