"""A server whose engine plays a coding agent's model by a script: for prompts that are too much for ds4-tiny.

All else is what `ds4-mlx serve` runs: HTTP, prompt encoding, tokenizer, grammar, replay of calls. The answers are
played; that they keep to the request's grammar is checked token by token. As cached counts the longest beginning that a
prompt has in common with what was read or said before.

A prompt says [turn 1] or [turn 2]; the actor calls what is scripted for that turn, then tells what the tools returned.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import uvicorn

import ds4_mlx
from ds4_mlx.commands.serve import listen, where
from ds4_mlx.engine.constraints import build_constraint
from ds4_mlx.engine.replay import ReplayBook
from ds4_mlx.engine.request import Constraint, Request
from ds4_mlx.server.app import create_app
from ds4_mlx.server.served import ServedModel, ServerOptions
from ds4_mlx.text import Tokenizer, load_tokenizer, render_tool_calls

from server.scripted_engine import Reply, ScriptedEngine

TINY = Path(ds4_mlx.__file__).parent / "models" / "ds4-tiny"
CONTEXT = 200_000
PATCH = "*** Begin Patch\n*** Add File: answer.txt\n+milk\n*** End Patch\n"
Calls = list[tuple[str, dict]]

# By a tool that only one client has: what is called in turn 1 and in turn 2. Paths are completed by _in_folder.
PARTS: dict[str, tuple[Calls, Calls]] = {
    "Read": (  # Claude Code
        [("Read", {"file_path": "FOLDER/notes.txt"}), ("Bash", {"command": "wc -w notes.txt", "description": "Count"})],
        [("Write", {"file_path": "FOLDER/answer.txt", "content": "milk\n"})],
    ),
    "exec_command": (  # Codex
        [("exec_command", {"cmd": "cat notes.txt"}), ("exec_command", {"cmd": "wc -w notes.txt"})],
        [("apply_patch", {"input": PATCH})],
    ),
    "todowrite": (  # opencode
        [
            ("read", {"filePath": "FOLDER/notes.txt"}),
            ("bash", {"command": "wc -w notes.txt"}),
        ],
        [("write", {"filePath": "FOLDER/answer.txt", "content": "milk\n"})],
    ),
}


class Actor:
    """The script, and what it has seen."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: list[np.ndarray] = []

    def reply(self, prompt: str, request: Request) -> Reply:
        """What is said to a prompt."""
        reply = self._play(prompt)
        cached = max((_common(np.array(request.prompt), known) for known in self._known), default=0)
        said = (f"{reply.reasoning}</think>" if request.thinking else "") + reply.content + _calls_text(reply)
        ids = self._tokenizer.encode(said)
        self._known.append(np.array([*request.prompt, *ids]))
        wrong = _refused(request.constraint, ids, self._tokenizer)
        return Reply(**{**vars(reply), "cached": cached, "fail": wrong})

    def _play(self, prompt: str) -> Reply:
        turns = list(re.finditer(r"\[turn (\d)\]", prompt))
        parts = [calls for tool, calls in PARTS.items() if f'"name": "{tool}"' in prompt]
        if not turns or not parts:
            return Reply('{"title": "Notes"}' if '"title"' in prompt else "Notes", "A title is asked for.")
        results = re.findall(r"<tool_result>(.*?)</tool_result>", prompt[turns[-1].end() :], re.DOTALL)
        if results:
            return Reply(f"The tools returned: {' / '.join(results)[:2000]}", "I tell what came.")
        folder = re.search(r"in the folder (\S+)\.", prompt[turns[-1].start() :])
        assert folder
        calls = parts[0][int(turns[-1][1]) - 1]
        return Reply("I look.", "The tools will tell.", [(name, _in_folder(given, folder[1])) for name, given in calls])


def _in_folder(arguments: dict, folder: str) -> dict:
    return {name: value.replace("FOLDER", folder) for name, value in arguments.items()}


def _calls_text(reply: Reply) -> str:
    calls = [{"function": {"name": name, "arguments": json.dumps(given)}} for name, given in reply.calls]
    return render_tool_calls(calls) if calls else ""


def _common(a: np.ndarray, b: np.ndarray) -> int:
    shorter = min(len(a), len(b))
    differ = np.flatnonzero(a[:shorter] != b[:shorter])
    return int(differ[0]) if len(differ) else shorter


def _refused(constraint: Constraint | None, ids: list[int], tokenizer: Tokenizer) -> str | None:
    """What the grammar has against an answer."""
    if constraint is None:
        return None
    for index, token in enumerate(ids):
        mask = constraint.mask()
        if mask is not None and not mask[token // 32] >> np.uint32(token % 32) & 1:
            return f"The grammar refuses {tokenizer.decode([token])!r} after {tokenizer.decode(ids[:index])[-200:]!r}."
        constraint.accept(token)
    return None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--trace", type=Path, required=True)
    flags = parser.parse_args()
    tokenizer = load_tokenizer(TINY)
    model = ServedModel(
        tokenizer,
        "0731",
        CONTEXT,
        tokenizer.vocab_size,
        constrain=build_constraint,
        replay=ReplayBook(flags.trace.parent / "kv"),
    )
    engine = ScriptedEngine(tokenizer, Actor(tokenizer).reply)
    app = create_app(engine, model, ServerOptions(trace=flags.trace))
    with listen("127.0.0.1", flags.port) as listener:
        print(where(listener, None), file=sys.stderr, flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)).run([listener])


if __name__ == "__main__":
    main()
