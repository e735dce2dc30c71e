"""What a request comes down to, whichever API it came through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from ds4_mlx.engine.sampling import SamplingOptions
from ds4_mlx.server.errors import invalid

MAX_STOPS = 16
MAX_CHOICES = 16
MAX_TOP_LOGPROBS = 20


class ToolChoice(NamedTuple):
    """Whether tools are called: the model decides, never, at least one, or the one named.

    among: with auto or required, the names that may be called; None for all.
    """

    mode: Literal["auto", "none", "required", "named"] = "auto"
    name: str | None = None
    among: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Thinking:
    """Whether the answer begins with reasoning, how hard, and after how many tokens it must end (None: never)."""

    on: bool
    effort: str | None = None
    budget: int | None = None


@dataclass
class Ask:
    """One request. Either `messages` (in the form of `encode_messages`, system messages anywhere) or `prompt`.

    tools: `{"type": "function", "function": {"name", "description", "parameters"}, "strict"}` each. response_format:
    OpenAI's json_object or json_schema; None for text. choices: how many answers. top_logprobs None: no logprobs.
    """

    model: str
    thinking: Thinking
    messages: list[dict[str, Any]] = field(default_factory=list)
    prompt: str | list[int] | None = None
    tools: list[dict[str, Any]] = field(default_factory=list)
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    parallel: bool = True
    response_format: dict[str, Any] | None = None
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    choices: int = 1


def stop_strings(stop: str | Sequence[str] | None, param: str = "stop") -> tuple[str, ...]:
    """Stop strings as a tuple. Raises a 400 for an empty one, and for too many."""
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > MAX_STOPS:
        raise invalid(f"{param} has {len(stops)} strings; at most {MAX_STOPS} are allowed.", param)
    if not all(stops):
        raise invalid(f"{param} has an empty string; a stop string needs at least one character.", param)
    return stops


def positive(value: int | None, param: str) -> int | None:
    """`value` unless it is below 1: then a 400."""
    if value is not None and value < 1:
        raise invalid(f"{param} is {value}; expected at least 1.", param)
    return value


def choices(n: int | None) -> int:
    """How many answers `n` asks for."""
    if n is not None and not 1 <= n <= MAX_CHOICES:
        raise invalid(f"n is {n}; expected a value from 1 to {MAX_CHOICES}.", "n")
    return n or 1


def top_logprobs(count: int | None, param: str) -> int | None:
    """`count` if so many alternatives may be asked for."""
    if count is not None and not 0 <= count <= MAX_TOP_LOGPROBS:
        raise invalid(f"{param} is {count}; expected a value from 0 to {MAX_TOP_LOGPROBS}.", param)
    return count


_IN_A_WORD = {"auto": ToolChoice("auto"), "none": ToolChoice("none"), "required": ToolChoice("required")}


def choice_in_a_word(word: str, other: str) -> ToolChoice:
    """OpenAI's tool_choice where it is a text. other: what else may stand there, for the 400."""
    if word not in _IN_A_WORD:
        raise invalid(f"tool_choice is {word[:40]!r}; expected auto, none, required or {other}.", "tool_choice")
    return _IN_A_WORD[word]


def choice_among(mode: object, names: Sequence[str]) -> ToolChoice:
    """OpenAI's allowed_tools: only these may be called, at least one with mode required."""
    if mode == "required":
        if not names:
            raise invalid("tool_choice asks for a call, but allows no tool that can be called.", "tool_choice")
        return ToolChoice("required", among=tuple(names))
    if mode != "auto":
        raise invalid("tool_choice.mode must be auto or required.", "tool_choice")
    return ToolChoice("auto", among=tuple(names)) if names else ToolChoice("none")


def function_tool(
    name: object, description: object, parameters: object, where: str, *, strict: bool = False
) -> dict[str, Any]:
    """A tool in the form that prompts take. Raises a 400 for a name that cannot be written in a prompt.

    strict: a schema that cannot be kept to in every detail is refused.
    """
    if not isinstance(name, str) or not name or len(name) > 256 or any(c in name for c in '"<>\n\r'):
        raise invalid(f"{where}.name must be a short text without quotes, brackets and newlines.", f"{where}.name")
    if parameters is not None and not isinstance(parameters, dict):
        raise invalid(f"{where}: the schema of the arguments must be an object.", where)
    if description is not None and not isinstance(description, str):
        raise invalid(f"{where}.description must be text.", f"{where}.description")
    function: dict[str, Any] = {"name": name}
    if description is not None:
        function["description"] = description
    function["parameters"] = parameters if parameters is not None else {"type": "object", "properties": {}}
    return {"type": "function", "function": function, "strict": strict}


def check_tools(tools: list[dict[str, Any]], choice: ToolChoice) -> None:
    """Raises a 400 if two tools have one name, or the choice asks for one that is not there."""
    names = [tool["function"]["name"] for tool in tools]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise invalid(f"Two tools have the name {twice[0]!r}; each needs its own.", "tools")
    missing = [name for name in (choice.name, *(choice.among or ())) if name is not None and name not in names]
    if missing:
        raise invalid(f"tool_choice asks for {missing[0]!r}, which is not among the tools.", "tool_choice")
    if choice.mode in ("required", "named") and not names:
        raise invalid("tool_choice asks for a call, but there are no tools to call.", "tool_choice")
