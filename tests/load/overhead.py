"""What the server adds to the engine: from a request to the engine's first step, and per streamed token.

    python tests/load/overhead.py

The engine is a stub that begins at once and gives every stream a token each 20 ms, as a batch would come from a model;
each token is the time it was handed out at. Server and client are two processes of one machine, one clock.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from ds4_mlx.engine.request import Done, Piece, Progress, Request, Text, Ticket
from ds4_mlx.engine.stats import Stats

STEP = 0.02
APIS = {
    "chat": ("/v1/chat/completions", lambda text: {"messages": [{"role": "user", "content": text}]}),
    "messages": ("/v1/messages", lambda text: {"max_tokens": 9999, "messages": [{"role": "user", "content": text}]}),
    "responses": ("/v1/responses", lambda text: {"input": text, "store": False}),
}


class Clock:
    """An engine whose tokens are times in nanoseconds."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.streams: list[list] = []
        self.lock = threading.Lock()
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, request: Request, deliver: Callable[[Piece], None]) -> Ticket:
        now = time.monotonic_ns()
        deliver(Progress(0, len(request.prompt), 0))
        with self.lock:
            self.streams.append([deliver, self.tokens, len(request.prompt), now])
        return self  # type: ignore[return-value]

    def cancel(self) -> None:
        pass

    def _run(self) -> None:
        while True:
            time.sleep(STEP)
            with self.lock:
                streams = list(self.streams)
                self.streams = [stream for stream in streams if stream[1] > 0]
            for stream in streams:
                deliver, left, prompt, begun = stream
                if left == self.tokens:
                    deliver(Text("content", f"<{begun}>"))
                elif left > 0:
                    deliver(Text("content", f"<{time.monotonic_ns()}>"))
                else:
                    deliver(Done(Stats(prompt, 0, self.tokens, finish_reason="stop")))
                stream[1] -= 1


def serve(tokens: int, pipe: Connection) -> None:
    from server.running import running, tiny_model

    with running(engine=Clock(tokens), model=tiny_model(context=10**7)) as server:
        pipe.send(server.url)
        pipe.recv()


async def one(host: str, port: int, path: str, body: bytes) -> tuple[float, list[float]]:
    """(seconds to the engine, seconds of each token on its way)"""
    reader, writer = await asyncio.open_connection(host, port)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    sent = time.monotonic_ns()
    writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
    first, ways = 0.0, []
    async for line in reader:
        now = time.monotonic_ns()
        if line.startswith(b"HTTP/") and b" 200 " not in line:
            raise SystemExit(line.decode())
        if not line.startswith(b"data: ") or b"elta" not in line:
            continue
        at = line.find(b'"<')
        if at < 0:
            continue
        handed = int(line[at + 2 : line.find(b">", at)])
        if not first:
            first = (handed - sent) / 1e9
        else:
            ways.append((now - handed) / 1e9)
    writer.close()
    return first, ways


async def measure(url: str, api: str, streams: int, characters: int) -> tuple[list[float], list[float]]:
    path, shape = APIS[api]
    text = "lorem ipsum dolor sit amet " * (characters // 27 + 1)
    body = json.dumps({"model": "x", "stream": True, **shape(text[:characters])}).encode()
    host, port = url.removeprefix("http://").split(":")
    await one(host, int(port), path, body)
    firsts, ways = [], []
    for _ in range(max(1, 32 // streams)):
        for first, tokens in await asyncio.gather(*(one(host, int(port), path, body) for _ in range(streams))):
            firsts.append(first)
            ways += tokens
    return firsts, ways


def figures(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    middle, high = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"{middle * 1e3:8.2f} {high * 1e3:8.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 32])
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--characters", type=int, nargs="*", default=[400, 80_000], help="of the prompt")
    parser.add_argument("--apis", nargs="*", choices=list(APIS), default=list(APIS))
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(arguments.tokens, theirs), daemon=True)
    process.start()
    url = ours.recv()
    print("milliseconds                        request to engine      per token")
    print("api        streams  characters      median      p99      median      p99")
    for api in arguments.apis:
        for streams in arguments.streams:
            for characters in arguments.characters:
                firsts, ways = asyncio.run(measure(url, api, streams, characters))
                print(f"{api:10} {streams:7} {characters:11}    {figures(firsts)}    {figures(ways)}", flush=True)
    ours.send("stop")
    process.join(10)


if __name__ == "__main__":
    main()
