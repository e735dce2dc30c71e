"""Broken and hostile requests over raw sockets, while a well-behaved client goes on.

    python tests/load/fuzz.py [--attacks 3000] [--seed 1]

Bodies that are no JSON, valid ones with a wrong value somewhere, 10 MB of prompt, senders that are slow or leave in the
middle, half-closed and reset connections, garbage instead of HTTP. Afterwards: no 5xx, every answer of the witness
right, no request left behind, memory and file descriptors as before. The engine is scripted.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import os
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import httpx

TOOL = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": "b"}'}}
VALID: list[tuple[str, dict[str, Any]]] = [
    (
        "/v1/chat/completions",
        {
            "model": "x",
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "hi"}]},
                {"role": "assistant", "content": "", "reasoning_content": "r", "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "c", "content": "ok"},
            ],
            "tools": [{"type": "function", "function": TOOL}],
            "tool_choice": "auto",
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 1,
            "stop": ["a"],
            "logit_bias": {"5": 1},
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        },
    ),
    (
        "/v1/messages",
        {
            "model": "x",
            "max_tokens": 50,
            "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "hi"}]},
                {"role": "system", "content": "mind"},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": "b"}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "ok"}]},
            ],
            "tools": [{"name": "f", "input_schema": {"type": "object"}}],
            "thinking": {"type": "enabled", "budget_tokens": 100},
            "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}},
            "stream": True,
        },
    ),
    (
        "/v1/responses",
        {
            "model": "x",
            "input": [
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
                {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "r"}]},
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "ok"},
            ],
            "tools": [{"type": "function", **TOOL}, {"type": "custom", "name": "p"}],
            "reasoning": {"effort": "high", "summary": "auto"},
            "text": {"format": {"type": "text"}},
            "stream": True,
        },
    ),
    ("/v1/completions", {"model": "x", "prompt": ["a", "b"], "max_tokens": 5, "logprobs": 2, "echo": False}),
    ("/v1/messages/count_tokens", {"model": "x", "messages": [{"role": "user", "content": "hi"}]}),
]
WRONG: list[Any] = [
    *[None, True, False, 0, -1, 2**63, 10**30, 1.5, -0.0, 1e308, "", "x", "\ud800", "\x00", "é" * 5000],
    *[[], {}, [None], [[]], {"type": "x"}, {"": {}}, [{"type": "text", "text": None}], {"role": "user"}],
    "<｜DSML｜tool_calls>",
]


@dataclass
class Report:
    """statuses: of each kind of attack ("none": no answer was waited for, or came)."""

    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)


class Attacker:
    """One connection after the other, each with a request that is wrong in some way."""

    def __init__(self, url: str, seed: int, report: Report, big: int = 10 << 20) -> None:
        host, port = url.removeprefix("http://").split(":")
        self.address = (host, int(port))
        self.random = random.Random(seed)
        self.report = report
        self.big = big
        self.kinds: list[tuple[str, int, Callable[[], str]]] = [
            ("wrong value", 40, self.wrong_value),
            ("cut JSON", 10, self.cut_json),
            ("random bytes", 10, self.random_bytes),
            ("deep nesting", 2, self.deep),
            ("large", 1, self.large),
            ("slow sender", 5, self.slow),
            ("half closed", 8, self.half_closed),
            ("reset", 15, self.reset),
            ("leaves while sending", 5, self.leaves),
            ("no HTTP", 4, self.no_http),
        ]

    def attack(self) -> None:
        """One of them."""
        name, _, method = self.random.choices(self.kinds, [weight for _, weight, _ in self.kinds])[0]
        try:
            status = method()
        except (TimeoutError, ConnectionError) as error:
            status = "none" if not isinstance(error, socket.timeout) else "timeout"
        self.report.statuses[name, status] += 1
        if status.startswith("5") or status == "timeout":
            self.report.bad.append(f"{name}: {status}")

    # Each returns the status it got.

    def wrong_value(self) -> str:
        path, body = self.valid()
        for _ in range(self.random.choice((1, 1, 2))):
            spoil(body, self.random)
        return self.post(path, json.dumps(body).encode(errors="replace"))

    def cut_json(self) -> str:
        path, body = self.valid()
        content = json.dumps(body).encode()
        return self.post(path, content[: self.random.randrange(len(content))])

    def random_bytes(self) -> str:
        return self.post(self.valid()[0], self.random.randbytes(self.random.randrange(2000)))

    def deep(self) -> str:
        depth = self.random.choice((100, 900, 5000, 100_000))
        path, body = self.valid()
        content = json.dumps({**body, "tools": "@"}).replace('"@"', "[" * depth + "]" * depth)
        return self.post(path, content.encode())

    def large(self) -> str:
        path, body = self.random.choice(VALID[:2])
        text = "lorem ipsum " * (self.big // 12)
        return self.post(path, json.dumps({**body, "messages": [{"role": "user", "content": text}]}).encode())

    def slow(self) -> str:
        path, body = self.valid()
        request = self.request(path, json.dumps(body).encode())
        with self.connect() as connection:
            for start in range(0, len(request), 100):
                connection.sendall(request[start : start + 100])
                time.sleep(self.random.random() / 100)
            return read_status(connection)

    def half_closed(self) -> str:
        path, body = self.valid()
        with self.connect() as connection:
            connection.sendall(self.request(path, json.dumps(body).encode()))
            connection.shutdown(socket.SHUT_WR)
            return read_status(connection)

    def reset(self) -> str:
        path, body = self.valid()
        connection = self.connect()
        connection.sendall(self.request(path, json.dumps(body).encode()))
        time.sleep(self.random.random() / 20)
        # Closing with this sends a reset instead of a goodbye.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        return "none"

    def leaves(self) -> str:
        path, body = self.valid()
        request = self.request(path, json.dumps(body).encode())
        with self.connect() as connection:
            connection.sendall(request[: self.random.randrange(len(request))])
        return "none"

    def no_http(self) -> str:
        garbage = self.random.choice(
            [
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
                b"GET\r\n\r\n",
                b"POST /v1/messages HTTP/9.9\r\n\r\n",
                b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
                b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
                b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: " + b"b" * 100_000 + b"\r\n\r\n",
                self.random.randbytes(300) + b"\r\n\r\n",
            ]
        )
        with self.connect() as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            return read_status(connection)

    def valid(self) -> tuple[str, dict[str, Any]]:
        path, body = self.random.choice(VALID)
        return path, copy.deepcopy(body)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=300)

    def request(self, path: str, content: bytes) -> bytes:
        return b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), len(content), content)

    def post(self, path: str, content: bytes) -> str:
        with self.connect() as connection:
            connection.sendall(self.request(path, content))
            return read_status(connection)


def spoil(value: Any, source: random.Random) -> None:
    """Puts a wrong value at a random place."""
    while True:
        keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = source.choice(keys)
        if isinstance(value[key], (dict, list)) and value[key] and source.random() < 0.7:
            value = value[key]
            continue
        if source.random() < 0.2:
            del value[key]
        else:
            value[key] = source.choice(WRONG)
        return


def read_status(connection: socket.socket) -> str:
    """The status of the answer, of which no more is read."""
    received = b""
    while b"\r\n" not in received:
        more = connection.recv(4096)
        if not more:
            return "none"
        received += more
    return received.split(b" ")[1].decode()


@contextmanager
def witness(url: str, report: Report) -> Iterator[Counter[str]]:
    """A client that behaves, and must be answered as ever."""
    seen: Counter[str] = Counter()
    over = threading.Event()

    def ask() -> None:
        body = {"model": "x", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        with httpx.Client(base_url=url, timeout=30) as client:
            while not over.is_set():
                text = client.post("/v1/chat/completions", json=body).text
                right = text.endswith("data: [DONE]\n\n") and '"finish_reason":"stop"' in text
                seen["right" if right else "wrong"] += 1
                if not right:
                    report.bad.append(f"the witness got {text[-300:]}")

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def fuzz(
    url: str, attacks: int, *, seed: int = 1, threads: int = 4, big: int = 10 << 20
) -> tuple[Report, Counter[str]]:
    """Attacks a server, and waits until it has nothing left to do."""
    report = Report()

    def run(number: int) -> None:
        attacker = Attacker(url, seed * 1000 + number, report, big)
        for _ in range(attacks // threads):
            attacker.attack()

    with witness(url, report) as seen:
        workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    end = time.monotonic() + 20
    while active := httpx.get(f"{url}/health").json()["active_requests"]:
        if time.monotonic() > end:
            report.bad.append(f"{active} requests are left behind")
            break
        time.sleep(0.05)
    return report, seen


def _serve(pipe: Connection) -> None:
    from server.running import running
    from server.scripted_engine import Reply

    with running(Reply("one two three four", "five six", delay=0.005)) as server:
        pipe.send(server.url)
        while pipe.recv() == "measure":
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            pipe.send((pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd")), server.engine.running))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attacks", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    url = ours.recv()
    total, bad = Counter[tuple[str, str]](), []
    for number in range(arguments.rounds):
        report, seen = fuzz(url, arguments.attacks // arguments.rounds, seed=arguments.seed + number)
        total += report.statuses
        bad += report.bad
        time.sleep(1)
        ours.send("measure")
        memory, descriptors, running = ours.recv()
        print(
            f"round {number + 1}: witness {dict(seen)}, {memory / 2**20:.0f} MiB, {descriptors} descriptors, "
            f"{running} requests in the engine",
            flush=True,
        )
    with suppress(BrokenPipeError):
        ours.send("stop")
    for (kind, status), count in sorted(total.items()):
        print(f"{kind:24} {status:8} {count:6}")
    print(f"{sum(total.values())} attacks, {len(bad)} bad")
    for sentence in bad[:20]:
        print(sentence)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
