"""Short Python functions on request, and what tiny expressions print."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import NamedTuple

from .core import Example, Turn, chat, draw, how_many_turns
from .phrasing import ask, dressed
from .words import WORDS, word


class Task(NamedTuple):
    """A function to write; in the body lines are separated by newlines and not indented yet."""

    name: str
    parameters: tuple[str, ...]
    purpose: str
    body: str


def _tasks() -> tuple[Task, ...]:
    """The lines of tasks.txt: name parameters | purpose | body, with `;;` between the lines of the body."""
    tasks = []
    for line in (Path(__file__).parent / "tasks.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        head, purpose, body = line.split(" | ")
        name, *parameters = head.split()
        tasks.append(Task(name, tuple(parameters), purpose, body.replace(";;", "\n")))
    return tuple(tasks)


TASKS = _tasks()

_ASKS = (
    "Write a Python function that {p}.", "Write a function that {p}.", "Write a Python function {n} that {p}.",
    "Please write a function named {n} that {p}.", "I need a Python function that {p}.", "Python: a function that {p}.",
    "Can you write a Python function that {p}?", "Give me a function {n}({a}) that {p}.", "Code a function that {p}.",
    "Implement {n}({a}) in Python: it {p}.", "Show me Python code for a function that {p}.",
    "Define {n}, a function that {p}.",
    "How do I write a function in Python that {p}?", "Write {n}({a}), which {p}.", "Write code: a function that {p}.",
)  # fmt: skip
_EXPLAIN_ASKS = ("Write a Python function that {p}, and explain it.",
                 "Write a function that {p}. Explain it in one sentence.",
                 "Explain and write a Python function {n} that {p}.")  # fmt: skip
# Other names for parameters, so that the model reads the request; never a name that a body uses for itself.
_RENAMED = {"n": ("n", "n", "number", "num"), "numbers": ("numbers", "values", "nums"), "text": ("text", "s", "string"),
            "items": ("items", "elements", "lst")}  # fmt: skip


def source(rng: random.Random, task: Task, name: str) -> tuple[str, tuple[str, ...]]:
    """The function's text under this name, with some parameters renamed; and its parameters."""
    parameters, body = task.parameters, task.body
    if rng.random() < 0.4:
        for old in task.parameters:
            new = rng.choice(_RENAMED.get(old, (old,)))
            if new != old and not re.search(rf"\b{new}\b", body):
                body = re.sub(rf"\b{old}\b", new, body)
                parameters = tuple(new if parameter == old else parameter for parameter in parameters)
    # A recursive body calls itself by the name asked for.
    body = re.sub(rf"\b{task.name}\b", name, body)
    lines = "\n".join(f"    {line}" for line in body.split("\n"))
    return f"def {name}({', '.join(parameters)}):\n{lines}", parameters


def code_question(rng: random.Random) -> Turn:
    """A request for one function."""
    task = rng.choice(TASKS)
    explained = rng.random() < 0.2
    template = rng.choice(_EXPLAIN_ASKS if explained else _ASKS)
    name = f"{rng.choice(WORDS)}_{rng.choice(WORDS)}" if "{n}" in template and rng.random() < 0.3 else task.name
    if "{n}" in template and rng.random() < 0.1:
        name = f"my_{task.name}"
    text, parameters = source(rng, task, name)
    if "{a}" not in template:
        text, parameters = source(random.Random(0), task, name) if "{n}" not in template else (text, parameters)
    question = dressed(rng, template).format(p=task.purpose, n=name, a=", ".join(parameters))
    answer = f"```python\n{text}\n```"
    if explained:
        answer += f"\nThe function {task.purpose}."
    return Turn(f"code {question}", question, answer, f"I write a function {name} that {task.purpose}.")


def make_code(family: str, rng: random.Random, held_out: bool) -> Example:
    """One to three functions."""
    turns = [draw(code_question, rng, held_out) for _ in range(how_many_turns(rng, 0.7, 3))]
    return chat(family, turns, thinking=rng.random() < 0.35)


_PRINT_ASKS = (
    "What does this print?\n{c}", "What does `{c}` print?", "What is the output of {c}?", "What is printed by {c}?",
    "{c}",
    "What does Python print for {c}?", "Run this in your head: {c}", "Output of this code?\n```python\n{c}\n```",
    "What does this code print?\n```python\n{c}\n```", "What will {c} print?", "Tell me the output: {c}",
)  # fmt: skip


def _expression(rng: random.Random) -> str:
    a, b, w = rng.randint(0, 99), rng.randint(0, 99), word(rng)
    numbers = rng.sample(range(50), rng.randint(3, 5))
    at, low = rng.randrange(len(numbers)), rng.randrange(3)
    return rng.choice(
        (f"{a} + {b}", f"{a} - {b}", f"{rng.randint(2, 12)} * {rng.randint(2, 12)}", f'len("{w}")', f"{a} > {b}",
        f"{a} == {b}",
         f'"{w[:3]}" * {rng.randint(2, 4)}', f"{numbers}[{at}]", f"{numbers}[-1]", f"{numbers}[{low}:]",
         f"{numbers}[:{low + 1}]",
         f'"{w}"[{rng.randrange(len(w))}]', f'"{w}".upper()', f'"{w}"[::-1]', f"max({numbers})", f"min({numbers})",
         f"len({numbers})", f"sorted({numbers})", f"{a} % 10", f"{a} // 10", f'"{w[0]}" in "{w}"',
         f'"{w}" + "{word(rng)}"',
         f"list(range({rng.randint(2, 8)}))", f"abs({a - b})", f'"{w}"[:{low + 1}]', f"{numbers[:2]} + {numbers[2:]}",
         f"sum({numbers[:3]})", f'"{w}".capitalize()', f"not {a > b}", f"{a} if {a} > {b} else {b}",
         f"str({a}) + str({b})",
         f'"{w}".replace("{w[0]}", "x")', f"{numbers}[::-1]", f'"{w} {word(rng)}".split()', f"int('{a}') + 1")
    )  # fmt: skip


def _expression_thought(expression: str, value: str) -> str:
    return f"The value of {expression} is {value}."


def code_output(rng: random.Random) -> Turn:
    """What one print of a small expression shows."""
    expression = _expression(rng)
    value = str(eval(expression, {"__builtins__": _SAFE}))  # an expression of the line above, never of a user
    question = ask(rng, _PRINT_ASKS, c=f"print({expression})")
    return Turn(f"print {expression}", question, value, _expression_thought(expression, value), value)


_SAFE = {"len": len, "max": max, "min": min, "sorted": sorted, "list": list, "range": range, "abs": abs, "sum": sum,
         "str": str, "int": int}  # fmt: skip


def make_output(family: str, rng: random.Random, held_out: bool) -> Example:
    """One to four expressions."""
    turns = [draw(code_output, rng, held_out) for _ in range(how_many_turns(rng, 0.5, 4))]
    return chat(family, turns, thinking=rng.random() < 0.35)
