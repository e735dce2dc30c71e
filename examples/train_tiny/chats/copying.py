"""Repeat exactly what is written: the skill behind recall and tool arguments."""

# ruff: noqa: PLR0911 - one return for each kind of text
from __future__ import annotations

import random
import string

from .core import Context, Example, Turn, chat, draw, how_many_turns
from .lists import ORDINALS
from .phrasing import ask
from .words import FIRST_NAMES, NOUNS, made_up_word, word

_ASKS = (
    "Repeat exactly: {t}", "Repeat: {t}", "Repeat after me: {t}", "Say exactly this: {t}", "Copy this text: {t}",
    "Write this again: {t}", "Repeat the following.\n{t}", "Copy: {t}", "Please repeat this word for word: {t}",
    "Echo: {t}", "Say: {t}", "Copy exactly:\n{t}", "Give me back this text: {t}", "Type this: {t}",
)  # fmt: skip
_CODE_LETTERS = string.ascii_uppercase + string.digits + string.digits


def code_string(rng: random.Random, low: int = 4, high: int = 12) -> str:
    """Capital letters and digits, sometimes in groups: K4X9-72QB."""
    text = "".join(rng.choices(_CODE_LETTERS, k=rng.randint(low, high)))
    if len(text) > 5 and rng.random() < 0.4:
        middle = len(text) // 2
        return f"{text[:middle]}-{text[middle:]}"
    return text


def _text(rng: random.Random, context: Context) -> str:
    kind = rng.randrange(7)
    if kind == 0:
        return code_string(rng)
    if kind == 1:
        return " ".join(word(rng, 9) for _ in range(rng.randint(1, 25)))
    if kind == 2:
        return " ".join(str(rng.randrange(10 ** rng.randint(1, 5))) for _ in range(rng.randint(1, 12)))
    if kind == 3:
        return " ".join(made_up_word(rng, rng.randint(1, 3)) for _ in range(rng.randint(1, 8)))
    if kind == 4:
        name, noun, other = rng.choice(FIRST_NAMES), rng.choice(NOUNS), rng.choice(NOUNS)
        return f"{name} put {rng.randint(2, 99)} {noun}s behind the {word(rng)} {other} and went {word(rng)}."
    if kind == 5:
        return f"{word(rng)}_{word(rng)}({rng.choice('xyzab')}, {rng.randint(0, 99)}) = {rng.randint(0, 9999)};"
    return _sentence(rng, context)


def _sentence(rng: random.Random, context: Context) -> str:
    """A piece of the prose, of at most 45 words and on one line."""
    words = rng.choice(context.filler).split()
    start = rng.randrange(max(1, len(words) - 8))
    return " ".join(words[start : start + rng.randint(4, 45)])


def _copy(rng: random.Random, context: Context) -> Turn:
    text = _text(rng, context)
    question = rng.choice(_ASKS).format(t=text)
    return Turn(f"copy {text}", question, text, "I repeat the text exactly.", text)


_LINE_ASKS = (
    "Repeat the {o} line of this text.", "What is the {o} line?", "Copy the {o} line.", "Give me the {o} line.",
    "Which line is the {o} one?", "Write down the {o} line of the text.",
)  # fmt: skip


def _line(rng: random.Random) -> Turn:
    count = rng.randint(2, 8)
    lines = [" ".join(word(rng, 9) for _ in range(rng.randint(2, 7))) for _ in range(count)]
    at = rng.randrange(count)
    ordinal = "last" if at == count - 1 and rng.random() < 0.5 else ORDINALS[at]
    question = ask(rng, _LINE_ASKS, o=ordinal)
    text = "\n".join(lines)
    order = f"{question}\n\n{text}" if rng.random() < 0.5 else f"{text}\n\n{question}"
    return Turn(
        f"line {at} {text}", order, lines[at], f"The {ordinal} line begins with {lines[at].split()[0]}.", lines[at]
    )


def copy_question(rng: random.Random, context: Context) -> Turn:
    """Copy a text, or one line of several."""
    return _line(rng) if rng.random() < 0.2 else _copy(rng, context)


def make(family: str, rng: random.Random, held_out: bool, context: Context) -> Example:
    """One to four texts to copy."""
    turns = [draw(lambda r: copy_question(r, context), rng, held_out) for _ in range(how_many_turns(rng, 0.6, 4))]
    return chat(family, turns, thinking=rng.random() < 0.3)
