"""Ways to ask: one of many templates, with or without a greeting, a capital letter, or a final mark."""

# ruff: noqa: PLR0911 - one return for each kind of text
from __future__ import annotations

import random
from collections.abc import Sequence

_BEFORE = (
    "Hello! ", "Hi! ", "Hi, ", "Hey, ", "Good morning! ", "Next question: ", "One more: ", "Quick question: ",
    "Now: ", "OK, ", "Tell me: ", "Thanks! ", "Great. ", "I have a question. ", "Next: ", "Good evening. ",
)  # fmt: skip
_BEFORE_ORDER = ("Please ", "please ", "Could you ", "Can you ", "Now ", "Hey, ", "Would you please ", "Kindly ")
_ORDERS = frozenset(
    {"Add", "Compute", "Calculate", "Give", "Work", "Solve", "Subtract", "Take", "Multiply", "Divide", "Halve",
     "Double", "Count", "List", "Write", "Spell", "Reverse", "Turn", "Put", "Separate", "Uppercase",
     "Lowercase", "Make", "Convert", "Capitalise", "Capitalize", "Name", "Repeat", "Say", "Sort", "Order",
     "Arrange", "Find", "Pick", "Remove", "Delete", "Drop", "Join", "Split", "Cut", "Copy", "Tell", "Define",
     "Explain", "Implement", "Code", "Show", "Search", "Look", "Read", "Open", "Save", "Create", "Run",
     "Execute", "Email", "Set", "Change", "Schedule", "Translate", "Play", "Edit", "Switch", "Book", "Reserve",
     "Move", "Rename", "Text", "New", "Roll", "Throw", "Draw", "Track", "Resize", "Commit", "Fetch",
     "Get", "Download", "Invent", "Heat", "Wake", "Use"}
)  # fmt: skip
_AFTER = (" Thanks!", " Thank you.", " Please.")


def ask(rng: random.Random, templates: Sequence[str], **values: object) -> str:
    """A template, dressed up, with its values filled in. Values are never changed."""
    return dressed(rng, rng.choice(templates)).format(**values)


def dressed(rng: random.Random, text: str) -> str:
    """The text itself in half of the cases, else with some of the noise of real messages."""
    draw = rng.random()
    if draw < 0.5:
        return text
    if draw < 0.62:
        return _lowered(text)
    if draw < 0.72:
        return text.rstrip(".?!") or text
    if draw < 0.80:
        return _lowered(text).rstrip(".?!") or text
    if draw < 0.85:
        return text + rng.choice(_AFTER) if text[-1] in ".?!" else text
    if text[-1] == "." and draw < 0.93 and text.split(" ", 1)[0] in _ORDERS:
        before = rng.choice(_BEFORE_ORDER)
        end = "?" if before.startswith(("Could", "Can", "Would")) else "."
        return before + _lowered(text)[:-1] + end
    before = rng.choice(_BEFORE)
    return before + (_lowered(text) if before.endswith((", ", ": ")) else text)


def _lowered(text: str) -> str:
    """A small first letter, but not for "I" and not before a value."""
    return text if text.startswith(("I ", "I'", "{")) else text[0].lower() + text[1:]
