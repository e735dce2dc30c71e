"""Tools of /v1/responses. Codex sends kinds that only OpenAI's servers can run; none of them is a reason to refuse.

A `custom` tool, whose input is free text, becomes a function with one text argument; the functions of a `namespace` are
taken out of it. Both come back to the client as what they were. Left out of the prompt are web_search and the like.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ds4_mlx.server.ask import ToolChoice, choice_among, choice_in_a_word, function_tool
from ds4_mlx.server.errors import invalid
from ds4_mlx.server.schema import Json

INPUT = "input"  # the argument that a custom tool's text is in
_BEFORE_INPUT = re.compile(rf'\s*{{\s*"{INPUT}"\s*:\s*"')
# Characters of a JSON string, none of them cut: the two halves of a surrogate pair are one.
_CHARACTERS = re.compile(
    r'(?:[^"\\]|\\["\\/bfnrt]|\\u(?!d[89a-f])[0-9a-f]{4}|\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2})*', re.IGNORECASE
)


class Origin(NamedTuple):
    """What a function in the prompt was in the request."""

    kind: Literal["function", "custom"]
    name: str
    namespace: str | None = None


@dataclass
class Tools:
    """functions: as prompts take them. origins: by the name in the prompt."""

    functions: list[Json] = field(default_factory=list)
    origins: dict[str, Origin] = field(default_factory=dict)

    @classmethod
    def of(cls, tools: list[Json]) -> Tools:
        """Reads the request's tools. Raises a 400 that names the wrong one."""
        result = cls()
        for index, tool in enumerate(tools):
            result._add(tool, f"tools[{index}]", None)
        return result

    def origin(self, name: str) -> Origin:
        """What the function was; a name the request did not have is a function."""
        return self.origins.get(name, Origin("function", name))

    def name_of(self, name: str, namespace: object) -> str:
        """The name in the prompt of a tool that the client calls so."""
        for known, origin in self.origins.items():
            if origin.name == name and origin.namespace == namespace:
                return known
        return name

    def _add(self, tool: Json, where: str, namespace: str | None) -> None:
        kind = tool.get("type")
        if not isinstance(kind, str):
            raise invalid(f"{where} must have a type.", f"{where}.type")
        if kind == "namespace":
            inner, name = tool.get("tools"), tool.get("name")
            if not isinstance(inner, list) or not isinstance(name, str) or namespace is not None:
                raise invalid(f"{where}: a namespace needs a name and a list of tools.", where)
            for index, one in enumerate(inner):
                if not isinstance(one, dict):
                    raise invalid(f"{where}.tools[{index}] must be an object.", where)
                self._add(one, f"{where}.tools[{index}]", name)
        elif kind == "function":
            self._function(tool, where, namespace)
        elif kind == "custom":
            self._custom(tool, where, namespace)

    def _function(self, tool: Json, where: str, namespace: str | None) -> None:
        name = self._own_name(tool.get("name"), namespace)
        parameters, strict = tool.get("parameters"), tool.get("strict") is True
        self.functions.append(function_tool(name, tool.get("description"), parameters, where, strict=strict))
        self.origins[str(name)] = Origin("function", str(tool.get("name")), namespace)

    def _custom(self, tool: Json, where: str, namespace: str | None) -> None:
        description, form = tool.get("description") or "", tool.get("format")
        if isinstance(form, dict) and isinstance(form.get("definition"), str):
            description += f"\n\nThe input must follow this {form.get('syntax', '')} grammar:\n{form['definition']}"
        parameters = {"type": "object", "properties": {INPUT: {"type": "string"}}, "required": [INPUT]}
        name = self._own_name(tool.get("name"), namespace)
        self.functions.append(function_tool(name, description, parameters, where))
        self.origins[str(name)] = Origin("custom", str(tool.get("name")), namespace)

    def _own_name(self, name: object, namespace: str | None) -> object:
        """A function of a namespace keeps its name unless another tool has it."""
        return f"{namespace}__{name}" if namespace is not None and name in self.origins else name


def custom_arguments(text: str) -> str:
    """A custom tool's text as arguments."""
    return json.dumps({INPUT: text}, ensure_ascii=False)


def custom_input(arguments: str) -> str:
    """And back. Arguments that are something else, or were cut off, come back as they are."""
    try:
        value = json.loads(arguments)
    except ValueError:
        return arguments
    text = value.get(INPUT) if isinstance(value, dict) else None
    return text if isinstance(text, str) else arguments


class InputReader:
    """A custom tool's text while its arguments are sampled: JSON in pieces -> what is certain of the text."""

    def __init__(self) -> None:
        self.text = ""  # so far
        self._held = ""  # JSON not yet read
        self._inside = False

    def feed(self, arguments: str) -> str:
        """The text that became certain with more of the arguments."""
        self._held += arguments
        if not self._inside:
            begin = _BEFORE_INPUT.match(self._held)
            if begin is None:
                return ""
            self._held, self._inside = self._held[begin.end() :], True
        whole = _CHARACTERS.match(self._held)
        assert whole is not None
        self._held = self._held[whole.end() :]
        text: str = json.loads(f'"{whole[0]}"', strict=False)
        self.text += text
        return text


def tool_choice(choice: str | Json | None, tools: Tools) -> ToolChoice:
    """The request's choice. Raises a 400 for one that cannot be honoured."""
    if choice is None:
        return ToolChoice()
    if isinstance(choice, str):
        return choice_in_a_word(choice, "a tool")
    kind, name = choice.get("type"), choice.get("name")
    if kind in ("function", "custom") and isinstance(name, str):
        return ToolChoice("named", tools.name_of(name, choice.get("namespace")))
    if kind == "allowed_tools":
        return _allowed(choice, tools)
    raise invalid(f"tool_choice of type {str(kind)[:40]!r} cannot be honoured here.", "tool_choice")


def _allowed(choice: Json, tools: Tools) -> ToolChoice:
    mode, names = choice.get("mode"), []
    listed = choice.get("tools")
    for tool in listed if isinstance(listed, list) else [None]:
        if not isinstance(tool, dict):
            raise invalid("tool_choice.tools must be a list of tools.", "tool_choice")
        if tool.get("type") in ("function", "custom") and isinstance(tool.get("name"), str):
            names.append(tools.name_of(tool["name"], tool.get("namespace")))
    return choice_among(mode, names)
