"""Claude Code, Codex and opencode against this server, two turns each with tools. Prints a table.

    npm install -g --prefix DIR @anthropic-ai/claude-code @openai/codex opencode-ai
    python tests/clients/agents.py --bin DIR/bin            # scripted answers (actor.py), all agents
    python tests/clients/agents.py --bin DIR/bin --tiny     # ds4-tiny answers; long: the prompts are

Turn 1 reads a file and counts its words, turn 2 goes on in a new process and writes another file, turn 3 is a new
conversation; what was executed is checked on disk. On Linux all of it runs in a network namespace that has only
loopback. Logs and traces stay in --keep FOLDER.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from clients.agent_programs import PROGRAMS, ClaudeCode, Heard, Program
from clients.serving import serving
from clients.table import Row, show

ACTOR = (sys.executable, str(Path(__file__).with_name("actor.py")))
_INSIDE = "--isolated"
TINY_CONTEXT, TINY_OUTPUT = 65_536, 160
SHORT_TOOLS = "Read,Write,Bash"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agents", nargs="*", help=f"which ones: {', '.join(PROGRAMS)}; all by default")
    parser.add_argument("--bin", type=Path, help="the folder with the programs; found in PATH by default")
    parser.add_argument("--tiny", action="store_true", help="ds4-tiny answers, not the script")
    parser.add_argument("--short", action="store_true", help="Claude Code with three tools: 3,000 tokens, not 19,000")
    parser.add_argument("--limit", type=float, default=600, help="seconds for a turn")
    parser.add_argument("--keep", type=Path, help="a folder for logs and traces")
    parser.add_argument(_INSIDE, action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if not flags.isolated and shutil.which("unshare"):
        alone = ["unshare", "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable]
        os.execvp("unshare", [*alone, *sys.argv, _INSIDE])
    folder = flags.keep or Path(tempfile.mkdtemp(prefix="ds4-mlx-agents-"))
    print(f"Logs in {folder}; network {'isolated' if flags.isolated else 'open'}.", file=sys.stderr)
    if flags.short:
        ClaudeCode.tools = SHORT_TOOLS
    path = f"{flags.bin.resolve()}:{os.environ['PATH']}" if flags.bin else os.environ["PATH"]
    rows = [
        _row(PROGRAMS[name], (folder / name).resolve(), path, tiny=flags.tiny, limit=flags.limit)
        for name in flags.agents or PROGRAMS
    ]
    show(rows)
    return any(not row.verdict.startswith("ok") for row in rows)


def _row(kind: type[Program], folder: Path, path: str, *, tiny: bool, limit: float) -> Row:
    engine = "ds4-tiny" if tiny else "scripted"
    if shutil.which(kind.binary, path=path) is None:
        return Row(kind.name, "-", engine, 0, 0, "", "", f"NOT RUN: no {kind.binary}; npm install -g {kind.package}")
    home, project = folder / "home", folder / "project"
    for made in (home, project):
        made.mkdir(parents=True, exist_ok=True)
    (project / "notes.txt").write_text("buy milk and bread", encoding="utf-8")
    environment = {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8", "TERM": "dumb"}
    version = subprocess.run([kind.binary, "--version"], env=environment, capture_output=True, text=True, check=True)
    sizes = {"context": TINY_CONTEXT, "output": TINY_OUTPUT} if tiny else {}
    with _server(folder / "server", tiny) as server:
        program = kind(home, server.url, **sizes)
        environment |= program.set_up()
        heard, before = [], []
        for turn, prompt in enumerate(_prompts(project, tiny), 1):
            before.append(len(server.traced()))
            heard.append(_run(program, prompt, turn, folder, environment, limit))
        trace = server.traced()
    _report(kind.name, heard, trace)
    second, fresh = _cached(trace[before[1] : before[2]]), _cached(trace[before[2] :])
    executed = [name for one in heard for name in one.ran]
    words = version.stdout.split()
    number = next((word for word in words if word[0].isdigit()), version.stdout.strip())
    verdict = _verdict(heard, trace, project, tiny)
    return Row(kind.name, number, engine, len(heard), len(executed), second, fresh, verdict)


def _server(folder: Path, tiny: bool) -> Any:
    return serving(folder, "--ctx", str(TINY_CONTEXT)) if tiny else serving(folder, command=ACTOR)


def _cached(trace: list[dict[str, Any]]) -> str:
    """Of the first request with tools; titles come without."""
    for line in trace:
        if line["request"].get("tools") and line.get("answers"):
            return "{cached_tokens} of {prompt_tokens}".format(**line["answers"][0])
    return "-"


def _prompts(project: Path, tiny: bool) -> tuple[str, str, str]:
    if tiny:  # in the words that it has learned
        return "What does notes.txt contain?", "Run the command wc -w notes.txt.", "List the files in the folder."
    where = f"in the folder {project}."
    return (
        f"[turn 1] Read notes.txt and count its words, {where}",
        f"[turn 2] Write the second word of notes.txt to answer.txt, {where}",
        f"Please look once more. [turn 1] Read notes.txt, {where}",
    )


def _run(program: Program, prompt: str, turn: int, folder: Path, environment: dict[str, str], limit: float) -> Heard:
    begun = time.monotonic()
    output, errors = folder / f"turn{turn}.jsonl", folder / f"turn{turn}.err"
    with output.open("w") as out, errors.open("w") as err:
        command = [program.binary, *program.arguments(prompt, turn)]
        process = subprocess.Popen(
            command, cwd=folder / "project", env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err
        )
        try:
            code: int | str = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait(10)
            code = f"stopped after {limit:.0f} s"
    events = [json.loads(line) for line in output.read_text().splitlines() if line.startswith("{")]
    heard = program.heard(events)
    counts = {**heard.counts, "seconds": round(time.monotonic() - begun, 1), "exit": code}
    return heard._replace(counts=counts)


def _report(name: str, heard: list[Heard], trace: list[dict[str, Any]]) -> None:
    """What happened, in detail, on standard error."""
    for turn, one in enumerate(heard, 1):
        print(f"{name}, turn {turn}: ran {one.ran}, said {one.text[:300]!r}, {one.counts}", file=sys.stderr)
    for line in trace:
        for answer in line.get("answers", [{}]):
            calls = [(call["name"], call["arguments"][:80]) for call in answer.get("calls", [])]
            counts = {key: value for key, value in answer.items() if key.endswith(("tokens", "seconds", "reason"))}
            tools = len(line["request"].get("tools") or [])
            text = answer.get("content", line.get("error", ""))[:100]
            print(f"  {line['api']} {tools} tools: {line['outcome']} {counts} {calls} {text!r}", file=sys.stderr)


def _verdict(heard: list[Heard], trace: list[dict[str, Any]], project: Path, tiny: bool) -> str:
    bad = [f"refused: {line['error']}" for line in trace if line["outcome"] == "refused"]
    bad += [f"failed: {line['answers'][0]['failed']}" for line in trace if line["outcome"] == "failed"]
    bad += [one.text[:200] for one in heard if one.text.startswith("ERROR")]
    bad += [f"exit {one.counts['exit']}" for one in heard if one.counts["exit"] != 0]
    if not tiny:
        answer = project / "answer.txt"
        if not answer.is_file() or answer.read_text() != "milk\n":
            bad.append("turn 2 wrote no answer.txt")
        if "buy milk and bread" not in heard[0].text:
            bad.append("the file's text did not come back")
        bad += [f"{name}" for one in heard for name in one.ran if "(" in name]
    return "; ".join(bad) or "ok"


if __name__ == "__main__":
    sys.exit(main())
