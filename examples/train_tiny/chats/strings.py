"""Operations on a word: reverse, spell, change case, count letters, repeat."""

from __future__ import annotations

import random

from .core import Turn
from .phrasing import ask
from .words import word


def _quoted(rng: random.Random, text: str) -> str:
    """The word as people write it in a question: bare or in quotes."""
    return rng.choice((text, text, f'"{text}"', f"'{text}'"))


def _turn(rng: random.Random, name: str, asks: tuple[str, ...], text: str, answer: str, thought: str, **more) -> Turn:
    question = ask(rng, asks, w=_quoted(rng, text), **more)
    return Turn(f"{name} {text}", question, answer, thought, answer)


def _reverse(rng: random.Random) -> Turn:
    w = word(rng)
    asks = ("Reverse the word {w}.", "Spell {w} backwards.", "Write {w} backwards.", "What is {w} backwards?",
            "Reverse {w}.",
            "What is {w} reversed?", "Write the word {w} in reverse.", "Turn the word {w} around.", "Reverse: {w}",
            "How do you write {w} backwards?", "Give me {w} backwards.", "Reverse the letters of {w}.")  # fmt: skip
    return _turn(rng, "reverse", asks, w, w[::-1], f"{'-'.join(w)} reversed: {'-'.join(w[::-1])}.")


def _spell(rng: random.Random) -> Turn:
    w = word(rng, 9)
    if rng.random() < 0.5:
        asks = ("Spell {w}.", "Spell the word {w}.", "How do you spell {w}?", "Spell {w} with hyphens.",
                "Spell out {w}.",
                "Write {w} letter by letter.", "Split {w} into letters with hyphens.",
                "Can you spell {w}?")  # fmt: skip
        return _turn(rng, "spell", asks, w, "-".join(w), "I write the letters with hyphens.")
    asks = ("Spell {w} with spaces.", "Write {w} with spaces between the letters.",
            "Put a space between the letters of {w}.",
            "Separate the letters of {w} with spaces.", "Spell the word {w} with spaces.")  # fmt: skip
    return _turn(rng, "spaces", asks, w, " ".join(w), "I write the letters with spaces.")


def _case(rng: random.Random) -> Turn:
    w = word(rng, 9)
    kind = rng.randrange(3)
    if kind == 0:
        asks = ("Write {w} in upper case.", "Uppercase {w}.", "Write {w} in capital letters.", "{w} in capitals?",
                "Make {w} upper case.", "Convert {w} to uppercase.", "What is {w} in capital letters?")  # fmt: skip
        return _turn(rng, "upper", asks, w, w.upper(), "Upper case means all capital letters.")
    if kind == 1:
        shown = w.upper() if rng.random() < 0.7 else w.capitalize()
        asks = ("Write {w} in lower case.", "Lowercase {w}.", "Write {w} in small letters.", "Make {w} lower case.",
                "Convert {w} to lowercase.", "What is {w} in lower case?")  # fmt: skip
        return _turn(rng, "lower", asks, shown, w, "Lower case means all small letters.")
    asks = ("Capitalise {w}.", "Capitalize {w}.", "Write {w} with a capital letter.", "Capitalise the word {w}.",
            "Write {w} with a capital first letter.")  # fmt: skip
    return _turn(rng, "capital", asks, w, w.capitalize(), "Only the first letter becomes a capital.")


def _end_letter(rng: random.Random) -> Turn:
    w = word(rng, 9)
    end = rng.choice(("first", "last"))
    asks = ("What is the {e} letter of {w}?", "Which letter is the {e} one in {w}?", "The {e} letter of {w}?",
            "Give me the {e} letter of {w}.", "Tell me the {e} letter of the word {w}.", "What is {w}'s {e} letter?",
            "Name the {e} letter of {w}.")  # fmt: skip
    letter = w[0] if end == "first" else w[-1]
    return _turn(rng, f"{end} letter", asks, w, letter, f"{'-'.join(w)}: the {end} letter is {letter}.", e=end)


def _length(rng: random.Random) -> Turn:
    w = word(rng, 9)
    asks = ("How many letters are in {w}?", "How many letters does {w} have?", "Count the letters of {w}.",
            "How long is {w}?",
            "What is the number of letters in {w}?", "How many letters has the word {w}?", "Count the letters in {w}.",
            "How long is the word {w}?")  # fmt: skip
    steps = ", ".join(f"{letter} {i}" for i, letter in enumerate(w, 1))
    turn = _turn(rng, "length", asks, w, f"{w} has {len(w)} letters.", f"I count: {steps}.")
    return turn._replace(short=str(len(w)))


def _count_letter(rng: random.Random) -> Turn:
    w = word(rng, 9)
    letter = rng.choice(w) if rng.random() < 0.85 else rng.choice("abcdefghilmnoprstu")
    count = w.count(letter)
    asks = ("How many times does the letter {c} appear in {w}?", "How many {c}'s are in {w}?",
            "Count the letter {c} in {w}.",
            "How often is {c} in {w}?", "How often does {c} occur in the word {w}?", "How many {c} are there in {w}?",
            "How many times is the letter {c} in {w}?")  # fmt: skip
    times = "once" if count == 1 else f"{count} times"
    thought = f"{'-'.join(w)}: {count} of these letters {'is' if count == 1 else 'are'} {letter}."
    turn = _turn(rng, f"count {letter}", asks, w, f"The letter {letter} appears {times} in {w}.", thought, c=letter)
    return turn._replace(short=str(count))


def _repeat(rng: random.Random) -> Turn:
    w, n = word(rng, 9), rng.randint(2, 6)
    times = {2: rng.choice(("2 times", "two times", "twice")), 3: rng.choice(("3 times", "three times"))}.get(
        n, f"{n} times"
    )
    asks = ("Repeat the word {w} {n}.", "Say {w} {n}.", "Write {w} {n}.", "Write the word {w} {n}.", "Repeat {w} {n}.",
            "Say the word {w} {n}.", "I want to read {w} {n}.")  # fmt: skip
    return _turn(rng, f"repeat {n}", asks, w, " ".join([w] * n), f"I write {w} {n} times.", n=times)


_KINDS = (_reverse, _reverse, _reverse, _spell, _spell, _case, _case, _end_letter, _length, _count_letter, _repeat)


def word_question(rng: random.Random) -> Turn:
    """One operation on one word."""
    return rng.choice(_KINDS)(rng)
