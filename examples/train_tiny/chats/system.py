"""System prompts that change how the assistant answers."""

from __future__ import annotations

import random
from collections.abc import Callable

from .core import Example, Turn, chat, draw, is_held_out
from .knowledge import knowledge
from .lists import string_question
from .phrasing import ask
from .recall_facts import PERSON_KINDS, people_subject, person_fact
from .sums import addition, subtraction
from .words import FIRST_NAMES, made_up_word

_PHRASES = (
    "Sure!", "Of course!", "Well,", "My friend,", "Dear user,", "Ahoy!", "Beep.", "Over.", "Thank you for asking.",
    "Here it is:",
    "As you wish.", "Have a nice day!", "Cheers!", "Peace.", "Good question!", "Answer:", "Best wishes!", "Done.",
    "OK:", "Meow.",
    "That is all.", "Yours, ds4-tiny", "Certainly!", "Stay curious!", "Hooray!", "Let me see.", "Roger.",
    "Hello again!",
)  # fmt: skip
_SUBJECTS = (addition, subtraction, knowledge, knowledge, string_question)


def _task(rng: random.Random, held_out: bool) -> Turn:
    return draw(rng.choice(_SUBJECTS), rng, held_out)


def _short_task(rng: random.Random, held_out: bool) -> Turn:
    while not (turn := _task(rng, held_out)).short:
        pass
    return turn


def _upper(rng: random.Random, held_out: bool, count: int) -> tuple[str, list[Turn]]:
    system = rng.choice(("Answer in upper case.", "Answer in capital letters only.", "Always write in upper case.",
                         "Write all answers in capitals.", "Use only capital letters."))  # fmt: skip
    turns = [_task(rng, held_out) for _ in range(count)]
    return system, [turn._replace(answer=turn.answer.upper()) for turn in turns]


def _bare(rng: random.Random, held_out: bool, count: int) -> tuple[str, list[Turn]]:
    system = rng.choice(("Answer with the result only.", "Answer with nothing but the result.",
    "Give only the bare answer.",
                         "Write only the answer, no sentence.",
                         "Answer as briefly as possible: the result only."))  # fmt: skip
    turns = [_short_task(rng, held_out) for _ in range(count)]
    return system, [turn._replace(answer=turn.short) for turn in turns]


def _begin(rng: random.Random, held_out: bool, count: int) -> tuple[str, list[Turn]]:
    phrase = rng.choice(_PHRASES)
    system = rng.choice(('Begin each answer with "{p}"', 'Start every answer with "{p}"', 'Always begin with "{p}"',
                         'Each of your answers starts with "{p}"')).format(p=phrase)  # fmt: skip
    turns = [_task(rng, held_out) for _ in range(count)]
    return system, [turn._replace(answer=f"{phrase} {turn.answer}") for turn in turns]


def _finish(rng: random.Random, held_out: bool, count: int) -> tuple[str, list[Turn]]:
    phrase = rng.choice(_PHRASES)
    system = rng.choice(('Finish each answer with "{p}"', 'End every answer with "{p}"', 'Always end with "{p}"',
                         'Write "{p}" at the end of each answer.')).format(p=phrase)  # fmt: skip
    turns = [_task(rng, held_out) for _ in range(count)]
    return system, [turn._replace(answer=f"{turn.answer} {phrase}") for turn in turns]


def _named(rng: random.Random, held_out: bool, count: int) -> tuple[str, list[Turn]]:
    def who(rng: random.Random) -> Turn:
        question = ask(rng, ("Who are you?", "What is your name?", "What are you called?", "Tell me your name.",
        "Your name?",
                             "What should I call you?"))  # fmt: skip
        return Turn(f"named {name}", question, f"I am {name}.", f"The system prompt says that I am {name}.", name)

    while True:
        name = rng.choice(FIRST_NAMES) if rng.random() < 0.5 else made_up_word(rng).capitalize()
        if is_held_out(f"named {name}") == held_out:
            break
    system = rng.choice(("You are called {n}.", "Your name is {n}.", "You are {n}, a helpful assistant.",
    "You are {n}.",
                         "You are an assistant named {n}.")).format(n=name)  # fmt: skip
    return system, [*(_task(rng, held_out) for _ in range(count - 1)), who(rng)]


def _facts(rng: random.Random, held_out: bool, count: int) -> tuple[str, list[Turn]]:
    facts = {}
    for _ in range(rng.randint(count, count + 3)):
        fact = person_fact(rng, people_subject(rng, held_out), rng.choice(PERSON_KINDS))
        facts[fact.subject, fact.kind.name] = fact
    known = list(facts.values())
    system = " ".join(["You are a helpful assistant.", *(fact.statement for fact in known)])
    chosen = rng.sample(known, min(count, len(known)))
    thought = "The system prompt says: "
    return system, [Turn("", fact.question(rng), fact.answer, thought + fact.statement) for fact in chosen]


_Maker = Callable[[random.Random, bool, int], tuple[str, list[Turn]]]
_MAKERS: tuple[_Maker, ...] = (_upper, _bare, _begin, _finish, _named, _facts)


def make(family: str, rng: random.Random, held_out: bool) -> Example:
    """One to four questions under one rule."""
    system, turns = rng.choice(_MAKERS)(rng, held_out, rng.randint(1, 4))
    return chat(family, turns, thinking=rng.random() < 0.4, system=system)
