"""From a list of messages to the turns a prompt is made of: merge, sort, drop old thinking (spec 15.2).

Knows nothing of how a turn is written. Never changes the caller's messages.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ds4_mlx.text.validate import Message


class Block(NamedTuple):
    """One piece of a user turn: the user's own text, or the result of a tool call."""

    text: str
    is_tool_result: bool = False
    call_id: str = ""


class Turns(NamedTuple):
    """A conversation ready to be rendered.

    messages:       context first, then the new ones; user and tool messages are merged into turns with `blocks`
    first_new:      index of the first message to render; those before it are already part of the prompt
    last_user:      index of the last user or developer message, -1 without one
    keep_thinking:  whether assistant turns before `last_user` still show their reasoning
    """

    messages: list[Message]
    first_new: int
    last_user: int
    keep_thinking: bool


def arrange(messages: list[Message], context: list[Message], *, thinking: bool, drop_thinking: bool) -> Turns:
    """Merge, sort and drop, in the reference's order.

    `context` and `messages` are merged apart, so a new user message never joins one that was already encoded; but the
    tool results among `messages` are sorted by the calls of `context`, and what is dropped depends on both.
    """
    before = _sort_tool_results(_merge(context), {})
    new = _sort_tool_results(_merge(messages), _last_call_order(context))
    # Tools in sight mean a tool loop, and there the model needs what it thought before.
    keep_thinking = not drop_thinking or any(message.get("tools") for message in before + new)
    if thinking and not keep_thinking:
        last_user = _last_user(before + new)
        new = _drop_thinking(new, last_user - len(before))
        before = _drop_thinking(before, last_user)
    both = before + new
    return Turns(both, first_new=len(before), last_user=_last_user(both), keep_thinking=keep_thinking)


def _merge(messages: Sequence[Message]) -> list[Message]:
    """Gather consecutive user and tool messages into one user turn with blocks."""
    merged: list[Message] = []
    for message in messages:
        role = message["role"]
        if role not in ("user", "tool"):
            merged.append(message)
            continue
        # A task ends its user turn for the user, but tool results still join it.
        joins = bool(merged) and merged[-1]["role"] == "user" and (role == "tool" or merged[-1].get("task") is None)
        if not joins:
            merged.append({"role": "user", "blocks": [], "task": message.get("task") if role == "user" else None})
        merged[-1]["blocks"].append(_block(message))
    return merged


def _block(message: Message) -> Block:
    if message["role"] == "user":
        return Block(message["content"])
    return Block(_tool_text(message["content"]), is_tool_result=True, call_id=message.get("tool_call_id") or "")


def _tool_text(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "\n\n".join(part["text"] if part["type"] == "text" else f"[Unsupported {part['type']}]" for part in content)


def _sort_tool_results(messages: list[Message], call_order: dict[str, int]) -> list[Message]:
    """Put each turn's tool results in the order of the latest calls before it; texts keep their slots.

    `call_order` is the order in force before the first message.
    """
    ordered = []
    for message in messages:
        if _has_calls(message):
            call_order = _call_order(message)
        ordered.append(_sort_blocks(message, call_order) if message["role"] == "user" and call_order else message)
    return ordered


def _sort_blocks(message: Message, call_order: dict[str, int]) -> Message:
    results = [block for block in message["blocks"] if block.is_tool_result]
    in_order = iter(sorted(results, key=lambda block: call_order.get(block.call_id, 0)))  # unknown ids count as 0
    return {**message, "blocks": [next(in_order) if block.is_tool_result else block for block in message["blocks"]]}


def _last_call_order(messages: list[Message]) -> dict[str, int]:
    for message in reversed(messages):
        if _has_calls(message):
            return _call_order(message)
    return {}


def _has_calls(message: Message) -> bool:
    return message["role"] == "assistant" and bool(message.get("tool_calls"))


def _call_order(message: Message) -> dict[str, int]:
    ids = [call.get("id") or call["function"].get("id") for call in message["tool_calls"]]
    return {call_id: index for index, call_id in enumerate(ids) if isinstance(call_id, str) and call_id}


def _last_user(messages: list[Message]) -> int:
    return max((i for i, message in enumerate(messages) if message["role"] in ("user", "developer")), default=-1)


def _drop_thinking(messages: list[Message], last_user: int) -> list[Message]:
    """Forget what was thought, and what developers said, before the last user message.

    `last_user` counts from the start of `messages` and may lie outside of it.
    """
    kept: list[Message] = []
    for index, message in enumerate(messages):
        role = message["role"]
        if index >= last_user or role in ("user", "system", "latest_reminder", "direct_search_results"):
            kept.append(message)
        elif role == "assistant":
            kept.append({key: value for key, value in message.items() if key != "reasoning_content"})
        # Anything else, a developer message above all, was an instruction for its own turn.
    return kept
