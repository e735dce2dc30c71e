"""Small graded tasks, greedy: what ds4-tiny was trained to do, questions it has not seen.

`data/tasks.jsonl` was written by examples/train_tiny/tasks.py from the held-out side of the training's rules. A larger
model answers them in words of its own, which an exact comparison marks wrong: they measure ds4-tiny and its profiles.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds4_mlx.engine.language_model import LanguageModel
from ds4_mlx.errors import UserError
from ds4_mlx.evaluation.scoring import OnProgress
from ds4_mlx.evaluation.texts import DATA
from ds4_mlx.terminal import Collected

DEFAULT_TASKS = DATA / "tasks.jsonl"
_MAX_TOKENS = 400


@dataclass(frozen=True)
class Task:
    """A conversation to be answered. expected: the assistant message: its calls or else its content are compared."""

    family: str
    messages: list[dict[str, Any]]
    thinking: bool
    expected: dict[str, Any]


@dataclass(frozen=True)
class Graded:
    """An answer and whether it was right."""

    task: Task
    right: bool
    content: str
    calls: list[dict[str, str]]


def read_tasks(path: Path, only: Iterable[str] = (), examples: int | None = None) -> list[Task]:
    """The tasks of a file, of some families, the first `examples` of each. Raises `UserError` if that leaves none."""
    try:
        tasks = [Task(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} is no file of tasks: {error}. A line is a JSON object with family, messages, thinking, expected."
        ) from None
    families = list(dict.fromkeys(task.family for task in tasks))
    for name in only:
        if name not in families:
            raise UserError(f"There is no family {name!r}; the file has {', '.join(families)}.")
    wanted = list(only) or families
    chosen = [[task for task in tasks if task.family == family][:examples] for family in families if family in wanted]
    if not any(chosen):
        raise UserError(f"{path} has no tasks.")
    return [task for family in chosen for task in family]


def grade(model: LanguageModel, tasks: list[Task], on_progress: OnProgress | None = None) -> list[Graded]:
    """Answers every task; on_progress(tasks done, tasks in all)."""
    results = []
    for task in tasks:
        answer = Collected()
        events = model.stream(task.messages, thinking=task.thinking, temperature=0, max_tokens=_MAX_TOKENS)
        for event in events:
            answer.add(event)
        results.append(Graded(task, _right(task, answer), answer.content, answer.tool_calls))
        if on_progress is not None:
            on_progress(len(results), len(tasks))
    return results


def _right(task: Task, answer: Collected) -> bool:
    """Calls (names and arguments) or else content; never the reasoning."""
    calls = [call["function"] for call in task.expected.get("tool_calls") or []]
    same_content = answer.content.strip() == (task.expected.get("content") or "").strip()
    return same_content and list(map(_plain, answer.tool_calls)) == list(map(_plain, calls))


def _plain(call: dict[str, str]) -> tuple[str, str] | None:
    """Name and arguments, whatever the order of keys. As JSON again, since in Python 1 == 1.0 == True."""
    try:
        return call["name"], json.dumps(json.loads(call["arguments"]), sort_keys=True)
    except ValueError:
        return None
