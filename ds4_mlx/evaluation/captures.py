"""Captures of our own: what a model said to some prompts with its logprobs, to be compared on another machine, with
another version, or in another profile.

A capture is one JSON file. It holds prompts as text, and of each step of the greedy answer the token and the logprobs
of the likeliest ones. It is checked with the captured tokens fed, so that one different choice spoils one step.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ds4_mlx import __version__
from ds4_mlx.engine.generation import check_prompt, render_prompt
from ds4_mlx.engine.language_model import LanguageModel
from ds4_mlx.engine.sampling import log_softmax
from ds4_mlx.errors import UserError
from ds4_mlx.evaluation.scoring import OnProgress
from ds4_mlx.evaluation.vectors import Outcome

FORMAT = "ds4-mlx-capture-1"
DEFAULT_TOLERANCE = 0.25  # nats: the same weights in bfloat16 on another device


class Prompt(NamedTuple):
    """What is captured: a name and one user message."""

    id: str
    text: str


def capture(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    *,
    steps: int,
    top: int,
    thinking: bool,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """A capture as it is written: greedy answers of up to `steps` tokens."""
    cases = []
    for number, prompt in enumerate(prompts, 1):
        ids = model.tokenizer.encode(render_prompt(model, prompt.text, thinking=thinking))
        check_prompt(ids, model.config.max_position_embeddings)
        session, feed = model.session(), ids
        taken: list[dict[str, Any]] = []
        while len(taken) < steps:
            row = np.array(log_softmax(session.feed(feed, last_only=True)[-1]))
            best = np.argsort(-row, kind="stable")[: max(top, 1)]
            chosen = int(best[0])
            taken.append({"id": chosen, "top": [[int(token), round(float(row[token]), 5)] for token in best]})
            feed = [chosen]
            if feed[0] == model.config.eos_token_id:
                break
        cases.append({"id": prompt.id, "prompt": prompt.text, "prompt_ids": ids, "steps": taken})
        if on_progress is not None:
            on_progress(number, len(prompts))
    return {
        "format": FORMAT,
        "model": model.checkpoint.path.name,
        "profile": model.checkpoint.profile,
        "ds4_mlx": __version__,
        "thinking": thinking,
        "cases": cases,
    }


def read_capture(path: Path) -> dict[str, Any] | None:
    """A capture, or None if the file is something else. Raises `UserError` for a damaged one."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        return None
    try:
        for case in data["cases"]:
            _ = case["id"], case["prompt"], case["prompt_ids"]
            for step in case["steps"]:
                _ = int(step["id"]), [(int(token), float(value)) for token, value in step["top"]]
        _ = bool(data["thinking"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} says it is a capture, but lacks {error} or has it in another form.") from None
    return data


def check_capture(model: LanguageModel, capture: dict[str, Any], case: dict[str, Any], tolerance: float) -> Outcome:
    """Whether the model says what was captured.

    Every step must have the captured token first, except where the capture's two best are closer than `tolerance`;
    and no captured logprob may differ by more.
    """
    expected_ids = case["prompt_ids"]
    ids = model.tokenizer.encode(render_prompt(model, case["prompt"], thinking=capture["thinking"]))
    if ids != expected_ids:
        return Outcome(
            case["id"], False, len(ids), f"the prompt has other tokens than the {len(expected_ids)} captured"
        )
    furthest, swapped = 0.0, 0
    session, feed = model.session(), ids
    for number, step in enumerate(case["steps"]):
        row = np.array(log_softmax(session.feed(feed, last_only=True)[-1]))
        top = step["top"]
        if int(row.argmax()) != step["id"]:
            gap = top[0][1] - top[1][1] if len(top) > 1 else np.inf
            if gap > tolerance:
                got, wanted = (
                    model.tokenizer.token_bytes(i).decode("utf-8", "replace") for i in (int(row.argmax()), step["id"])
                )
                return Outcome(case["id"], False, len(ids), f"step {number}: wrote {got!r}, captured {wanted!r}")
            swapped += 1
        furthest = max(furthest, *(abs(float(row[token]) - value) for token, value in top))
        if furthest > tolerance:
            return Outcome(case["id"], False, len(ids), f"step {number}: a logprob differs by {furthest:.3f}")
        feed = [step["id"]]
    near = f", {swapped} near ties the other way" if swapped else ""
    return Outcome(case["id"], True, len(ids), f"{len(case['steps'])} tokens, logprobs within {furthest:.3f}{near}")
