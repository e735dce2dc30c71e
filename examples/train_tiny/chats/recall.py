"""Recall: facts planted in prompts of a wanted length, then questions about them."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .core import Context, Example, Message, assistant, is_held_out, render
from .phrasing import dressed
from .recall_facts import PERSON_KINDS, Fact, Kind, people_subject, person_fact, thing_fact, ticket_fact

ABSENT = "The text does not say."
_INTRODUCTIONS = (
    "Read this text and answer my questions.", "Here is a text. Answer my questions about it.", "Read the text below.",
    "Remember these facts.", "Please read this carefully.", "I will ask you about this text.", "Study this text:",
    "Text:", "These are my notes.", "Keep this in mind.", "Read:", "Learn the following facts by heart.",
)  # fmt: skip
_NOTED = "Noted."
_NOTES = (
    "Remember this.",
    "Note this down.",
    "Here is some text.",
    "More text.",
    "Keep this in mind too.",
    "Next part.",
)
_CACHE_SIZE = 200_000
CROWD_SHARE = 0.3  # of training's recall chats


class _Counter:
    """Counts tokens of pieces of prose, each once."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[object, str], int] = OrderedDict()

    def __call__(self, context: Context, text: str) -> int:
        key = (context.count, text)
        if key not in self._known:
            if len(self._known) > _CACHE_SIZE:
                self._known.clear()
            self._known[key] = context.count(text)
        return self._known[key]


_count = _Counter()


class _Asked(NamedTuple):
    question: str
    answer: str
    thought: str


def make(family: str, rng: random.Random, held_out: bool, context: Context) -> Example:
    """Total lengths of 200 to 4000 tokens, short ones more often; long prompts get more questions."""
    tokens = int(200 * 20 ** (rng.random() ** 1.3))
    most = min(12, 1 + tokens // 120)
    questions = rng.randint(min(4, most), most) if rng.random() < 0.8 else rng.randint(1, most)
    crowd = rng.random() < CROWD_SHARE
    return recall(rng, held_out=held_out, context=context, tokens=tokens, questions=questions, crowd=crowd)


def recall(
    rng: random.Random, *, held_out: bool, context: Context, tokens: int, questions: int, crowd: bool = False
) -> Example:
    """A recall chat of `tokens` tokens (at most, and at least 97 % of that) with `questions` questions.

    A few facts, each about somebody or something else, are planted in prose. In a `crowd` there is a fact every 25 to
    120 tokens, with names and attributes shared among them, so that only both together point to one value. Where the
    questions alone would take half of the prompt, there are fewer of them.
    """
    thinking = rng.random() < 0.15
    questions = max(1, min(questions, tokens // 60))
    if crowd:
        density = 25 * (120 / 25) ** rng.random()
        facts = _crowd(rng, held_out, count=max(questions, 2, int(tokens / density)))
    else:
        facts = _few(rng, held_out, count=max(2, questions + rng.randint(0, 3)))
    asked = _asked(rng, facts, questions, held_out, absent=0.1 if crowd else 0.05)
    # A further turn costs too much of a short text to hit its length.
    shape = rng.choice(("user", "user", "user", "system", "turns" if tokens >= 400 else "user"))
    introduction = dressed(rng, rng.choice(_INTRODUCTIONS))
    # Between two facts stand whole sentences; the last piece of filler is cut to the word that hits the length.
    lines = [fact.statement for fact in facts]
    parts = rng.randint(2, 5)

    def built(body: list[str]) -> Example:
        return Example("recall", _messages(shape, introduction, body, asked, thinking, parts), thinking)

    while len(lines) > 1 and context.count(render(built(lines))) > tokens:
        # Too many facts for this length: those nobody asks for go.
        needed = {item.thought for item in asked}
        spare = next((i for i, fact in enumerate(facts) if _thought(fact) not in needed), None)
        if spare is None:
            if len(asked) == 1:
                break
            del asked[0]
            continue
        for index in sorted([spare, *range(spare + 4, len(lines), 4)], reverse=True):
            if _thought(facts[index]) not in needed:
                del lines[index], facts[index]
    return _filled(rng, context, tokens, lines, built)


def _filled(rng: random.Random, context: Context, tokens: int, lines: list[str], built) -> Example:
    """Filler spread evenly between the facts until the target is reached, then cut back to what fits."""
    sentences: list[str] = []
    seed = rng.getrandbits(32)

    def spread() -> tuple[Example, int]:
        example = built(_spread(random.Random(seed), lines, sentences))
        return example, context.count(render(example))

    # Pieces may cost fewer or more tokens together than alone, so what is missing is measured again.
    missing = tokens - spread()[1]
    while missing > max(4, tokens // 100):
        while missing > 2:
            sentences.append(_shortened(context, rng.choice(_sentences(context, rng)), missing))
            missing -= _count(context, sentences[-1])
        missing = tokens - spread()[1]
    example, length = spread()
    while sentences and length > tokens:
        shorter = _shortened(context, sentences[-1], _count(context, sentences[-1]) - (length - tokens))
        sentences[-1:] = [shorter] if shorter != sentences[-1] else []
        example, length = spread()
    return example


def _shortened(context: Context, sentence: str, tokens: int) -> str:
    """The sentence, or as many of its first words as take about `tokens` tokens; at least one."""
    cost = _count(context, sentence)
    if cost <= tokens:
        return sentence
    words = sentence.rstrip(".").split()
    keep = max(1, int(len(words) * (tokens - 1) / cost))
    return " ".join(words[:keep]).rstrip(",;:") + "."


def _sentences(context: Context, rng: random.Random) -> list[str]:
    paragraph = " ".join(rng.choice(context.filler).split())
    sentences = [part if part.endswith((".", "!", "?")) else part + "." for part in paragraph.split(". ") if part]
    return sentences or ["It was a quiet day."]


def _spread(rng: random.Random, lines: list[str], sentences: list[str]) -> list[str]:
    """Facts at random places among the filler; lines hold one or more sentences."""
    places = sorted(rng.randrange(len(sentences) + 1) for _ in lines)
    body: list[str] = []
    taken = 0
    for line, place in zip(lines, places, strict=True):
        if place > taken:
            body.append(" ".join(sentences[taken:place]))
            taken = place
        body.append(line)
    if taken < len(sentences):
        body.append(" ".join(sentences[taken:]))
    return body


def _few(rng: random.Random, held_out: bool, count: int) -> list[Fact]:
    """Facts of which no two have the same subject."""
    facts: dict[str, Fact] = {}
    while len(facts) < count:
        fact = _any_fact(rng, held_out, lambda: people_subject(rng, held_out), PERSON_KINDS)
        if fact is not None:
            facts.setdefault(fact.subject, fact)
    return list(facts.values())


def _any_fact(rng: random.Random, held_out: bool, who: Callable[[], str], kinds: Sequence[Kind]) -> Fact | None:
    """Mostly about a person, else about a ticket or a thing; None for a thing of the other side of the split."""
    choice = rng.random()
    if choice < 0.84:
        return person_fact(rng, who(), rng.choice(kinds))
    if choice < 0.90:
        return ticket_fact(rng, held_out)
    fact = thing_fact(rng)
    return fact if is_held_out(fact.subject, 10) == held_out else None


def _crowd(rng: random.Random, held_out: bool, count: int) -> list[Fact]:
    """Facts with names and attributes shared among them, so that only both together point to one value."""
    people = list(
        dict.fromkeys(people_subject(rng, held_out) for _ in range(max(2, int(count / rng.uniform(1.2, 3.5)))))
    )
    kinds = rng.sample(PERSON_KINDS, rng.randint(3, len(PERSON_KINDS)))
    facts: dict[tuple[str, str], Fact] = {}
    for _ in range(20 * count):
        if len(facts) >= count:
            break
        fact = _any_fact(rng, held_out, lambda: rng.choice(people), kinds)
        if fact is not None:
            facts.setdefault((fact.subject, fact.kind.name), fact)
    return list(facts.values())


def _asked(rng: random.Random, facts: list[Fact], count: int, held_out: bool, absent: float) -> list[_Asked]:
    """Questions about facts anywhere in the text; a share of `absent` asks for what is not there."""
    chosen = rng.sample(facts, min(count, len(facts)))
    return [_absent(rng, facts, held_out) if rng.random() < absent else _present(rng, fact) for fact in chosen]


def _thought(fact: Fact) -> str:
    return f"The text says: {fact.statement}"


def _present(rng: random.Random, fact: Fact) -> _Asked:
    question = fact.question(rng)
    if rng.random() < 0.25:
        question = rng.choice(("Next question: ", "And ", "OK. ", "Thanks. ", "From the text: ")) + _inner(question)
    return _Asked(question, fact.answer, _thought(fact))


def _inner(question: str) -> str:
    """The question as it goes on after an opening: names keep their capital."""
    first = question.split(maxsplit=1)[0]
    small = first in (
        "What",
        "Where",
        "Which",
        "How",
        "In",
        "Tell",
        "When",
        "Who",
        "Whose",
        "On",
        "Under",
        "To",
        "Access",
    )
    return question[0].lower() + question[1:] if small else question


def _absent(rng: random.Random, facts: list[Fact], held_out: bool) -> _Asked:
    """A person of the text with another attribute, or a person nobody wrote about."""
    there = {(fact.subject, fact.kind.name) for fact in facts}
    known = [fact.subject for fact in facts if fact.kind in PERSON_KINDS]
    while True:
        subject = rng.choice(known) if known and rng.random() < 0.6 else people_subject(rng, held_out)
        kind = rng.choice(PERSON_KINDS)
        if (subject, kind.name) not in there:
            fact = person_fact(rng, subject, kind)
            return _Asked(fact.question(rng), ABSENT, f"The text does not say anything about that for {subject}.")


def _messages(
    shape: str, introduction: str, body: list[str], asked: list[_Asked], thinking: bool, parts: int
) -> list[Message]:
    messages: list[Message] = []
    first = asked[0].question
    if shape == "system":
        messages.append({"role": "system", "content": "\n".join([introduction, *body])})
        messages.append({"role": "user", "content": first})
    elif shape == "user":
        messages.append({"role": "user", "content": "\n".join([introduction, *body, "", first])})
    else:
        size = -(-len(body) // parts)
        for index, start in enumerate(range(0, len(body), size)):
            opening = introduction if index == 0 else _NOTES[index % len(_NOTES)]
            messages.append({"role": "user", "content": "\n".join([opening, *body[start : start + size]])})
            messages.append(assistant(_NOTED, "The user gives me text to remember.", thinking))
        messages.append({"role": "user", "content": first})
    messages.append(assistant(asked[0].answer, asked[0].thought, thinking))
    for item in asked[1:]:
        messages.append({"role": "user", "content": item.question})
        messages.append(assistant(item.answer, item.thought, thinking))
    return messages
