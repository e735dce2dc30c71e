"""Copying from texts longer than the attention window: what teaches a model to look back through compressed entries.

Every token of a long copy says where to look next, so a few of them teach what very many planted facts did not (README,
"What was found on the way").
"""

from __future__ import annotations

import random

from .copying import code_string
from .core import Context, Example, Turn, chat, is_held_out
from .phrasing import dressed
from .words import made_up_word, word

_WHOLE = (
    "Repeat this text exactly.", "Copy the following text.", "Write this text again, word for word.",
    "Give me back the whole text.", "Repeat everything:", "Copy:", "Please type this text again.",
)  # fmt: skip
_REST = (
    "Repeat the text from the line that begins with {w}.", "Start at the line that begins with {w} and copy the rest.",
    "Copy the text from {w} on.", "Give me all lines from the one that starts with {w} to the end.",
)  # fmt: skip
_LINE = (
    "Repeat the line that begins with {w}.", "Which line begins with {w}?", "What does the line starting with {w} say?",
    "Copy the line beginning with {w}.", "Give me the line that starts with {w}.", "And the line with {w}?",
)  # fmt: skip
_HERE = ("Here is a list.", "Here are some lines.", "Keep these lines in mind.", "Read this.", "My notes:", "Lines:")
_LONGEST_ANSWER = 60  # lines


def make(family: str, rng: random.Random, held_out: bool, context: Context) -> Example:
    """A text of 12 to 120 lines, to be copied as a whole, from a line on, or line by line over several turns."""
    while True:
        lines = _lines(rng, context, count=int(12 * 10 ** rng.random()))
        if is_held_out(f"long copy {lines[0]}") == held_out:
            break
    kind = rng.random()
    thinking = rng.random() < 0.15
    if kind < 0.4 and len(lines) <= _LONGEST_ANSWER:
        turns = [_turn(f"{dressed(rng, rng.choice(_WHOLE))}\n\n{_text(lines)}", lines, "I repeat the text exactly.")]
    elif kind < 0.6:
        turns = [_rest(rng, lines)]
    else:
        turns = _single_lines(rng, lines)
    return chat(family, turns, thinking)


def _text(lines: list[str]) -> str:
    return "\n".join(lines)


def _turn(question: str, answer: list[str], thought: str) -> Turn:
    return Turn("", question, _text(answer), thought)


def _lines(rng: random.Random, context: Context, count: int) -> list[str]:
    """Lines that all begin with another word."""
    kind = rng.randrange(4)
    lines: dict[str, str] = {}
    for _ in range(3 * count):  # prose may not have that many first words
        line = _line(rng, context, kind)
        lines.setdefault(line.split()[0], line)
    return list(lines.values())[:count]


def _line(rng: random.Random, context: Context, kind: int) -> str:
    if kind == 0:
        return " ".join(word(rng, 9) for _ in range(rng.randint(2, 9)))
    if kind == 1:
        return (
            f"{made_up_word(rng, 2)} {made_up_word(rng, rng.randint(1, 3))}: {rng.randrange(10 ** rng.randint(1, 5))}"
        )
    if kind == 2:
        return f"{word(rng)} {code_string(rng)} {rng.randint(0, 999)}"
    words = rng.choice(context.filler).split()
    start = rng.randrange(max(1, len(words) - 6))
    return " ".join(words[start : start + rng.randint(4, 14)])


def _rest(rng: random.Random, lines: list[str]) -> Turn:
    start = rng.randrange(max(1, len(lines) - _LONGEST_ANSWER), len(lines))
    first = lines[start].split()[0]
    question = dressed(rng, rng.choice(_REST).format(w=first))
    order = f"{question}\n\n{_text(lines)}" if rng.random() < 0.3 else f"{_text(lines)}\n\n{question}"
    return _turn(order, lines[start:], f"I copy from the line that begins with {first}.")


def _single_lines(rng: random.Random, lines: list[str]) -> list[Turn]:
    """The text once, then a line at a time from anywhere in it."""
    asked = rng.sample(lines, rng.randint(min(4, len(lines)), min(16, len(lines))))
    turns = []
    for number, line in enumerate(asked):
        question = dressed(rng, rng.choice(_LINE).format(w=line.split()[0]))
        if number == 0:
            question = f"{rng.choice(_HERE)}\n{_text(lines)}\n\n{question}"
        turns.append(_turn(question, [line], f"The line begins with {line.split()[0]}."))
    return turns
