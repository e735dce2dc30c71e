"""Whether a greedy completion is the expected one."""

from __future__ import annotations

import json
from typing import Any

from ds4_mlx.text import DSMLError, parse_completion
from ds4_mlx.text.special import EOS, THINK_END

from .core import Example


def correct(example: Example, completion: str) -> bool:
    """Compares what counts: the calls (names and arguments) or else the answer, never the reasoning.

    Args:
        example: what was asked; its last message is the right answer.
        completion: what the model wrote, with or without EOS. In thinking mode it holds the reasoning too.
    """
    expected = example.messages[-1]
    text = completion.partition(EOS)[0]
    if expected.get("tool_calls"):
        return _same_calls(expected, text, example.thinking)
    if example.thinking:
        _, found, text = text.partition(THINK_END)
        if not found:
            return False
    return text.strip() == expected["content"].strip()


def _same_calls(expected: dict[str, Any], text: str, thinking: bool) -> bool:
    try:
        message = parse_completion(text + EOS, thinking_mode="thinking" if thinking else "chat")
        calls, wanted = _calls(message), _calls(expected)
    except (DSMLError, ValueError):
        return False
    return calls == wanted and message["content"].strip() == expected["content"].strip()


def _calls(message: dict[str, Any]) -> list[tuple[str, Any]]:
    functions = [call["function"] for call in message["tool_calls"]]
    # As JSON again, since in Python 1 == 1.0 == True.
    return [(each["name"], json.dumps(json.loads(each["arguments"]), sort_keys=True)) for each in functions]
