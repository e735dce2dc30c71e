"""What every family shares: an example, its rendered text, and the split between training and held-out chats."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ds4_mlx.text import encode_messages
from ds4_mlx.text.special import ASSISTANT, THINK, THINK_END

Message = dict[str, Any]


class Example(NamedTuple):
    """One chat; its last message is the assistant's answer that is graded."""

    family: str
    messages: list[Message]
    thinking: bool


class Context(NamedTuple):
    """What the generator is lent: plain prose for long prompts, and a way to count tokens."""

    filler: Sequence[str]
    count: Callable[[str], int]


class Turn(NamedTuple):
    """A question and its answer.

    key:      what the split between training and held-out looks at: the operands, the word, the arguments
    thought:  the reasoning of thinking mode
    short:    the bare answer (a number, a word), for system prompts that ask for nothing else; may be ""
    """

    key: str
    question: str
    answer: str
    thought: str
    short: str = ""


def bucket(key: str) -> int:
    """A number from 0 to 99 that depends on nothing but the key, on any machine."""
    return zlib.crc32(key.encode()) % 100


def is_held_out(key: str, percent: int = 5) -> bool:
    """Whether what the key names is kept from training."""
    return bucket(key) < percent


def draw(make_turn: Callable[[random.Random], Turn], rng: random.Random, held_out: bool) -> Turn:
    """The first turn on the wanted side of the split."""
    while True:
        turn = make_turn(rng)
        if is_held_out(turn.key) == held_out:
            return turn


def chat(family: str, turns: Sequence[Turn], thinking: bool, system: str = "") -> Example:
    """Turns as a conversation."""
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        messages.append({"role": "user", "content": turn.question})
        messages.append(assistant(turn.answer, turn.thought, thinking))
    return Example(family, messages, thinking)


def assistant(answer: str, thought: str, thinking: bool) -> Message:
    """An assistant message; its reasoning is kept in thinking mode only."""
    if thinking:
        return {"role": "assistant", "content": answer, "reasoning_content": thought}
    return {"role": "assistant", "content": answer}


def how_many_turns(rng: random.Random, single: float = 0.6, most: int = 5) -> int:
    """One turn with probability `single`, else 2 to `most`."""
    return 1 if rng.random() < single else rng.randint(2, most)


def render(example: Example) -> str:
    """The whole chat as text, from BOS to the last EOS."""
    return encode_messages(example.messages, thinking_mode="thinking" if example.thinking else "chat")


def prompt(example: Example) -> tuple[str, str]:
    """The rendered chat, cut behind the opening of the last answer."""
    text = render(example)
    opener = ASSISTANT + (THINK if example.thinking else THINK_END)
    cut = text.rindex(opener) + len(opener)
    return text[:cut], text[cut:]
