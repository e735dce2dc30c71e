"""Small arithmetic besides two-number sums: times tables, halves, comparisons, counting."""

from __future__ import annotations

import random

from .core import Example, Turn, chat, draw, how_many_turns
from .phrasing import ask
from .words import number


def _times(rng: random.Random) -> Turn:
    a, b = rng.randint(0, 12), rng.randint(0, 12)
    question = ask(
        rng,
        ("What is {a} x {b}?", "{a} times {b}", "What is {a} times {b}?", "Multiply {a} by {b}.", "{a} * {b}",
         "{a}*{b}",
         "How much is {a} * {b}?", "Compute {a} * {b}.", "What's {a} times {b}?", "{a} x {b} =",
         "What is the product of {a} and {b}?", "Calculate {a} times {b}."),
        a=a, b=b,
    )  # fmt: skip
    return Turn(f"times {a} {b}", question, f"{a} * {b} = {a * b}", f"From the times table of {b}.", str(a * b))


def _half(rng: random.Random) -> Turn:
    n = 2 * rng.randint(1, 250)
    question = ask(
        rng,
        (
            "What is half of {n}?",
            "Half of {n}?",
            "Halve {n}.",
            "What is {n} divided by 2?",
            "Divide {n} by 2.",
            "{n} / 2",
        ),
        n=n,
    )
    return Turn(f"half {n}", question, f"Half of {n} is {n // 2}.", f"{n // 2} + {n // 2} = {n}.", str(n // 2))


def _double(rng: random.Random) -> Turn:
    n = rng.randint(1, 499)
    question = ask(
        rng, ("What is double {n}?", "Double {n}.", "What is twice {n}?", "Twice {n}?", "What is {n} doubled?"), n=n
    )
    return Turn(f"double {n}", question, f"Double {n} is {2 * n}.", f"{n} + {n} = {2 * n}.", str(2 * n))


def _compare(rng: random.Random) -> Turn:
    a, b = number(rng), number(rng)
    if a == b:
        b += 1
    larger = rng.random() < 0.5
    adjective = rng.choice(("larger", "bigger", "greater") if larger else ("smaller", "less"))
    found, other = (max(a, b), min(a, b)) if larger else (min(a, b), max(a, b))
    question = ask(
        rng,
        ("Which is {w}, {a} or {b}?", "Which number is {w}: {a} or {b}?", "What is {w}: {a} or {b}?",
         "Tell me which is {w}, {a} or {b}.", "{a} or {b}, which one is {w}?", "Is {a} or {b} {w}?"),
        w=adjective, a=a, b=b,
    )  # fmt: skip
    word = "larger" if larger else "smaller"
    thought = f"{found} {'>' if larger else '<'} {other}."
    return Turn(f"compare {min(a, b)} {max(a, b)}", question, f"{found} is {word} than {other}.", thought, str(found))


def _neighbour(rng: random.Random) -> Turn:
    n = rng.randint(1, 999)
    after = rng.random() < 0.6
    asks = (
        ("What number comes after {n}?", "Which number follows {n}?", "What is the next number after {n}?",
         "{n}, and then?",
         "What comes after {n}?")
        if after
        else ("What number comes before {n}?", "Which number is just before {n}?", "What comes before {n}?",
              "What is the number before {n}?")
    )  # fmt: skip
    found, word = (n + 1, "after") if after else (n - 1, "before")
    sign = "+" if after else "-"
    thought = f"{n} {sign} 1 = {found}."
    return Turn(f"{word} {n}", ask(rng, asks, n=n), f"The number {word} {n} is {found}.", thought, str(found))


def _parity(rng: random.Random) -> Turn:
    n = number(rng)
    kind = "odd" if n % 2 else "even"
    question = ask(
        rng,
        ("Is {n} even or odd?", "Is {n} odd or even?", "Even or odd: {n}?", "{n}: odd or even?",
         "Tell me if {n} is even or odd."),
        n=n,
    )  # fmt: skip
    return Turn(f"parity {n}", question, f"{n} is {kind}.", f"The last digit is {n % 10}, which is {kind}.", kind)


def _counting(rng: random.Random) -> Turn:
    step, count, start = rng.choice((1, 1, 1, 2, 2, 3, 5, 10)), rng.randint(3, 10), rng.randint(0, 60)
    down = rng.random() < 0.3
    last = start + step * (count - 1)
    numbers = [start + step * i for i in range(count)]
    first, final, word = (last, start, "down") if down else (start, last, "up")
    asks = (
        ("Count from {a} to {b} in steps of {s}.", "Count {w} from {a} to {b} by {s}.", "Count by {s} from {a} to {b}.")
        if step > 1
        else ("Count from {a} to {b}.", "Count {w} from {a} to {b}.", "List the numbers from {a} to {b}.",
              "Write the numbers from {a} to {b}.")
    )  # fmt: skip
    question = ask(rng, asks, a=first, b=final, s=step, w=word)
    answer = ", ".join(map(str, reversed(numbers) if down else numbers))
    return Turn(f"count {step} {first} {final}", question, answer, f"I count {word} by {step}.", answer)


def _three(rng: random.Random) -> Turn:
    a, b, c = (rng.randint(0, 30) for _ in range(3))
    question = ask(
        rng,
        ("What is {a} + {b} + {c}?", "{a}+{b}+{c}", "Add {a}, {b} and {c}.", "{a} plus {b} plus {c}",
         "Compute {a} + {b} + {c}.", "What is the sum of {a}, {b} and {c}?"),
        a=a, b=b, c=c,
    )  # fmt: skip
    total = a + b + c
    thought = f"{a} + {b} = {a + b}, {a + b} + {c} = {total}."
    return Turn(f"three {a} {b} {c}", question, f"{a} + {b} + {c} = {total}", thought, str(total))


_KINDS = (_times, _times, _times, _half, _double, _compare, _compare, _neighbour, _parity, _counting, _three)


def arithmetic_more(rng: random.Random) -> Turn:
    """One question of any of the kinds above."""
    return rng.choice(_KINDS)(rng)


def make(family: str, rng: random.Random, held_out: bool) -> Example:
    """One to five questions."""
    turns = [draw(arithmetic_more, rng, held_out) for _ in range(how_many_turns(rng))]
    return chat(family, turns, thinking=rng.random() < 0.4)
