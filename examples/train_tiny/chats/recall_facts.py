"""The one-line facts planted in long prompts: how they are stated, asked for and answered.

The answer depends on the attribute only, however the fact was stated or asked for.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from .words import CITIES, COLOURS, DAYS, MONTHS, NOUNS, made_up_word, person, split

Draw = Callable[[random.Random], str]


class Kind(NamedTuple):
    """An attribute. In the templates {s} is its subject (a person, a box) and {v} its value."""

    name: str
    value: Draw
    answer: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]


class Fact(NamedTuple):
    """A planted fact, and everything that can be asked about it."""

    subject: str
    kind: Kind
    value: str
    statement: str

    def question(self, rng: random.Random) -> str:
        """One way to ask for the value."""
        return rng.choice(self.kind.questions).format(s=self.subject)

    @property
    def answer(self) -> str:
        """The one right answer, however it was asked for."""
        return self.kind.answer.format(s=self.subject, v=self.value)


def _number(low: int, high: int) -> Draw:
    return lambda rng: str(rng.randint(low, high))


def _one_of(values: tuple[str, ...]) -> Draw:
    return lambda rng: rng.choice(values)


_ANIMALS = split("cat dog parrot rabbit hamster turtle horse goldfish canary lizard snake pony mouse frog duck goat")
_JOBS = split(
    """teacher doctor baker farmer pilot nurse lawyer painter singer writer driver gardener plumber carpenter dentist
    judge chef librarian tailor waiter sailor butcher"""
)
_FOODS = split(
    """pizza rice soup bread cheese pasta salad fish beans cake honey apples mushrooms pancakes noodles tofu eggs yogurt
    chocolate potatoes"""
)
_SPORTS = split(
    "tennis football chess swimming rowing boxing hockey golf cycling skiing climbing fencing judo rugby running"
)
_INSTRUMENTS = split("piano violin guitar flute drums trumpet cello harp clarinet organ accordion banjo oboe")

PERSON_KINDS = (
    Kind("access code", _number(1000, 9999), "The access code of {s} is {v}.",
         ("The access code of {s} is {v}.", "{s} has the access code {v}.", "{s}'s access code is {v}.",
          "Access code for {s}: {v}."),
         ("What is the access code of {s}?", "What is {s}'s access code?", "Which access code does {s} have?",
          "Tell me the access code of {s}.", "Access code of {s}?", "access code {s}")),
    Kind("favourite colour", _one_of(COLOURS), "{s}'s favourite colour is {v}.",
         ("{s}'s favourite colour is {v}.", "The favourite colour of {s} is {v}.", "{s} likes the colour {v} best."),
         ("What is {s}'s favourite colour?", "What is the favourite colour of {s}?", "Which colour does {s} like best?",
          "Which colour is {s}'s favourite?", "favourite colour of {s}?")),
    Kind("city", _one_of(CITIES), "{s} lives in {v}.",
         ("{s} lives in {v}.", "The home of {s} is in {v}.", "{v} is where {s} lives."),
         ("Where does {s} live?", "In which city does {s} live?", "What city does {s} live in?",
          "Which city is {s}'s home?",
          "where does {s} live")),
    Kind("age", _number(18, 99), "{s} is {v} years old.",
         ("{s} is {v} years old.", "The age of {s} is {v}.", "{s} turned {v} this year."),
         ("How old is {s}?", "What is the age of {s}?", "What is {s}'s age?", "Tell me how old {s} is.",
          "how old is {s}")),
    Kind("job", _one_of(_JOBS), "{s} works as a {v}.",
         ("{s} works as a {v}.", "The job of {s} is {v}.", "By profession, {s} is a {v}."),
         ("What is the job of {s}?", "What does {s} work as?", "What is {s}'s job?", "What does {s} do for a living?")),
    Kind("room", _number(10, 999), "{s} is in room {v}.",
         ("{s} is in room {v}.", "Room {v} belongs to {s}.", "You find {s} in room {v}."),
         ("In which room is {s}?", "Which room is {s} in?", "What is the room number of {s}?",
          "Which room belongs to {s}?")),
    Kind("phone number", _number(10000, 99999), "The phone number of {s} is {v}.",
         ("The phone number of {s} is {v}.", "{s} can be called at {v}.", "{s}'s phone number is {v}."),
         ("What is the phone number of {s}?", "What is {s}'s phone number?", "Which number do I call to reach {s}?",
          "How can I call {s}?")),
    Kind("pet", _one_of(_ANIMALS), "{s} has a {v}.",
         ("{s} has a {v} at home.", "The pet of {s} is a {v}.", "{s} keeps a {v} as a pet."),
         ("What pet does {s} have?", "Which animal does {s} keep?", "What is the pet of {s}?",
          "What kind of pet has {s}?")),
    Kind("birthday", _one_of(MONTHS), "{s} was born in {v}.",
         ("{s} was born in {v}.", "The birthday of {s} is in {v}.", "{s} celebrates in {v}, the month of birth."),
         ("In which month was {s} born?", "When was {s} born?", "In which month is the birthday of {s}?",
          "What is {s}'s month of birth?")),
    Kind("food", _one_of(_FOODS), "{s}'s favourite food is {v}.",
         ("{s}'s favourite food is {v}.", "{s} likes to eat {v} best.", "The favourite food of {s} is {v}."),
         ("What is {s}'s favourite food?", "What is the favourite food of {s}?", "What does {s} like to eat best?")),
    Kind("sport", _one_of(_SPORTS), "{s}'s favourite sport is {v}.",
         ("{s}'s favourite sport is {v}.", "The sport that {s} likes best is {v}.",
          "The favourite sport of {s} is {v}."),
         ("What is {s}'s favourite sport?", "Which sport does {s} like best?", "What is the favourite sport of {s}?")),
    Kind("instrument", _one_of(_INSTRUMENTS), "{s} plays the {v}.",
         ("{s} plays the {v}.", "{s} has lessons on the {v}.", "The instrument of {s} is the {v}."),
         ("Which instrument does {s} play?", "What instrument does {s} play?", "What is the instrument of {s}?")),
    Kind("day off", _one_of(DAYS), "{s}'s day off is {v}.",
         ("{s}'s day off is {v}.", "{s} does not work on {v}.", "The day off of {s} is {v}."),
         ("What is {s}'s day off?", "On which day is {s} off?", "Which day is the day off of {s}?",
          "On which day does {s} not work?")),
    Kind("salary", _number(100, 9999), "{s} earns {v} coins.",
         ("{s} earns {v} coins.", "The pay of {s} is {v} coins.", "{s} is paid {v} coins."),
         ("How much does {s} earn?", "How many coins does {s} earn?", "What is the pay of {s}?", "What is {s} paid?")),
    Kind("password", lambda rng: made_up_word(rng, rng.randint(2, 3)), "The password of {s} is {v}.",
         ("The password of {s} is {v}.", "{s}'s password is {v}.", "{s} uses the password {v}."),
         ("What is the password of {s}?", "What is {s}'s password?", "Which password does {s} use?",
          "Tell me the password of {s}.")),
)  # fmt: skip

# Facts about things. The subject of a thing is split by hash like the people are.
_BOX = Kind(
    "box", _number(2, 99), "The {s} contains {v} marbles.",
    ("The {s} contains {v} marbles.", "There are {v} marbles in the {s}.", "The {s} holds {v} marbles."),
    ("How many marbles does the {s} contain?", "How many marbles are in the {s}?", "What does the {s} contain?"),
)  # fmt: skip
_PLACE = Kind(
    "place", lambda rng: f"{rng.choice(COLOURS)} {rng.choice(NOUNS)}", "The {s} is under the {v}.",
    ("The {s} is under the {v}.", "Look under the {v} for the {s}.", "Under the {v} lies the {s}."),
    ("Where is the {s}?", "Under what is the {s}?", "Where can I find the {s}?", "What is the {s} under?"),
)  # fmt: skip
_PRICE = Kind(
    "price", _number(10, 9999), "The {s} costs {v} coins.",
    ("The {s} costs {v} coins.", "The price of the {s} is {v} coins.", "You pay {v} coins for the {s}."),
    ("How much does the {s} cost?", "What is the price of the {s}?", "How many coins do I pay for the {s}?"),
)  # fmt: skip
_TICKET = Kind(
    "ticket", lambda rng: "", "Ticket {s} belongs to {v}.",
    ("Ticket {s} belongs to {v}.", "{v} owns ticket {s}.", "The owner of ticket {s} is {v}."),
    ("Who owns ticket {s}?", "To whom does ticket {s} belong?", "Whose ticket is {s}?",
     "Who is the owner of ticket {s}?"),
)  # fmt: skip
THING_KINDS = (_BOX, _PLACE, _PRICE)
_CONTAINERS = split("box jar bag basket drawer tin chest crate bucket bowl")


def people_subject(rng: random.Random, held_out: bool) -> str:
    """A full name of the wanted side of the split."""
    return " ".join(person(rng, held_out))


def person_fact(rng: random.Random, subject: str, kind: Kind) -> Fact:
    """A fact about a person."""
    return _fact(rng, subject, kind, kind.value(rng))


def thing_fact(rng: random.Random) -> Fact:
    """What a box contains, where a thing is, or what it costs."""
    kind = rng.choice(THING_KINDS)
    noun = rng.choice(_CONTAINERS if kind is _BOX else NOUNS)
    return _fact(rng, f"{rng.choice(COLOURS)} {noun}", kind, kind.value(rng))


def ticket_fact(rng: random.Random, held_out: bool) -> Fact:
    """Which person owns a numbered ticket."""
    return _fact(rng, str(rng.randint(100, 9999)), _TICKET, people_subject(rng, held_out))


def _fact(rng: random.Random, subject: str, kind: Kind, value: str) -> Fact:
    # Every second fact is stated as it will be answered: the easiest thing to find again, learned first.
    statement = kind.statements[0] if rng.random() < 0.5 else rng.choice(kind.statements)
    return Fact(subject, kind, value, statement.format(s=subject, v=value))
