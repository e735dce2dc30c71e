"""Conversations that go from one subject to the next and come back to what was said at the beginning."""

# ruff: noqa: E501 - tables of sentences read better unbroken
from __future__ import annotations

import random
from typing import NamedTuple

from .arithmetic_more import arithmetic_more
from .code import code_output
from .core import Example, Turn, chat, draw
from .lists import string_question
from .phrasing import dressed
from .small_talk import small_talk
from .sums import addition, subtraction, word_problem
from .words import CITIES, COLOURS, NOUNS, made_up_word, person


class _Said(NamedTuple):
    """Something the user tells about themselves, what the assistant says to it, and the question that comes back to it."""

    told: tuple[str, ...]
    reply: str
    asked: tuple[str, ...]
    answer: str


_SAID = {
    "name": _Said(("My name is {v}.", "Hello, my name is {v}.", "I am {v}.", "Hi, I am {v}!", "You can call me {v}."),
                  "Nice to meet you, {v}!", ("What is my name?", "Who am I?", "Do you remember my name?",
                  "What am I called?"),
                  "Your name is {v}."),
    "colour": _Said(("My favourite colour is {v}.", "I like {v} best of all colours.", "{v} is my favourite colour."),
                    "I will remember that you like {v}.", ("What is my favourite colour?",
                    "Which colour do I like best?"),
                    "Your favourite colour is {v}."),
    "city": _Said(("I live in {v}.", "My home is in {v}.", "I come from {v} and live there."),
    "{v} is a nice place to live.",
                  ("Where do I live?", "In which city do I live?", "Which city is my home?"), "You live in {v}."),
    "number": _Said(("My lucky number is {v}.", "Remember the number {v}.", "The number of the day is {v}."),
                    "I will remember the number {v}.", ("Which number did I tell you?", "What was the number?",
                    "What is the number?"),
                    "The number is {v}."),
    "word": _Said(("The secret word is {v}.", "Remember this word: {v}", "Keep the word {v} in mind."),
    "I will remember the word {v}.",
                  ("What is the secret word?", "Which word did I tell you?", "What was the word?"), "The word is {v}."),
    "thing": _Said(("I bought a new {v} today.", "I found a {v} on the street.", "I got a {v} as a gift."),
                   "A {v}! That is nice.", ("What did I get?", "What did I tell you I have?",
                   "What new thing do I have?"),
                   "You have a {v}."),
}  # fmt: skip
_NO_VOWEL = tuple(noun for noun in NOUNS if noun[0] not in "aeiou")
_BETWEEN = (addition, subtraction, small_talk, small_talk, string_question, arithmetic_more, word_problem, code_output)


def _value(rng: random.Random, kind: str, held_out: bool) -> str:
    if kind == "name":
        first, last = person(rng, held_out)
        return f"{first} {last}"
    if kind == "number":
        return str(rng.randint(10, 9999))
    if kind == "word":
        return made_up_word(rng)
    return rng.choice({"colour": COLOURS, "city": CITIES, "thing": _NO_VOWEL}[kind])


def make(family: str, rng: random.Random, held_out: bool) -> Example:
    """Two to six turns; in most conversations the last one asks for what the user said before."""
    between = [draw(rng.choice(_BETWEEN), rng, held_out) for _ in range(rng.randint(1, 4))]
    # Whoever says their name in between would change the right answer at the end.
    between = [turn for turn in between if not turn.key.startswith("name ")]
    if rng.random() < 0.25 and len(between) > 1:
        return chat(family, between, thinking=rng.random() < 0.4)
    kinds = rng.sample(sorted(_SAID), rng.choice((1, 1, 2)))
    told, asked = [], []
    for kind in kinds:
        said, value = _SAID[kind], _value(rng, kind, held_out)
        question, reply = dressed(rng, rng.choice(said.told)).format(v=value), said.reply.format(v=value)
        told.append(Turn("", question, reply, "The user tells me something. I should remember it."))
        thought = f"The user said: {question}"
        asked.append(Turn("", dressed(rng, rng.choice(said.asked)), said.answer.format(v=value), thought))
    return chat(family, [*told, *between, *asked], thinking=rng.random() < 0.4)
