"""Tools ready for use: the hand-written ones with their schemas, and made-up ones that exist in one prompt only."""

from __future__ import annotations

import random
import re
from typing import Any, NamedTuple

from .tool_specs import SPECS, Spec
from .tool_values import KINDS
from .words import NOUNS, made_up_word, split


class Tool(NamedTuple):
    """A tool, its OpenAI definition, and how it is asked for.

    parameters:  (name, kind) in the order of the schema
    asks:        (template, the names of its fields, arguments that its words imply)
    result:      (name, kind) of the fields that come back
    """

    name: str
    definition: dict[str, Any]
    parameters: tuple[tuple[str, str], ...]
    asks: tuple[tuple[str, frozenset[str], dict[str, Any]], ...]
    result: tuple[tuple[str, str], ...]
    answer: str


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, kind) for name, kind in (part.split(":") for part in text.split()))


def _ask(text: str) -> tuple[str, frozenset[str], dict[str, Any]]:
    template, _, implied = text.partition(" => ")
    extra = {name: value == "true" for name, value in (part.split("=") for part in implied.split())}
    return template, frozenset(re.findall(r"{(\w+)}", template)), extra


def _tool(spec: Spec, descriptions: dict[str, str] | None = None) -> Tool:
    parameters = _pairs(spec.parameters)
    asks = tuple(_ask(text) for text in spec.asks)
    properties: dict[str, Any] = {name: dict(KINDS[kind][0]) for name, kind in parameters}
    for name, text in (descriptions or {}).items():
        properties[name]["description"] = text
    always = [name for name, _ in parameters if all(name in fields or name in extra for _, fields, extra in asks)]
    schema = {"type": "object", "properties": properties, "required": always}
    function = {"name": spec.name, "description": spec.description, "parameters": schema}
    definition = {"type": "function", "function": function}
    return Tool(spec.name, definition, parameters, asks, _pairs(spec.result), spec.answer)


TOOLS = tuple(_tool(spec) for spec in SPECS)

_VERBS = split(
    """archive assign brew calibrate charge clean deploy dispatch encode enroll export feed forge freeze grade heat hide
    import inspect label launch load lock mark measure merge mount pack paint park print publish rate refill register
    release repair reset rotate scan seal ship store submit swap tag tune unlock upload verify wash weigh wrap"""
)
_ADJECTIVES = split("old new big small red blue spare main green local")
# (parameter, kind, description)
_PARAMETERS = (
    ("name", "word", "Name to use"), ("label", "phrase", "Label to print"), ("count", "few", "How many"),
    ("size", "int", "Size in cm"), ("weight", "weight", "Weight in kg"), ("color", "word", "Color name"),
    ("code", "code", "Code of the item"), ("owner", "person", "Full name of the owner"), ("place", "city",
     "Name of a city"),
    ("level", "percent", "Level from 1 to 100"), ("note", "phrase", "A short note"), ("target", "path",
     "Path of a file"),
    ("id", "int", "Number of the item"), ("price", "price", "Price in euros"), ("day", "date", "Day of the action"),
    ("time", "time", "Time of the action"), ("password", "made_up", "Secret word"), ("tags", "items", "List of tags"),
    ("urgent", "bool", "Whether it is urgent"), ("dry_run", "bool", "Only simulate"), ("room", "room",
     "Room of the house"),
    ("recipient", "email", "Email address"), ("speed", "small", "Speed in km/h"), ("duration", "small", "Minutes"),
)  # fmt: skip
_QUOTED = frozenset({"phrase"})


def made_up_tool(rng: random.Random) -> Tool:
    """A tool nobody has seen before: only its schema tells how to call it."""
    verb = rng.choice(_VERBS)
    noun = rng.choice(NOUNS) if rng.random() < 0.7 else made_up_word(rng)
    middle = f"{rng.choice(_ADJECTIVES)} " if rng.random() < 0.25 else ""
    thing = f"{middle}{noun}"
    chosen = rng.sample(_PARAMETERS, rng.randint(1, 3))
    wanted = [(name, f'"{{{name}}}"' if kind in _QUOTED else f"{{{name}}}") for name, kind, _ in chosen]
    given = " and ".join(f"{name.replace('_', ' ')} {field}" for name, field in wanted)
    spec = Spec(
        f"{verb}_{thing.replace(' ', '_')}",
        f"{verb.capitalize()} a {thing}.",
        " ".join(f"{name}:{kind}" for name, kind, _ in chosen),
        (
            f"{verb.capitalize()} the {thing} with {given}.",
            f"{verb.capitalize()} a {thing}: {given}.",
            f"I want you to {verb} the {thing}, {given}.",
            f"Use the tool to {verb} the {thing} with {given}.",
        ),
        rng.choice(("status:status", "reference:int", "status:status reference:code")),
        "",
    )
    answer = (
        f"The {thing} is done." if "reference" not in spec.result else f"The {thing} has the reference {{reference}}."
    )
    described = {name: text for name, _, text in chosen} if rng.random() < 0.6 else None
    return _tool(spec._replace(answer=answer), described)
