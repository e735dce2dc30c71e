"""What a message must look like before it is rendered; every complaint names the message it is about.

Unknown roles pass: the pipeline decides (spec 15.2 drops some of them), and refuses those it would have to render.
"""

from typing import Any

from ds4_mlx.text.errors import EncodingError

Message = dict[str, Any]

_NEEDS_CONTENT = ("user", "tool", "developer", "latest_reminder")


def check_messages(messages: object, label: str) -> list[Message]:
    """Return `messages` itself once every message is well formed.

    `label` is what the caller calls the list ("messages", "context"). EncodingError names the index and the field.
    """
    if not isinstance(messages, (list, tuple)):
        raise EncodingError(f"{label} must be a list of messages, not {_kind(messages)}.")
    for index, message in enumerate(messages):
        _check_message(message, f"{label}[{index}]")
    return list(messages)


def _check_message(message: object, where: str) -> None:
    if not isinstance(message, dict):
        raise EncodingError(f"{where} must be an object with a role, not {_kind(message)}.")
    role = message.get("role")
    if not isinstance(role, str):
        raise EncodingError(f"{where} has no role; give it one such as 'user' or 'system'.")
    where = f"{where} (role {role!r})"
    _check_content(message, role, where)
    _check_optional_text(message, "reasoning_content", where)
    _check_optional_text(message, "tool_call_id", where)
    _check_optional_text(message, "calls_text", where)
    _check_objects(message, "tools", where)
    _check_objects(message, "tool_calls", where)


def _check_content(message: Message, role: str, where: str) -> None:
    content = message.get("content")
    if content is None and role in _NEEDS_CONTENT:
        raise EncodingError(f"{where} has no content.")
    if content == "" and role == "developer":
        raise EncodingError(f"{where} has empty content; a developer message needs some.")
    if content is None or isinstance(content, str):
        return
    if role != "tool" or not isinstance(content, list):
        raise EncodingError(f"{where}: content must be text, not {_kind(content)}.")
    for part in content:
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise EncodingError(f"{where}: every part of its content must be an object with a type.")
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise EncodingError(f"{where}: a text part of its content has no text.")


def _check_optional_text(message: Message, field: str, where: str) -> None:
    value = message.get(field)
    if value is not None and not isinstance(value, str):
        raise EncodingError(f"{where}: {field} must be text, not {_kind(value)}.")


def _check_objects(message: Message, field: str, where: str) -> None:
    """`tools` and `tool_calls` alike are lists of objects, each with an inner `function` object."""
    value = message.get(field)
    if value is None:
        return
    if not isinstance(value, (list, tuple)):
        raise EncodingError(f"{where}: {field} must be a list, not {_kind(value)}.")
    for item in value:
        if not isinstance(item, dict) or not isinstance(item.get("function"), dict):
            raise EncodingError(f"{where}: every entry of {field} must be an object with a 'function' object.")


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a value of type {type(value).__name__}"
