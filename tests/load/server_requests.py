"""A request in the words of each API, and what must be true of its answer."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from ds4_mlx.text import encode_messages

from server.events import parse

PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}
QUESTIONS = (
    "What is 12 + 30?",
    "What is 91 - 17?",
    "Who are you?",
    "Hello",
    "Tell me a joke.",
    "What is the capital of France?",
)
INTRODUCTION = "These are the rules of the house, which nobody has to read. " * 25  # what long prompts begin with


@dataclass(frozen=True)
class Ask:
    """One request. system: what the conversation begins with, "" for nothing."""

    api: str
    question: str
    system: str = ""
    stream: bool = False
    max_tokens: int = 16
    temperature: float = 0.0
    seed: int | None = None
    logprobs: bool = False  # of a chat only: the answer then knows its tokens

    def body(self) -> dict[str, Any]:
        """The JSON to be sent. No API reasons before the answer, so that greedy answers of all are the same."""
        body: dict[str, Any] = {"model": "load", "temperature": self.temperature, "stream": self.stream}
        messages = [{"role": "user", "content": self.question}]
        system = [{"role": "system", "content": self.system}] if self.system else []
        if self.seed is not None and self.api != "messages":
            body["seed"] = self.seed
        if self.api == "responses":
            return {
                **body,
                "input": [*system, *messages],
                "reasoning": {"effort": "none"},
                "max_output_tokens": self.max_tokens,
            }
        body["max_tokens"] = self.max_tokens
        if self.api == "messages":
            return {**body, "messages": messages, **({"system": self.system} if self.system else {})}
        if self.stream:
            body["stream_options"] = {"include_usage": True}
        if self.api == "completions":
            return {**body, "prompt": encode_messages([*system, *messages], thinking_mode="chat", profile="0731")}
        if self.logprobs:
            body["logprobs"] = True
        return {**body, "messages": [*system, *messages], "thinking": {"type": "disabled"}}


def random_ask(rng: random.Random, questions: Sequence[str]) -> Ask:
    """One of the mixture: every API, short and long prompts, streaming or not, greedy or not."""
    return Ask(
        api=rng.choice(list(PATHS)),
        question=rng.choice(questions),
        system=INTRODUCTION if rng.random() < 0.3 else "",
        stream=rng.random() < 0.6,
        max_tokens=rng.randrange(1, 17),
        temperature=rng.choice([0.0, 0.0, 1.0]),
        seed=rng.randrange(1000),
    )


@dataclass
class Answer:
    """text: what was answered. generated, cached: tokens. limited: whether it ended at max_tokens."""

    text: str
    generated: int
    prompt: int
    cached: int
    limited: bool
    tokens: list[bytes] = field(default_factory=list)  # those of the text, if logprobs were asked for


def check_answer(ask: Ask, answer: Answer, full: dict[tuple[str, str], str]) -> list[str]:
    """What is wrong with a complete answer. full: the greedy answer to each (system, question), asked alone."""
    wrong = []
    if not 1 <= answer.generated <= ask.max_tokens or not 0 <= answer.cached < answer.prompt:
        wrong.append(f"impossible counts: {answer}")
    if answer.limited and answer.generated != ask.max_tokens:
        wrong.append(f"ended at a limit of {ask.max_tokens} after {answer.generated} tokens")
    alone = full[ask.system, ask.question]
    if ask.temperature == 0 and not (alone.startswith(answer.text) if answer.limited else alone == answer.text):
        wrong.append(f"{answer.text!r} instead of {alone!r}")
    return wrong


def read_answer(ask: Ask, response: httpx.Response, text: str) -> Answer:
    """The answer in a complete response. Raises AssertionError, KeyError or the like where it is not well-formed."""
    kind = response.headers["content-type"].partition(";")[0]
    assert kind == ("text/event-stream" if ask.stream else "application/json"), kind
    if not ask.stream:
        return _OBJECTS[ask.api](json.loads(text))
    assert text.endswith("\n\n"), "the stream ends within an event"
    return _STREAMS[ask.api](parse(text.split("\n")))


def _openai(usage: dict[str, Any], text: str, finish: str) -> Answer:
    assert finish in ("stop", "length"), finish
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return Answer(text, usage["completion_tokens"], usage["prompt_tokens"], cached, finish == "length")


def _chat_object(answer: dict[str, Any]) -> Answer:
    (choice,) = answer["choices"]
    assert answer["object"] == "chat.completion"
    assert choice["message"]["role"] == "assistant"
    assert "reasoning_content" not in choice["message"]
    return _with_tokens([choice], _openai(answer["usage"], choice["message"]["content"], choice["finish_reason"]))


def _with_tokens(choices: list[dict[str, Any]], answer: Answer) -> Answer:
    logprobs = [one for choice in choices for one in (choice["logprobs"] or {}).get("content") or ()]
    return replace(answer, tokens=[bytes(one["bytes"]) for one in logprobs])


def _chat_stream(events: list[Any]) -> Answer:
    *chunks, usage, end = events
    assert end == "[DONE]"
    assert not usage["choices"]
    assert len({chunk["id"] for chunk in [*chunks, usage]}) == 1
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert choices[0]["delta"]["role"] == "assistant"
    assert [bool(choice["finish_reason"]) for choice in choices].index(True) == len(choices) - 1
    text = "".join(choice["delta"].get("content", "") for choice in choices)
    return _with_tokens(choices, _openai(usage["usage"], text, choices[-1]["finish_reason"]))


def _completions_object(answer: dict[str, Any]) -> Answer:
    (choice,) = answer["choices"]
    assert answer["object"] == "text_completion"
    return _openai(answer["usage"], choice["text"], choice["finish_reason"])


def _completions_stream(events: list[Any]) -> Answer:
    *chunks, usage, end = events
    assert end == "[DONE]"
    assert not usage["choices"]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert [bool(choice["finish_reason"]) for choice in choices].index(True) == len(choices) - 1
    return _openai(usage["usage"], "".join(choice["text"] for choice in choices), choices[-1]["finish_reason"])


def _responses_object(answer: dict[str, Any]) -> Answer:
    assert answer["object"] == "response"
    limited = answer["status"] == "incomplete"
    assert limited or answer["status"] == "completed", answer["status"]
    assert (answer["incomplete_details"] or {}).get("reason") == ("max_output_tokens" if limited else None)
    text = "".join(part["text"] for item in answer["output"] for part in item["content"])
    usage = answer["usage"]
    cached = usage["input_tokens_details"]["cached_tokens"]
    return Answer(text, usage["output_tokens"], usage["input_tokens"], cached, limited)


def _responses_stream(events: list[Any]) -> Answer:
    kinds = [event["type"] for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] in ("response.completed", "response.incomplete")
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done")
    answer = _responses_object(events[-1]["response"])
    deltas = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert deltas == answer.text, (deltas, answer.text)
    return answer


def _anthropic(usage: dict[str, Any], text: str, reason: str) -> Answer:
    assert reason in ("end_turn", "max_tokens"), reason
    cached = usage["cache_read_input_tokens"]
    prompt = usage["input_tokens"] + cached + usage["cache_creation_input_tokens"]
    return Answer(text, usage["output_tokens"], prompt, cached, reason == "max_tokens")


def _messages_object(answer: dict[str, Any]) -> Answer:
    assert (answer["type"], answer["role"]) == ("message", "assistant")
    assert all(block["type"] == "text" for block in answer["content"])
    return _anthropic(answer["usage"], "".join(block["text"] for block in answer["content"]), answer["stop_reason"])


def _messages_stream(events: list[Any]) -> Answer:
    events = [event for event in events if event["type"] != "ping"]
    kinds = [event["type"] for event in events]
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"]), kinds
    open_block, text = None, ""
    for event in events[1:-2]:
        if event["type"] == "content_block_start":
            assert open_block is None
            open_block = event["index"]
        else:
            assert event["index"] == open_block
            if event["type"] == "content_block_stop":
                open_block = None
            else:
                text += event["delta"]["text"]
    assert open_block is None
    return _anthropic(events[-2]["usage"], text, events[-2]["delta"]["stop_reason"])


_OBJECTS = {
    "chat": _chat_object,
    "completions": _completions_object,
    "responses": _responses_object,
    "messages": _messages_object,
}
_STREAMS = {
    "chat": _chat_stream,
    "completions": _completions_stream,
    "responses": _responses_stream,
    "messages": _messages_stream,
}
