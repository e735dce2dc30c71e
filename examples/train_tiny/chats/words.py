"""Words, names and other values that fill the templates."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

from .core import is_held_out

_FOLDER = Path(__file__).parent


def split(text: str) -> tuple[str, ...]:
    """The words of a text, each once."""
    return tuple(dict.fromkeys(text.split()))


def _words(name: str) -> tuple[str, ...]:
    return split((_FOLDER / name).read_text())


FIRST_NAMES = _words("first_names.txt")
SURNAMES = _words("surnames.txt")
WORDS = _words("words.txt")
SHORT_WORDS = tuple(word for word in WORDS if len(word) <= 7)
NOUNS = split(
    """apple ball basket bell bird boat book bottle box bread bridge brush button cake camera candle car card cat
    chair clock cloud coat coin cup desk dog door drum duck egg fan farm fish flag flower fork fox frog garden
    gate glass glove goat grape guitar hammer hat horse house jacket jar key kite knife ladder lamp leaf lemon
    letter lion map mirror mouse nail nest onion orange paper pear pen pencil phone pillow pizza plate potato
    rabbit radio ring river robot rope sandwich shell ship shirt shoe spoon star stone sun table tent tiger
    tomato towel train tree truck umbrella vase wagon wall watch wheel whistle window zebra"""
)
COLOURS = split(
    """red blue green yellow orange purple pink brown black white grey teal violet gold silver beige cyan maroon navy
    olive turquoise indigo scarlet ivory"""
)
CITIES = split(
    """Lisbon Paris London Berlin Madrid Rome Vienna Prague Warsaw Dublin Oslo Athens Cairo Tokyo Delhi Lima Boston
    Chicago Toronto Sydney Zurich Geneva Milan Munich Hamburg Porto Seville Lyon Nice Bergen Helsinki Riga
    Vilnius Tallinn Sofia Zagreb Belgrade Budapest Istanbul Ankara Beirut Amman Doha Dubai Mumbai Bangkok
    Hanoi Manila Jakarta Seoul Osaka Kyoto Beijing Shanghai Melbourne Perth Auckland Nairobi Lagos Accra Dakar
    Tunis Casablanca Havana Bogota Quito Santiago Denver Seattle Dallas Miami Montreal Vancouver Glasgow
    Bristol Leeds"""
)
MONTHS = split("January February March April May June July August September October November December")
DAYS = split("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
_ONSETS = split("b c d f g h j k l m n p r s t v w z br cl dr fl gr kl pr st tr sh th")
_VOWELS = split("a e i o u a e o ai ea oo")
_CODAS = ("", "", "", "n", "r", "l", "s", "m", "t", "k", "x", "nd", "st")


def made_up_word(rng: random.Random, syllables: int = 2) -> str:
    """A pronounceable word that probably does not exist."""
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(syllables)) + rng.choice(_CODAS)


def word(rng: random.Random, longest: int = 7) -> str:
    """A common English word, or in one case of six a made-up one; never longer than `longest`."""
    while True:
        found = made_up_word(rng, rng.randint(1, 2)) if rng.random() < 0.17 else rng.choice(WORDS)
        if 3 <= len(found) <= longest:
            return found


def name_key(first: str, last: str) -> str:
    """The key of a person in the split."""
    return f"person {first} {last}"


@cache
def _held_out_people() -> frozenset[tuple[str, str]]:
    pairs = ((first, last) for first in FIRST_NAMES for last in SURNAMES)
    return frozenset(pair for pair in pairs if is_held_out(name_key(*pair), 10))


def person(rng: random.Random, held_out: bool) -> tuple[str, str]:
    """First name and surname; a tenth of all pairs is held out."""
    held = _held_out_people()
    while True:
        pair = (rng.choice(FIRST_NAMES), rng.choice(SURNAMES))
        if (pair in held) == held_out:
            return pair


def number(rng: random.Random) -> int:
    """0 to 999, mostly three digits, sometimes fewer."""
    draw = rng.random()
    if draw < 0.72:
        return rng.randint(0, 999)
    return rng.randint(0, 99) if draw < 0.9 else rng.randint(0, 12)


def listed(items: list[str]) -> str:
    """Written one after another: a, b, c."""
    return ", ".join(items)
