"""A conversation as a file for people (Markdown) or programs (JSON)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ds4_mlx.chat.conversation import Conversation
from ds4_mlx.errors import UserError


def write(conversation: Conversation, path: Path) -> None:
    """Writes FILE.md or FILE.json. Raises `UserError` for another ending, a file that exists, or no way to write."""
    if path.suffix not in (".md", ".json"):
        raise UserError("Name a file that ends in .md or .json: /export FILE.md")
    if not conversation.messages:
        raise UserError("There is nothing to export yet.")
    text = as_json(conversation) if path.suffix == ".json" else as_markdown(conversation.messages)
    try:
        with path.open("x", encoding="utf-8", errors="replace") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{path} exists already; name another file.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from None


def as_json(conversation: Conversation) -> str:
    """Messages as OpenAI's chat completions take them, with the model and the settings."""
    settings = conversation.settings
    content = {
        "model": conversation.model.checkpoint.path.name,
        "profile": conversation.model.checkpoint.profile,
        "thinking": settings.thinking,
        "reasoning_effort": settings.effort,
        "temperature": settings.temperature,
        "messages": conversation.messages,
    }
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def as_markdown(messages: list[dict[str, Any]]) -> str:
    """One heading a message; reasoning folded, as GitHub and most viewers know it."""
    titles = {"system": "System", "user": "You", "assistant": "Answer"}
    return "\n".join(f"## {titles.get(message['role'], message['role'])}\n\n{_body(message)}" for message in messages)


def _body(message: dict[str, Any]) -> str:
    parts = []
    if message.get("reasoning_content"):
        parts.append(f"<details><summary>Reasoning</summary>\n\n{message['reasoning_content'].strip()}\n\n</details>")
    if message.get("content"):
        parts.append(message["content"].strip())
    for call in message.get("tool_calls") or []:
        parts.append(f"```json\n{json.dumps(call['function'], ensure_ascii=False)}\n```")
    return "\n\n".join(parts) + "\n"
