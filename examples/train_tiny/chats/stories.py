"""Sentences by grammar: short stories, titles, and phrases to copy."""

# ruff: noqa: PLR0911 - one return for each kind of text
from __future__ import annotations

import random

from .words import COLOURS, FIRST_NAMES, MONTHS, NOUNS, made_up_word, split, word

_WHO = split(
    """baker farmer pilot sailor teacher doctor painter knight king queen princess wizard giant dragon fox bear rabbit
    mouse owl cat dog turtle robot girl boy gardener fisherman shepherd musician traveller thief tailor miller hunter
    captain cook grandmother grandfather squirrel hedgehog lion elephant penguin crow"""
)
_HOW = split(
    """little old young brave clever lazy kind shy proud lonely hungry happy tired curious gentle poor rich quiet funny
    careful strong small tall sleepy cheerful stubborn honest"""
)
_WHERE = (
    "in a small village", "near the sea", "at the edge of a forest", "on a high mountain", "in a big city",
    "by a quiet lake",
    "on a green hill", "in an old castle", "on a small island", "in a dark cave", "at the end of a long road",
    "under a bridge",
    "in a tiny house", "beside a wide river", "on a farm", "in a garden full of flowers", "in a tower",
    "behind the mill",
    "in a warm valley", "at the harbour", "in a snowy land", "next to the station",
)  # fmt: skip
_WHEN = (
    "One day", "One morning", "One evening", "One cold night", "One summer day", "On a rainy day",
    "Early in the morning",
    "Late at night", "In spring", "One winter", "After a long storm", "On a sunny afternoon", "Before breakfast",
    "One Sunday",
)  # fmt: skip
_FOUND = (
    "found {thing} in the grass", "saw {thing} on the road", "heard a strange sound behind {thing}",
    "lost {thing} in the snow",
    "got {thing} as a gift", "dreamed of {thing}", "built {thing} out of wood", "bought {thing} at the market",
    "dropped {thing} into the water", "hid {thing} under the bed", "carried {thing} up the hill",
    "painted {thing} with care",
    "looked for {thing} everywhere", "wanted to have {thing}", "discovered {thing} in the cellar",
    "traded a coin for {thing}",
)  # fmt: skip
_FELT = (
    "was very surprised", "laughed for a long time", "did not know what to do", "felt sad", "was happy",
    "began to sing",
    "sat down and thought", "ran home at once", "called for help", "smiled", "was a little afraid",
    "could not believe it",
    "started to dance", "took a deep breath", "waited until it was dark", "asked everyone for advice", "cried a little",
)  # fmt: skip
_MET = (
    "Then {other} came by and offered to help.", "On the way, {hero} met {other}.",
    "Suddenly {other} stood at the door.",
    "{Other} had seen everything.", '"Do not worry," said {other}.', "{Other} knew a better way.",
    'But {other} said: "That is mine."', "Nobody believed it, only {other} did.", "A friend came too: {other}.",
    '"What are you doing?" asked {other}.', "Far away, {other} heard about it.",
)  # fmt: skip
_DID = (
    "Together they walked to {place}.", "They shared some bread and talked until evening.",
    "They looked for a whole day.",
    "They sang a song about {thing}.", "They worked hard and did not give up.",
    "They opened it, and inside was {thing}.",
    "They asked the wind, but the wind was silent.", "They made a plan and drew a map.",
    "They crossed the river in a boat.",
    "It took three days and three nights.", "They followed the path to {place}.",
    "They put {thing} on the table and waited.",
)  # fmt: skip
_END = (
    "From that day on, they were friends.", "In the end, everything was well.", "And they lived happily.",
    "After that, {hero} was never lonely again.", "The next day, the sun was shining.",
    "That night, {hero} slept very well.",
    "Everyone in the village still tells this story.", "And {hero} never forgot that day.",
    "So {hero} learned to be patient.",
    "At last, {hero} went home with a smile.", "It was the best day of the year.",
    "Now they have tea together every week.",
    "And that is why {hero} still keeps it.",
)  # fmt: skip
_PLACES = split(
    "mountain castle river market harbour forest mill tower lake bridge island church well garden meadow cave"
)


def a(noun: str) -> str:
    """With its article: an apple, a pear."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _thing(rng: random.Random) -> str:
    noun = rng.choice(NOUNS)
    style = rng.random()
    if style < 0.4:
        return a(noun)
    return a(f"{rng.choice(COLOURS if style < 0.75 else _SIZES)} {noun}")


_SIZES = split("tiny huge broken shiny strange heavy wooden golden old magic beautiful dusty round")


def story(rng: random.Random, hero: str = "", topic: str = "") -> str:
    """Two to six sentences about someone; about a given hero or thing where one is wanted."""
    who = hero or rng.choice(_WHO)
    name = rng.choice(FIRST_NAMES)
    named = rng.random() < 0.6
    first = rng.choice(
        (f"Once upon a time there was {{hero}} who lived {rng.choice(_WHERE)}.",
         f"There once lived {{hero}} {rng.choice(_WHERE)}.", f"{rng.choice(_WHERE).capitalize()} lived {{hero}}.",
         f"Long ago, {{hero}} lived {rng.choice(_WHERE)}.")
    ).format(hero=a(f"{rng.choice(_HOW)} {who}") + (f" named {name}" if named else ""))  # fmt: skip
    known = name if named else f"the {who}"
    thing = a(topic) if topic else _thing(rng)
    other = a(f"{rng.choice(_HOW)} {rng.choice([w for w in _WHO if w != who])}")
    values = {"hero": known, "other": other, "Other": other.capitalize(), "place": f"the {rng.choice(_PLACES)}"}
    event = f"{rng.choice(_WHEN)}, {known} {rng.choice(_FOUND).format(thing=thing)}."
    feeling = f"{known[0].upper()}{known[1:]} {rng.choice(_FELT)}."
    middle = [feeling, rng.choice(_MET).format(**values), rng.choice(_DID).format(thing=_thing(rng), **values)]
    length = rng.choice((0, 1, 3, 3, 3))
    return " ".join([first, event, *middle[:length], rng.choice(_END).format(**values) if length == 3 else ""]).strip()


def heroes() -> tuple[str, ...]:
    """Who a story can be about."""
    return _WHO


def phrase(rng: random.Random) -> str:
    """A few words such as one writes in a note: small letters, no final mark."""
    style = rng.randrange(8)
    noun, colour = rng.choice(NOUNS), rng.choice(COLOURS)
    if style == 0:
        return f"the {colour} {noun} is {rng.choice(_HOW)}"
    if style == 1:
        return f"{rng.choice(('buy', 'bring', 'fix', 'clean', 'sell', 'find'))} the {noun}"
    if style == 2:
        return f"{rng.choice(('meeting', 'lunch', 'dinner', 'call'))} with {rng.choice(FIRST_NAMES)}"
    if style == 3:
        return " ".join(word(rng, 9) for _ in range(rng.randint(2, 5)))
    if style == 4:
        return f"{rng.choice(_HOW)} {rng.choice(_WHO)}"
    if style == 5:
        return f"{rng.choice(FIRST_NAMES)} has {rng.randint(2, 99)} {noun}s"
    return (
        f"{colour} {noun}" if style == 6 else f"{rng.choice(MONTHS)} {rng.choice(('report', 'plan', 'party', 'notes'))}"
    )


def title(rng: random.Random) -> str:
    """The title of a page or of a headline."""
    return rng.choice(
        (f"All about {rng.choice(NOUNS)}s", f"The {rng.choice(_HOW)} {rng.choice(_WHO)}",
        f"How to use {a(rng.choice(NOUNS))}",
         f"{word(rng).capitalize()} and {word(rng)}", f"Why {rng.choice(NOUNS)}s are {rng.choice(COLOURS)}",
         f"{rng.randint(3, 20)} facts about {rng.choice(_WHO)}s")
    )  # fmt: skip


def foreign_phrase(rng: random.Random) -> str:
    """Words of no language at all: what a translation returns must be copied, not known."""
    return " ".join(made_up_word(rng, rng.randint(1, 3)) for _ in range(rng.randint(1, 4)))
