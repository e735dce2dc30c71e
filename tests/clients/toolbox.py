"""Tools that really do something, under names that ds4-tiny has learned (examples/train_tiny/chats/tool_specs.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_PATH = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
SPECS = (("read_file", "Read a file.", _PATH), ("list_directory", "List the files in a directory.", _PATH))


class Toolbox:
    """Reads and lists below a folder. `executed` tells what was done."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "notes.txt").write_text("buy milk and bread", encoding="utf-8")
        (folder / "todo.txt").write_text("call Anna", encoding="utf-8")
        self.folder = folder
        self.executed: list[str] = []

    def run(self, name: str, arguments: dict[str, Any]) -> str:
        """What the tool returns, as the model learned it: a JSON object."""
        path = self.folder / str(arguments["path"]).lstrip("/")
        self.executed.append(f"{name}({arguments['path']})")
        try:
            if name == "read_file":
                return json.dumps({"content": path.read_text(encoding="utf-8")})
            return json.dumps({"files": sorted(entry.name for entry in path.iterdir())})
        except OSError as error:
            return json.dumps({"error": (error.strerror or "not found").lower()})

    @property
    def openai(self) -> list[dict[str, Any]]:
        """For chat completions."""
        return [
            {"type": "function", "function": {"name": name, "description": text, "parameters": schema}}
            for name, text, schema in SPECS
        ]

    @property
    def responses(self) -> list[dict[str, Any]]:
        """For responses."""
        return [
            {"type": "function", "name": name, "description": text, "parameters": schema, "strict": False}
            for name, text, schema in SPECS
        ]

    @property
    def anthropic(self) -> list[dict[str, Any]]:
        """For messages."""
        return [{"name": name, "description": text, "input_schema": schema} for name, text, schema in SPECS]
