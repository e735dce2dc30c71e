"""Conversations with tools: calls whose arguments stand in the request, results, and answers that state them."""

from __future__ import annotations

import json
import random
from typing import Any, NamedTuple

from .core import Example, Message, assistant, draw, is_held_out
from .phrasing import dressed
from .small_talk import small_talk
from .strings import word_question
from .sums import addition, subtraction
from .tool_values import KINDS, shown
from .tools import TOOLS, Tool, made_up_tool

_SYSTEMS = (
    "", "", "", "", "You are a helpful assistant.", "You are ds4-tiny, a small assistant with tools.",
    "Use the tools when they help.", "You are an assistant that can call tools.", "Answer briefly.",
    "Be brief and exact.",
)  # fmt: skip
_ERRORS = (
    "not found", "permission denied", "timeout", "service unavailable", "invalid argument", "no connection",
    "not allowed",
    "rate limit exceeded", "internal error", "access denied", "out of memory", "unknown name", "disk full",
    "try again later",
)  # fmt: skip
# Parameters of which two can be asked for at once: "the weather in Paris and Rome".
_TWICE = frozenset({"city", "symbol", "path", "room", "folder", "url"})


class _Call(NamedTuple):
    tool: Tool
    arguments: dict[str, Any]

    @property
    def key(self) -> str:
        return f"call {self.tool.name} {json.dumps(self.arguments)}"


class _Request(NamedTuple):
    text: str
    calls: list[_Call]


def _request(rng: random.Random, tool: Tool) -> _Request:
    template, fields, implied = rng.choice(tool.asks)
    twice = len(tool.parameters) == len(fields) == 1 and tool.parameters[0][1] in _TWICE and rng.random() < 0.25
    sets = []
    for _ in range(2 if twice else 1):
        drawn = {name: KINDS[kind][1](rng) for name, kind in tool.parameters if name in fields}
        sets.append(
            {
                name: drawn.get(name, implied.get(name))
                for name, _ in tool.parameters
                if name in fields or name in implied
            }
        )
    values = {name: " and ".join(shown(arguments[name]) for arguments in sets) for name in fields}
    return _Request(dressed(rng, template).format(**values), [_Call(tool, arguments) for arguments in sets])


def _on_this_side(request: _Request, held_out: bool) -> bool:
    return all(is_held_out(call.key, 10) == held_out for call in request.calls)


def _pick(rng: random.Random, held_out: bool, tools: list[Tool]) -> _Request:
    """A request for one of the tools. Few values leave nothing on one side of the split: then for a new tool."""
    for attempt in range(400):
        tool = rng.choice(tools) if attempt < 200 else made_up_tool(rng)
        request = _request(rng, tool)
        if _on_this_side(request, held_out):
            if tool not in tools:
                tools.append(tool)
            return request
    raise RuntimeError("no request on this side of the split")


def _calls_message(calls: list[_Call], first_id: int, thinking: bool) -> Message:
    message = assistant("", _call_thought(calls), thinking)
    message["tool_calls"] = [
        {
            "id": f"call_{first_id + i}",
            "type": "function",
            "function": {"name": call.tool.name, "arguments": json.dumps(call.arguments)},
        }
        for i, call in enumerate(calls)
    ]
    return message


def _call_thought(calls: list[_Call]) -> str:
    name = calls[0].tool.name
    given = [" and ".join(f"{key} {shown(value)}" for key, value in call.arguments.items()) for call in calls]
    if len(calls) > 1:
        return f"The user asks for two things. I should call {name} twice: with {given[0]} and with {given[1]}."
    return f"I can use {name}. I should call it with {given[0]}."


def _result(rng: random.Random, call: _Call) -> tuple[str, str]:
    """What the tool returns, as JSON, as text or as an error, and the sentence that tells the user."""
    if rng.random() < 0.1:
        error = rng.choice(_ERRORS)
        text = json.dumps({"error": error}) if rng.random() < 0.7 else f"Error: {error}"
        return text, f"The tool {call.tool.name} returned an error: {error}."
    drawn = {name: KINDS[kind][1](rng) for name, kind in call.tool.result}
    if call.tool.name == "add_numbers":
        drawn = {"sum": call.arguments["a"] + call.arguments["b"]}
    elif call.tool.name == "calculate_area":
        drawn = {"area": call.arguments["width"] * call.arguments["height"]}
    values = {name: shown(value) for name, value in (call.arguments | drawn).items()}
    plain = len(drawn) == 1 and rng.random() < 0.3
    text = shown(next(iter(drawn.values()))) if plain else json.dumps(drawn)
    return text, call.tool.answer.format(**values)


def _answered(rng: random.Random, calls: list[_Call], first_id: int, thinking: bool) -> list[Message]:
    results = [_result(rng, call) for call in calls]
    messages: list[Message] = [
        {"role": "tool", "tool_call_id": f"call_{first_id + i}", "content": text} for i, (text, _) in enumerate(results)
    ]
    messages.append(
        assistant(" ".join(said for _, said in results), "I tell the user what the tool returned.", thinking)
    )
    return messages


def _plain(rng: random.Random, held_out: bool, thinking: bool) -> list[Message]:
    """A question that needs no tool although tools are there."""
    turn = draw(rng.choice((small_talk, addition, subtraction, word_question)), rng, held_out)
    thought = f"No tool is needed. {turn.thought}"
    return [{"role": "user", "content": turn.question}, assistant(turn.answer, thought, thinking)]


def make(family: str, rng: random.Random, held_out: bool) -> Example:
    """A conversation that ends with calls (`tool_call`) or with the answer after their results (`tool_answer`)."""
    thinking = rng.random() < 0.45
    tools = [
        made_up_tool(rng) if rng.random() < 0.35 else rng.choice(TOOLS)
        for _ in range(rng.choice((1, 1, 2, 2, 3, 4, 5)))
    ]
    tools = list({tool.name: tool for tool in tools}.values())
    # Made before the messages, since a request may add a tool.
    rounds = [_pick(rng, held_out, tools) for _ in range(rng.choice((1, 1, 2, 2, 3, 4)))]
    ends_plain = family == "tool_answer" and rng.random() < 0.12
    rng.shuffle(tools)
    messages: list[Message] = [
        {"role": "system", "content": rng.choice(_SYSTEMS), "tools": [tool.definition for tool in tools]}
    ]
    if rng.random() < 0.12:
        messages += _plain(rng, held_out, thinking)
    if ends_plain and rng.random() < 0.6:
        rounds = []
    next_id = 1
    for index, request in enumerate(rounds):
        messages.append({"role": "user", "content": request.text})
        messages.append(_calls_message(request.calls, next_id, thinking))
        if family == "tool_answer" or index + 1 < len(rounds):
            messages += _answered(rng, request.calls, next_id, thinking)
        next_id += len(request.calls)
    if ends_plain:
        messages += _plain(rng, held_out, thinking)
    return Example(family, messages, thinking)
