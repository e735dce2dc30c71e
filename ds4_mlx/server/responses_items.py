"""Input items of /v1/responses -> a conversation in the encoder's form.

Each part of an assistant's turn is an item of its own there (reasoning, message, calls); `prompt.arrange` joins them.
"""

from __future__ import annotations

import base64
import binascii

from ds4_mlx.server.errors import invalid, unsupported
from ds4_mlx.server.prompt import Message, assistant_message, tool_call
from ds4_mlx.server.responses_tools import Tools, custom_arguments
from ds4_mlx.server.schema import Json, text_of

_TEXT = ("input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text")
_MARK = "ds4-mlx:"
# What OpenAI's servers did, or notes of Codex to itself; nothing of it is text for the model.
_IGNORED = (
    "web_search_call",
    "file_search_call",
    "code_interpreter_call",
    "image_generation_call",
    "tool_search_call",
    "tool_search_output",
    "ghost_snapshot",
    "mcp_list_tools",
    "compaction",
)


def conversation(items: str | list[Json], instructions: str | None, tools: Tools) -> list[Message]:
    """The items as messages. Raises a 400 that names the item."""
    messages: list[Message] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    if isinstance(items, str):
        return [*messages, {"role": "user", "content": items}]
    for index, item in enumerate(items):
        message = _message(item, f"input[{index}]", tools)
        if message is not None:
            messages.append(message)
    return messages


def _message(item: Json, where: str, tools: Tools) -> Message | None:
    kind = item.get("type", "message")
    if kind == "message":
        return _said(item, where)
    if kind == "reasoning":
        return assistant_message("", reasoning_of(item), [])
    if kind in ("function_call", "custom_tool_call"):
        return _call(item, where, tools)
    if kind in ("function_call_output", "custom_tool_call_output"):
        text = text_of(item.get("output"), f"{where}.output", kinds=_TEXT, pictures=True)
        return {"role": "tool", "tool_call_id": _text(item, "call_id", where), "content": text}
    if kind in _IGNORED:
        return None
    if kind == "item_reference":
        raise unsupported(
            f"{where}.type", "items are not stored by themselves; send the item, or previous_response_id."
        )
    raise invalid(f"{where} is of type {str(kind)[:40]!r}, which this server does not know.", f"{where}.type")


def _said(item: Json, where: str) -> Message:
    role = item.get("role")
    if role not in ("user", "assistant", "system", "developer"):
        roles = "user, assistant, system or developer"
        raise invalid(f"{where} has the role {str(role)[:40]!r}; expected {roles}.", f"{where}.role")
    return {"role": role, "content": text_of(item.get("content"), f"{where}.content", kinds=_TEXT)}


def _call(item: Json, where: str, tools: Tools) -> Message:
    name = tools.name_of(_text(item, "name", where), item.get("namespace"))
    if item["type"] == "custom_tool_call":
        arguments = custom_arguments(_text(item, "input", where))
    else:
        arguments = _text(item, "arguments", where)
    return assistant_message("", "", [tool_call(_text(item, "call_id", where), name, arguments)])


def _text(item: Json, key: str, where: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise invalid(f"{where} needs {key}, as text.", f"{where}.{key}")
    return value


def reasoning_of(item: Json) -> str:
    """The reasoning in an item that came back. All three places hold the whole of it; clients keep one or another."""
    encrypted = item.get("encrypted_content")
    if isinstance(encrypted, str) and encrypted.startswith(_MARK):
        try:
            return base64.b64decode(encrypted[len(_MARK) :], validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            pass
    for key in ("content", "summary"):
        parts = item.get(key)
        texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
        text = "\n\n".join(text for text in texts if isinstance(text, str))
        if text:
            return text
    return ""


def sealed(reasoning: str) -> str:
    """Reasoning as `encrypted_content`. It is not encrypted: the client is the one whose model this is."""
    return _MARK + base64.b64encode(reasoning.encode()).decode()
