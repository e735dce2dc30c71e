"""Operations on a list of words or numbers: sort, pick, remove, count, reverse, join, split."""

from __future__ import annotations

import random

from .core import Example, Turn, chat, draw, how_many_turns
from .phrasing import ask
from .strings import word_question
from .words import NOUNS, listed, word

ORDINALS = (
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
)


def _some_words(rng: random.Random, low: int = 3, high: int = 7) -> list[str]:
    count = rng.randint(low, high)
    found: dict[str, None] = {}
    while len(found) < count:
        found[rng.choice(NOUNS) if rng.random() < 0.4 else word(rng)] = None
    return list(found)


def _some_numbers(rng: random.Random) -> list[int]:
    top = rng.choice((20, 100, 100, 1000))
    return rng.sample(range(top), rng.randint(3, 6))


def _written(rng: random.Random, items: list[str]) -> str:
    style = rng.random()
    if style < 0.65:
        return listed(items)
    if style < 0.8:
        return " ".join(items)
    return f"[{listed(items)}]" if style < 0.9 else f"{listed(items[:-1])} and {items[-1]}"


def _turn(
    rng: random.Random, name: str, asks: tuple[str, ...], items: list[str], answer: str, thought: str, **more
) -> Turn:
    question = ask(rng, asks, l=_written(rng, items), **more)
    return Turn(f"{name} {' '.join(items)}", question, answer, thought, answer)


def _sort_words(rng: random.Random) -> Turn:
    items = _some_words(rng)
    asks = ("Sort these words alphabetically: {l}", "Sort alphabetically: {l}",
            "Put these words in alphabetical order: {l}.",
            "Sort: {l}", "Sort {l} from a to z.", "Order these words alphabetically: {l}",
            "Alphabetical order, please: {l}",
            "Sort the list {l}.", "Can you sort these words? {l}", "Arrange in alphabetical order: {l}.")  # fmt: skip
    ordered = sorted(items)
    starts = ", ".join(f"{item} ({item[0]})" for item in ordered)
    return _turn(rng, "sort", asks, items, listed(ordered), f"By their first letters: {starts}.")


def _sort_numbers(rng: random.Random) -> Turn:
    numbers = _some_numbers(rng)
    items = list(map(str, numbers))
    if rng.random() < 0.75:
        asks = ("Sort these numbers: {l}", "Sort {l}.", "Sort: {l}", "Put these numbers in order: {l}",
                "Sort ascending: {l}",
                "Sort the numbers {l} from small to large.", "Order these numbers: {l}.",
                "Arrange in order: {l}")  # fmt: skip
        ordered = list(map(str, sorted(numbers)))
        return _turn(
            rng, "sort", asks, items, listed(ordered), f"The smallest is {ordered[0]}, the largest {ordered[-1]}."
        )
    asks = ("Sort these numbers from large to small: {l}", "Sort descending: {l}", "Sort {l} in descending order.",
            "Put these numbers in order, largest first: {l}")  # fmt: skip
    ordered = list(map(str, sorted(numbers, reverse=True)))
    return _turn(rng, "down", asks, items, listed(ordered), f"The largest is {ordered[0]}, the smallest {ordered[-1]}.")


def _extreme(rng: random.Random) -> Turn:
    numbers = _some_numbers(rng)
    large = rng.random() < 0.5
    found = max(numbers) if large else min(numbers)
    adjectives = ("largest", "biggest", "greatest") if large else ("smallest", "lowest")
    asks = ("What is the {x} of these numbers: {l}?", "Which number is the {x}: {l}?", "The {x} of {l}?",
            "Find the {x}: {l}",
            "What is the {x} number in the list {l}?", "Give me the {x} number of {l}.",
            "Which is {x}? {l}")  # fmt: skip
    answer = f"The {adjectives[0]} number is {found}."
    thought = f"{found} is {'larger' if large else 'smaller'} than all the others."
    items = list(map(str, numbers))
    return _turn(rng, "extreme", asks, items, answer, thought, x=rng.choice(adjectives))._replace(short=str(found))


def _pick(rng: random.Random) -> Turn:
    items = _some_words(rng, 3, 9) if rng.random() < 0.75 else list(map(str, _some_numbers(rng)))
    at = rng.randrange(len(items))
    ordinal = "last" if at == len(items) - 1 and rng.random() < 0.6 else ORDINALS[at]
    asks = ("What is the {o} element of this list: {l}?", "What is the {o} item in {l}?", "Give me the {o} one: {l}",
            "Which is the {o} in this list: {l}?", "The {o} element of {l}?", "Pick the {o} item: {l}.",
            "{l}: which is the {o}?",
            "Tell me the {o} element of {l}.", "Here is a list: {l}. What is the {o} element?")  # fmt: skip
    steps = "; ".join(f"{ORDINALS[i]} {item}" for i, item in enumerate(items[: at + 1]))
    answer = f"The {ordinal} element is {items[at]}."
    return _turn(rng, "pick", asks, items, answer, f"I go through the list: {steps}.", o=ordinal)._replace(
        short=items[at]
    )


def _remove(rng: random.Random) -> Turn:
    items = _some_words(rng, 3, 8)
    gone = rng.choice(items)
    asks = ("Remove {x} from the list {l}.", "Remove {x}: {l}", "Take {x} out of this list: {l}",
            "Delete {x} from {l}.",
            "Here is a list: {l}. Remove {x}.", "Write this list without {x}: {l}",
            "Drop {x} from this list: {l}")  # fmt: skip
    answer = listed([item for item in items if item != gone])
    return _turn(rng, "remove", asks, items, answer, f"I write the list without {gone}.", x=gone)


def _count(rng: random.Random) -> Turn:
    items = _some_words(rng, 3, 10)
    asks = ("How many elements are in this list: {l}?", "Count the elements: {l}", "How many words are there: {l}?",
            "How many items are in {l}?", "Count the words in this list: {l}.", "How long is this list: {l}?",
            "How many things do I list here: {l}?")  # fmt: skip
    steps = ", ".join(f"{item} {i}" for i, item in enumerate(items, 1))
    turn = _turn(rng, "elements", asks, items, f"The list has {len(items)} elements.", f"I count: {steps}.")
    return turn._replace(short=str(len(items)))


def _reverse(rng: random.Random) -> Turn:
    items = _some_words(rng, 3, 7) if rng.random() < 0.7 else list(map(str, _some_numbers(rng)))
    asks = ("Reverse the list {l}.", "Reverse this list: {l}", "Write this list backwards: {l}",
            "List these in reverse order: {l}",
            "Turn this list around: {l}", "Give me {l} in reverse order.", "Reverse the order: {l}")  # fmt: skip
    return _turn(rng, "backwards", asks, items, listed(items[::-1]), f"I start with the last one, {items[-1]}.")


_MARKS = {"hyphens": "-", "commas": ", ", "spaces": " ", "plus signs": " + ", "underscores": "_", "slashes": "/"}


def _join(rng: random.Random) -> Turn:
    items = _some_words(rng, 3, 6)
    mark = rng.choice(tuple(_MARKS))
    asks = ("Join these words with {m}: {l}", "Join with {m}: {l}", "Put {m} between these words: {l}",
            "Write these words with {m} between them: {l}")  # fmt: skip
    return _turn(rng, f"join {mark}", asks, items, _MARKS[mark].join(items), f"I write the words with {mark}.", m=mark)


def _split(rng: random.Random) -> Turn:
    items = _some_words(rng, 3, 6)
    name = rng.choice(("hyphens", "underscores", "slashes"))
    joined = _MARKS[name].join(items)
    asks = ("Split {t} at the {m}.", "Split at the {m}: {t}", "Split this text at the {m}: {t}", "Cut {t} at the {m}.")
    question = ask(rng, asks, t=joined, m=name)
    return Turn(f"split {joined}", question, listed(items), f"There are {len(items)} parts.", listed(items))


_KINDS = (
    _sort_words,
    _sort_words,
    _sort_numbers,
    _sort_numbers,
    _extreme,
    _pick,
    _pick,
    _remove,
    _count,
    _reverse,
    _join,
    _split,
)


def list_question(rng: random.Random) -> Turn:
    """One operation on one list."""
    return rng.choice(_KINDS)(rng)


def string_question(rng: random.Random) -> Turn:
    """An operation on a word or on a list."""
    return word_question(rng) if rng.random() < 0.5 else list_question(rng)


def make_strings(family: str, rng: random.Random, held_out: bool) -> Example:
    """One to five questions about words and lists."""
    turns = [draw(string_question, rng, held_out) for _ in range(how_many_turns(rng))]
    return chat(family, turns, thinking=rng.random() < 0.4)
