"""Many clients at once on a real server with ds4-tiny: all APIs, short and long prompts, streams, tools, cancels.

    python tests/load/mixed.py [--clients 64] [--requests 500] [--cancels 0.25]

Every answer must be complete and well-formed, or properly refused (a 429, which is tried again); none may be a 5xx.
What was asked for greedily must be answered as it is to a client alone. Prints what came, and the server's memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

NUMBERS = [(12, 30), (7, 8), (25, 16), (40, 2), (9, 9), (31, 13)]
PARAMETERS = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
}
PADDING = "The quick brown fox jumps over the lazy dog. " * 20


class WrongError(Exception):
    """An answer is not what it must be."""


def check(holds: bool, what: str) -> None:
    if not holds:
        raise WrongError(what)


def ask(source: random.Random) -> tuple[str, dict[str, Any], str | None]:
    """(path, body, the key of a greedy question that always has the same answer)"""
    a, b = source.choice(NUMBERS)
    question = f"What is {a} + {b}?"
    pages = source.choice((0, 0, 0, 1, 3))
    stream, tools, greedy = source.random() < 0.6, source.random() < 0.3, source.random() < 0.5
    api = source.choice(("chat", "messages", "responses", "completions"))
    body: dict[str, Any] = {"model": "ds4", "stream": stream, "temperature": 0 if greedy else 1}
    system = PADDING * pages
    limit = source.choice((4, 16, 40))
    path = "/v1/completions"
    if api == "chat":
        path = "/v1/chat/completions"
        messages = ([{"role": "system", "content": system}] if system else []) + [{"role": "user", "content": question}]
        body |= {"messages": messages, "max_tokens": limit, "reasoning_effort": "none"}
        if stream:
            body["stream_options"] = {"include_usage": True}
        if tools:
            body["tools"] = [{"type": "function", "function": {"name": "add", "parameters": PARAMETERS}}]
            body |= {"tool_choice": "required", "max_tokens": 120}
    elif api == "messages":
        path = "/v1/messages"
        body |= {"messages": [{"role": "user", "content": question}], "max_tokens": limit, "system": system}
        if tools:
            body["tools"] = [{"name": "add", "input_schema": PARAMETERS}]
            body |= {"tool_choice": {"type": "any"}, "max_tokens": 120}
    elif api == "responses":
        path = "/v1/responses"
        body |= {"input": question, "instructions": system, "max_output_tokens": limit, "reasoning": {"effort": "none"}}
        if tools:
            body["tools"] = [{"type": "function", "name": "add", "parameters": PARAMETERS}]
            body |= {"tool_choice": "required", "max_output_tokens": 120}
    else:
        body |= {"prompt": system + question, "max_tokens": limit}
    key = None
    if greedy:
        key = json.dumps({**body, "path": path, "stream": None, "stream_options": None}, sort_keys=True)
    return path, body, key


def read_object(path: str, answer: dict[str, Any]) -> tuple[str, str]:
    """(text, arguments of the first call) of an answer in one piece."""
    if path == "/v1/messages":
        check(answer["stop_reason"] in ("end_turn", "tool_use", "max_tokens"), "stop_reason")
        texts = [block["text"] for block in answer["content"] if block["type"] == "text"]
        calls = [json.dumps(block["input"]) for block in answer["content"] if block["type"] == "tool_use"]
        return "".join(texts), (calls or [""])[0]
    if path == "/v1/responses":
        check(answer["status"] in ("completed", "incomplete"), "status")
        parts = [part["text"] for item in answer["output"] for part in item.get("content", [])]
        calls = [item["arguments"] for item in answer["output"] if item["type"] == "function_call"]
        return "".join(parts), (calls or [""])[0]
    choice = answer["choices"][0]
    check(choice["finish_reason"] in ("stop", "length", "tool_calls"), "finish_reason")
    if path == "/v1/completions":
        return choice["text"], ""
    calls = [call["function"]["arguments"] for call in choice["message"].get("tool_calls", [])]
    return choice["message"]["content"] or "", (calls or [""])[0]


def read_stream(path: str, text: str) -> tuple[str, str]:
    """The same of a stream, whose form is checked: order, indices, ends."""
    data = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
    if path == "/v1/messages":
        return _read_messages([json.loads(line) for line in data])
    if path == "/v1/responses":
        return _read_responses([json.loads(line) for line in data])
    check(data[-1] == "[DONE]", "the stream does not end in [DONE]")
    chunks = [json.loads(line) for line in data[:-1]]
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    check([bool(choice["finish_reason"]) for choice in choices].count(True) == 1, "one finish_reason")
    check(choices[-1]["finish_reason"] is not None, "finish_reason comes last")
    if path == "/v1/completions":
        return "".join(choice["text"] for choice in choices), ""
    check(chunks[-1]["usage"]["completion_tokens"] > 0, "usage comes at the end")
    deltas = [choice["delta"] for choice in choices]
    check(deltas[0].get("role") == "assistant", "the role comes first")
    calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    arguments = "".join(call["function"].get("arguments", "") for call in calls if call["index"] == 0)
    return "".join(delta.get("content") or "" for delta in deltas), arguments


def _read_messages(events: list[dict[str, Any]]) -> tuple[str, str]:
    kinds = [event["type"] for event in events if event["type"] != "ping"]
    check(kinds[0] == "message_start", "message_start comes first")
    check(kinds[-2:] == ["message_delta", "message_stop"], "message_delta and message_stop come last")
    opened, texts, arguments = -1, [], ""
    is_open = False
    for event in events:
        if event["type"] == "content_block_start":
            check(not is_open and event["index"] == opened + 1, "blocks come one after the other")
            opened, is_open = event["index"], True
        elif event["type"] == "content_block_delta":
            check(is_open and event["index"] == opened, "a delta belongs to the open block")
            texts.append(event["delta"].get("text", ""))
            arguments += event["delta"].get("partial_json", "")
        elif event["type"] == "content_block_stop":
            check(is_open and event["index"] == opened, "a block is closed once")
            is_open = False
    check(not is_open, "all blocks are closed")
    return "".join(texts), arguments


def _read_responses(events: list[dict[str, Any]]) -> tuple[str, str]:
    check([event["sequence_number"] for event in events] == list(range(len(events))), "sequence_number rises")
    last = events[-1]
    check(last["type"] in ("response.completed", "response.incomplete"), f"ends in {last['type']}")
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    whole = [item for item in last["response"]["output"] if item.get("status") != "incomplete"]
    check(done == whole, "every item is done, as in the response")
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    check(text == read_object("/v1/responses", last["response"])[0], "deltas are the text")
    return read_object("/v1/responses", last["response"])


async def one(
    client: httpx.AsyncClient, source: random.Random, cancels: float, seen: Counter[str], known: dict
) -> None:
    """One request, tried again while the queue is full."""
    path, body, key = ask(source)
    patience = source.uniform(0.05, 3) if source.random() < cancels else None
    while True:
        try:
            response = await asyncio.wait_for(client.post(path, json=body), patience)
        except asyncio.TimeoutError:
            seen["cancelled"] += 1
            return
        if response.status_code != 429:
            break
        seen["429"] += 1
        await asyncio.sleep(float(response.headers["retry-after"]) / 4)
    if response.status_code != 200:
        raise WrongError(f"{response.status_code} {response.text[:300]}")
    read = read_stream(path, response.text) if body["stream"] else read_object(path, response.json())
    if "tools" in body:
        check(set(json.loads(read[1])) == {"a", "b"}, f"a call is whole: {read[1]!r}")
    if key is not None:
        check(known.setdefault(key, read) == read, f"answered {read}, before {known[key]}")
        seen["greedy"] += 1
    seen[f"{path} {'stream' if body['stream'] else 'object'}"] += 1


async def drive(
    url: str, *, clients: int, requests: int, cancels: float, seed: int, alone: int
) -> tuple[Counter[str], list[str]]:
    """(what was seen, what was wrong). alone: so many questions are asked by one client first."""
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    known: dict[str, tuple[str, str]] = {}
    limits = httpx.Limits(max_connections=clients + 1)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        for number in range(alone):
            await one(client, random.Random(seed * 10_000 + number), 0, seen, known)

        async def work(first: int) -> None:
            for number in range(first, requests, clients):
                try:
                    # The questions of those alone come again and again.
                    chosen = number % (2 * alone)
                    source = random.Random(seed * 10_000 + chosen)
                    await one(client, source, 0 if chosen < alone else cancels, seen, known)
                except (WrongError, httpx.HTTPError, KeyError, ValueError) as error:
                    wrong.append(f"{type(error).__name__}: {error}")

        await asyncio.gather(*(work(first) for first in range(clients)))
    return seen, wrong


@contextmanager
def serving(*flags: str) -> Iterator[tuple[str, int]]:
    """(url, process id) of `ds4-mlx serve` with ds4-tiny and a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ds4_mlx.cli", "serve", "--port", "0", "--kv-dir", folder, *flags]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        url = ""
        for line in process.stderr:
            if found := re.search(r"on (http://\S+)", line):
                url = found[1]
                break
        try:
            while True:
                with suppress(httpx.ConnectError):
                    httpx.get(f"{url}/health", timeout=60).raise_for_status()
                    break
                time.sleep(0.1)
            yield url, process.pid
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 0
        finally:
            process.kill()
            process.stderr.close()


def memory(pid: int) -> float:
    """MiB that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--cancels", type=float, default=0.25)
    parser.add_argument("--alone", type=int, default=20, help="questions asked by one client first")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    total: Counter[str] = Counter()
    bad: list[str] = []
    with serving("--log-level", "error", "--max-queue", "48") as (url, pid):
        for number in range(arguments.rounds):
            begun = time.monotonic()
            count = arguments.requests // arguments.rounds
            seen, wrong = asyncio.run(
                drive(
                    url,
                    clients=arguments.clients,
                    requests=count,
                    cancels=arguments.cancels,
                    seed=arguments.seed + number,
                    alone=arguments.alone,
                )
            )
            total, bad = total + seen, bad + wrong
            health = httpx.get(f"{url}/health").json()
            print(
                f"round {number + 1}: {time.monotonic() - begun:.0f} s, {memory(pid):.0f} MiB, "
                f"{health['active_requests']} active, {len(wrong)} wrong",
                flush=True,
            )
    for name, count in sorted(total.items()):
        print(f"{name:36} {count:6}")
    print(*bad[:20], sep="\n")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
