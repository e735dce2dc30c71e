"""An engine that answers from a script, behind the interface of the real one.

One thread for all requests, as in the real one; what a reply says comes in pieces, with delays where asked for.
"""

from __future__ import annotations

import heapq
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from ds4_mlx.engine.request import (
    CallArguments,
    CallBegin,
    CallEnd,
    Done,
    Failed,
    Piece,
    Progress,
    QueueFullError,
    Request,
    Text,
    Ticket,
)
from ds4_mlx.engine.stats import FinishReason, Stats, Token
from ds4_mlx.text import StopMatcher, Tokenizer, render_tool_calls


@dataclass(frozen=True)
class Reply:
    """What is answered.

    calls: (name, arguments as an object). prefill: seconds in each of `chunks` steps. delay: seconds before each token.
    cached: tokens of the prompt that count as cached. fail: a sentence; the answer fails after what it has said.
    """

    content: str = ""
    reasoning: str = ""
    calls: Sequence[tuple[str, dict]] = ()
    prefill: float = 0.0
    chunks: int = 1
    delay: float = 0.0
    cached: int = 0
    fail: str | None = None


HELLO = Reply("Hello.")
Script = Sequence[Reply] | Callable[[str, Request], Reply] | Reply
Timed = Iterator[tuple[float, Piece]]


@dataclass
class _Running(Ticket):
    deliver: Callable[[Piece], None]
    pieces: Timed
    cancelled: bool = False
    on_cancel: Callable[[], None] = field(default=lambda: None)

    def cancel(self) -> None:
        if not self.cancelled:
            self.cancelled = True
            self.on_cancel()


class ScriptedEngine:
    """`requests` are those that came, `cancelled` how many were cancelled before they were done."""

    def __init__(self, tokenizer: Tokenizer, script: Script = HELLO, *, max_queue: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.script = script
        self.max_queue = max_queue
        self.requests: list[Request] = []
        self.cancelled = 0
        self.running = 0
        self._due: list[tuple[float, int, _Running, Piece]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True, name="scripted-engine")
        self._thread.start()

    def submit(self, request: Request, deliver: Callable[[Piece], None]) -> Ticket:
        with self._changed:
            if self.max_queue is not None and self.running >= self.max_queue:
                raise QueueFullError(7)
            number = len(self.requests)
            self.requests.append(request)
            self.running += 1
        if callable(self.script):
            reply = self.script(self.tokenizer.decode(request.prompt), request)
        elif isinstance(self.script, Reply):
            reply = self.script
        else:
            reply = self.script[number % len(self.script)]
        ticket = _Running(deliver, self._pieces(request, reply))
        ticket.on_cancel = lambda: self._cancel(ticket)
        self._schedule(ticket, time.monotonic())
        return ticket

    def _cancel(self, ticket: _Running) -> None:
        with self._changed:
            before = len(self._due)
            self._due = [entry for entry in self._due if entry[2] is not ticket]
            heapq.heapify(self._due)
            if len(self._due) < before:
                self.cancelled += 1
                self.running -= 1

    def _schedule(self, ticket: _Running, now: float) -> None:
        delay, piece = next(ticket.pieces, (0.0, None))
        with self._changed:
            if piece is None or ticket.cancelled:
                self.running -= 1
                self.cancelled += ticket.cancelled
                return
            heapq.heappush(self._due, (now + delay, next(self._order), ticket, piece))
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due or self._due[0][0] > time.monotonic():
                    self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
                due, _, ticket, piece = heapq.heappop(self._due)
            if not ticket.cancelled:
                ticket.deliver(piece)
            self._schedule(ticket, due)

    def _pieces(self, request: Request, reply: Reply) -> Timed:
        total = len(request.prompt)
        yield 0.0, Progress(min(reply.cached, total), total, min(reply.cached, total))
        for chunk in range(1, reply.chunks + 1):
            yield reply.prefill, Progress(total * chunk // reply.chunks, total, min(reply.cached, total))
        count, finish, stop = 0, "stop", None
        limit = request.max_tokens or 10**9
        for piece in self._answer(request, reply):
            if isinstance(piece, str):
                stop = piece
                break
            count += len(piece.tokens)
            if count > limit:
                count, finish = limit, "length"
                break
            yield reply.delay * len(piece.tokens), piece
        if reply.fail is not None:
            yield 0.0, Failed(reply.fail)
            return
        if reply.calls and finish == "stop" and stop is None:
            finish = "tool_calls"
        yield 0.0, Done(self._stats(request, reply, count, finish), stop, _calls_text(reply))

    def _stats(self, request: Request, reply: Reply, count: int, finish: FinishReason) -> Stats:
        cached = min(reply.cached, len(request.prompt))
        return Stats(len(request.prompt), cached, count, prefill_seconds=0.1, decode_seconds=0.1, finish_reason=finish)

    def _answer(self, request: Request, reply: Reply) -> Iterator[Piece | str]:
        """The pieces, or the stop string that ended them."""
        if request.thinking and reply.reasoning:
            for token in self._tokens(reply.reasoning, request):
                yield Text("reasoning", token.data.decode("utf-8", "replace"), (token,))
        stops = StopMatcher(request.stop)
        pending: tuple[Token, ...] = ()
        for token in self._tokens(reply.content, request):
            pending += (token,)
            text, stopped = stops.feed(token.data.decode("utf-8", "replace"))
            if text:
                yield Text("content", text, pending)
                pending = ()
            if stopped:
                yield next(stop for stop in request.stop if stop in reply.content)
                return
        if rest := stops.finish():
            yield Text("content", rest, pending)
        for index, (name, arguments) in enumerate(reply.calls):
            yield CallBegin(index, name)
            for token in self._tokens(json.dumps(arguments, ensure_ascii=False), request):
                yield CallArguments(index, token.data.decode("utf-8", "replace"), (token,))
            yield CallEnd(index)

    def _tokens(self, text: str, request: Request) -> Iterator[Token]:
        """ASCII texts only: a piece of ours is a token."""
        for token_id in self.tokenizer.encode(text):
            token = Token(token_id, self.tokenizer.token_bytes(token_id))
            if request.top_logprobs is not None:
                top = tuple((token_id + i, -0.5 - i) for i in range(request.top_logprobs))
                token = replace(token, logprob=-0.5, top=top)
            yield token


def _calls_text(reply: Reply) -> str:
    calls = [{"function": {"name": name, "arguments": json.dumps(arguments)}} for name, arguments in reply.calls]
    return render_tool_calls(calls)
