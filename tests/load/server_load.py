"""A server under load: all APIs, short and long prompts, streams and not, cancels at random moments; then SIGTERM.

    PYTHONPATH=tests python -m load.server_load [REQUESTS] [--clients 64]

Starts `ds4-mlx serve` with ds4-tiny as a process of its own and prints a table: what became of the requests, whether
each answer was complete and well-formed and greedy ones those of a lone request, memory over time, what 8 streams
together give against one, and whether a server that is told to stop under load loses a session.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from load.server_process import ServerProcess, serving
from load.server_requests import INTRODUCTION, PATHS, QUESTIONS, Answer, Ask, check_answer, random_ask, read_answer
from server.running import tiny_tokenizer

EOS = 1  # of ds4-tiny; forbidden where answers are to have a length
_LONG = httpx.Timeout(300)


@dataclass
class Outcome:
    """counts: requests by what became of them. statuses: HTTP statuses, refusals included."""

    counts: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    generated: int = 0
    prompt: int = 0
    cached: int = 0
    left: dict[str, Any] = field(default_factory=dict)  # GET /health when all is over
    seconds: float = 0.0


async def send(client: httpx.AsyncClient, ask: Ask, outcome: Outcome) -> Answer | None:
    """Sends a request until it is not refused. None if what came is not an answer."""
    while True:
        async with client.stream("POST", PATHS[ask.api], json=ask.body()) as response:
            outcome.statuses[response.status_code] += 1
            text = (await response.aread()).decode()
        if response.status_code in (429, 529):
            after = int(response.headers["retry-after"])
            assert 1 <= after <= 60, after
            outcome.counts["refused, came again"] += 1
            await asyncio.sleep(min(after, 1) * random.random())
            continue
        if response.status_code != 200:
            outcome.wrong.append(f"{response.status_code}: {text[:200]}")
            return None
        answer = read_answer(ask, response, text)
        outcome.generated += answer.generated
        outcome.prompt += answer.prompt
        outcome.cached += answer.cached
        return answer


async def ask_alone(client: httpx.AsyncClient, questions: Sequence[str]) -> dict[tuple[str, str], str]:
    """The greedy answer to each question, with nobody else there."""
    full, nobody = {}, Outcome()
    for system in ("", INTRODUCTION):
        for question in questions:
            answer = await send(client, Ask("chat", question, system), nobody)
            assert answer is not None, nobody.wrong
            full[system, question] = answer.text
    return full


async def storm(
    server: ServerProcess, requests: int, clients: int, seed: int, questions: Sequence[str] = QUESTIONS
) -> Outcome:
    """`clients` clients send `requests` requests in all, and break off every fifth."""
    outcome, todo = Outcome(), iter(range(requests))

    async def work(full: dict[tuple[str, str], str]) -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=_LONG) as client:
            for number in todo:
                rng = random.Random(seed * 100_003 + number)
                ask = random_ask(rng, questions)
                sending = asyncio.ensure_future(send(client, ask, outcome))
                if rng.random() < 0.2:
                    await asyncio.wait({sending}, timeout=rng.random() * 4)
                    if sending.cancel():
                        outcome.counts["broken off"] += 1
                        await asyncio.wait({sending})
                        continue
                try:
                    answer = await sending
                except Exception as error:
                    outcome.wrong.append(f"{number} {ask.api} stream={ask.stream}: {error!r}")
                    continue
                if answer is not None:
                    outcome.counts[f"answered, {ask.api}"] += 1
                    outcome.wrong += [f"{number} {ask}: {text}" for text in check_answer(ask, answer, full)]

    async with httpx.AsyncClient(base_url=server.url, timeout=_LONG) as client:
        full = await ask_alone(client, questions)
        begin = time.monotonic()
        await asyncio.gather(*[work(full) for _ in range(clients)])
        outcome.seconds = time.monotonic() - begin
        for _ in range(100):
            outcome.left = (await client.get("/health")).json()
            if not any(outcome.left[key] for key in ("active_requests", "queued", "prefilling", "decoding")):
                break
            await asyncio.sleep(0.1)
        else:
            outcome.wrong.append(f"still at work: {outcome.left}")
    outcome.wrong += [f"status {status}" for status in outcome.statuses if status >= 500 and status != 529]
    return outcome


async def throughput(server: ServerProcess, streams: int, tokens: int = 48) -> float:
    """Tokens a second of that many streams at once, counted while all of them decode."""
    begun, ended = [], []

    async def one(client: httpx.AsyncClient, number: int) -> None:
        body = {**Ask("chat", f"Count to {number}.", stream=True, max_tokens=tokens).body(), "logit_bias": {EOS: -100}}
        async with client.stream("POST", PATHS["chat"], json=body) as response:
            times = [time.monotonic() async for line in response.aiter_lines() if '"content":"' in line]
        begun.append(times[1])  # behind the role
        ended.append(times[-1])

    async with httpx.AsyncClient(base_url=server.url, timeout=_LONG) as client:
        await asyncio.gather(*[one(client, number) for number in range(streams)])
    return streams * (tokens - 1) / (max(ended) - min(begun))


@dataclass
class Stopped:
    """What SIGTERM under load did."""

    answered: int = 0  # conversations whose answer was complete
    cut: int = 0  # answers that were cut off; their clients heard so
    gone: int = 0  # clients that found nobody any more
    lost: list[str] = field(default_factory=list)
    otherwise: int = 0  # answers sampled in other tokens than their text is read in: nothing behind the prompt matches
    uncached: list[str] = field(default_factory=list)
    exit_code: int = 0
    seconds: float = 0.0


async def stop_under_load(server: ServerProcess, kv_dir: Path, clients: int, *flags: str) -> Stopped:
    """Tells a server to stop while clients talk to it, starts another, and goes on with every answered conversation."""
    result = Stopped()
    talks: list[tuple[list[dict[str, str]], Answer]] = []

    async def work(number: int) -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=_LONG) as client:
            for turn in range(10_000):
                first = f"{number}-{turn}. {INTRODUCTION[: 40 + 97 * (number + turn) % 900]} {QUESTIONS[number % 6]}"
                ask = Ask("chat", first, stream=bool(turn % 2), max_tokens=4 + number % 12, logprobs=True)
                try:
                    answer = await send(client, ask, Outcome())
                except httpx.ConnectError:
                    result.gone += 1
                    return
                except (httpx.TransportError, ValueError, LookupError, TypeError, AssertionError):
                    result.cut += 1  # an error event, or a connection that was closed
                    return
                if answer is None:
                    result.cut += 1
                    return
                messages = [{"role": "user", "content": first}, {"role": "assistant", "content": answer.text}]
                talks.append((messages, answer))
                result.answered += 1

    working = [asyncio.ensure_future(work(number)) for number in range(clients)]
    while result.answered < 2 * clients:
        await asyncio.sleep(0.05)
    begin = time.monotonic()
    server.terminate()
    await asyncio.gather(*working)
    result.exit_code = await asyncio.to_thread(server.wait, 120)
    result.seconds = time.monotonic() - begin
    again = await asyncio.to_thread(ServerProcess(kv_dir, *flags).ready)
    try:
        async with httpx.AsyncClient(base_url=again.url, timeout=_LONG) as client:
            await _go_on(client, talks, result)
    finally:
        again.terminate()
        await asyncio.to_thread(again.wait, 120)
    return result


async def _go_on(client: httpx.AsyncClient, talks: list[Any], result: Stopped) -> None:
    held = (await client.get("/sessions", params={"limit": 1000})).json()["data"]
    kept = []
    for one in held:
        session = (await client.get(f"/sessions/{one['id']}")).json()
        kept.append([(message["role"], message["content"]) for message in session["messages"]])
    tokenizer = tiny_tokenizer()
    for messages, answer in talks:
        if [(message["role"], message["content"]) for message in messages] not in kept:
            result.lost.append(messages[0]["content"][:40])
            continue
        if [tokenizer.token_bytes(id_) for id_ in tokenizer.encode(answer.text)] != answer.tokens:
            result.otherwise += 1
            continue
        body = {"model": "deepseek-chat", "messages": [*messages, {"role": "user", "content": "And?"}], "max_tokens": 1}
        cached = (await client.post(PATHS["chat"], json=body)).json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        computed = answer.prompt + answer.generated - 1
        if cached < computed:
            result.uncached.append(f"{cached} of {computed}: {messages}"[:200])


def memory(server: ServerProcess, begin: float) -> list[float]:
    """MB in RAM: the mean of each quarter of the time since `begin` seconds."""
    held = [nbytes / 1e6 for at, nbytes in server.rss if at >= begin]
    quarter = max(1, len(held) // 4)
    return [sum(part) / len(part) for i in range(4) if (part := held[i * quarter : (i + 1) * quarter])]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("requests", type=int, nargs="?", default=500)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--max-queue", type=int, default=40)
    args = parser.parse_args()
    flags = ("--max-queue", str(args.max_queue), "--ctx", "4096", "--kv-memory", "24M")
    with tempfile.TemporaryDirectory() as directory:
        with serving(Path(directory) / "storm", *flags) as server:
            one, eight = (asyncio.run(throughput(server, n)) for n in (1, 8))
            print(f"1 stream {one:.1f} tokens/s, 8 streams {eight:.1f} tokens/s: {eight / one:.2f} times")
            begin = server.rss[-1][0]
            outcome = asyncio.run(storm(server, args.requests, args.clients, seed=1))
            print(f"{args.requests} requests, {args.clients} clients, {outcome.seconds:.0f} s: {dict(outcome.counts)}")
            print(f"statuses: {dict(outcome.statuses)}")
            print(f"wrong: {len(outcome.wrong)}", *outcome.wrong[:8], sep="\n  ")
            print(f"{outcome.generated} tokens generated, {outcome.cached} of {outcome.prompt} prompt tokens cached")
            print("RSS, MB, mean of each quarter:", " ".join(f"{mb:.0f}" for mb in memory(server, begin)))
            print(f"afterwards: {outcome.left}")
        log = [line for line in server.lines if "Error" in line or "Traceback" in line or "WARNING" in line]
        print(f"warnings in the log: {len(log)}", *log[:5], sep="\n  ")
        with serving(Path(directory) / "stop", *flags) as server:
            stopped = asyncio.run(stop_under_load(server, Path(directory) / "stop", 16, *flags))
        print(
            f"SIGTERM under load: exit code {stopped.exit_code} after {stopped.seconds:.1f} s; {stopped.answered} "
            f"conversations answered, {stopped.cut} cut off, {len(stopped.lost)} lost, "
            f"{len(stopped.uncached)} computed again, {stopped.otherwise} in other tokens than their text is read in"
        )
        for line in [*stopped.lost[:5], *stopped.uncached[:5]]:
            print(f"  {line}")


if __name__ == "__main__":
    main()
