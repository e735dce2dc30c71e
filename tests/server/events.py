"""Reading streams in tests."""

from __future__ import annotations

import json
from typing import Any


def parse(lines: list[str]) -> list[Any]:
    """The data of each event; the end mark of OpenAI's streams as it is. Comments are left out."""
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [one if one == "[DONE]" else json.loads(one) for one in data]


def names(lines: list[str]) -> list[str]:
    """The names of the events in order, runs of one name written once."""
    found = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    return [name for index, name in enumerate(found) if index == 0 or name != found[index - 1]]


def deltas(lines: list[str]) -> list[dict[str, Any]]:
    """The deltas of a chat stream's first choice."""
    chunks = [event for event in parse(lines) if event != "[DONE]"]
    return [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
