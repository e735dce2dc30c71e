"""DSML, DeepSeek's markup for tool calls: written for a prompt, read back from a completion (spec 15.5, 15.6).

    \\n\\n<｜DSML｜tool_calls>\\n
    <｜DSML｜invoke name="NAME">\\n
    <｜DSML｜parameter name="KEY" string="true|false">VALUE</｜DSML｜parameter>\\n
    </｜DSML｜invoke>\\n
    </｜DSML｜tool_calls>

What a well-formed block is, `ToolBlockReader` defines.
"""

import json
from collections.abc import Sequence
from typing import Any

from ds4_mlx.text.errors import DSMLError, EncodingError, check_thinking_mode
from ds4_mlx.text.special import BOS, DSML, EOS, THINK, THINK_END
from ds4_mlx.text.templates import to_json
from ds4_mlx.text.tool_block import (
    INVOKE_CLOSE,
    INVOKE_OPEN,
    JSON,
    PARAMETER_CLOSE,
    PARAMETER_OPEN,
    STRING,
    TOOLS_CLOSE,
    TOOLS_OPEN,
    ToolBlockReader,
)

_NEVER_IN_TEXT = (BOS, EOS, THINK, THINK_END, DSML)


def render_tool_calls(tool_calls: Sequence[dict[str, Any]]) -> str:
    """Write an assistant message's tool calls as DSML, from the two newlines before the block to its closing tag.

    Args:
        tool_calls: `{"function": {"name": str, "arguments": JSON text of an object}}` each. Arguments that are not
            JSON are kept as one string parameter named `arguments`. An empty list gives empty text.

    Raises:
        EncodingError: a name is missing, or arguments are not text, or are JSON but not an object.
    """
    if not tool_calls:
        return ""
    invokes = "\n".join(map(_invoke, tool_calls))
    return f"{TOOLS_OPEN}>\n{invokes}\n{TOOLS_CLOSE}"


def replayed_tool_calls(tool_calls: Sequence[dict[str, Any]], calls_text: str | None) -> str:
    """The same, but `calls_text`, the block as it was sampled, where it holds these very calls.

    The same calls are: the same names in the same order, and arguments that are equal as JSON, whatever the order of
    keys and the spaces. A call that was changed since is rendered anew. Raises EncodingError as `render_tool_calls`.
    """
    rendered = render_tool_calls(tool_calls)
    if not calls_text or not calls_text.startswith(TOOLS_OPEN):
        return rendered
    try:
        sampled, rest = _read_block(calls_text.removeprefix(TOOLS_OPEN))
    except DSMLError:
        return rendered
    same = len(sampled) == len(tool_calls) and not rest
    same = same and all(map(_is_same_call, sampled, (call["function"] for call in tool_calls)))
    return calls_text if same else rendered


def _is_same_call(sampled: dict[str, str], given: dict[str, Any]) -> bool:
    if sampled["name"] != given["name"]:
        return False
    if sampled["arguments"] == given["arguments"]:
        return True
    try:
        return _is_same_json(json.loads(sampled["arguments"]), json.loads(given["arguments"]))
    except (ValueError, RecursionError):
        return False


def _is_same_json(a: object, b: object) -> bool:
    """Equality as JSON has it: 1 is 1.0, but not true."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_is_same_json(value, b[key]) for key, value in a.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_is_same_json, a, b))
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def _invoke(call: dict[str, Any]) -> str:
    function = call.get("function") if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str):
        raise EncodingError(f"A tool call must have a function with a name, unlike {call!r}.")
    lines = "\n".join(_parameter(key, value) for key, value in _arguments(name, function.get("arguments")).items())
    return f'{INVOKE_OPEN} name="{name}">\n{lines}\n{INVOKE_CLOSE}>'


def _arguments(name: str, text: object) -> dict[str, Any]:
    if not isinstance(text, str):
        raise EncodingError(f"The arguments of the call to {name!r} must be a JSON text, not {type(text).__name__}.")
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):
        return {"arguments": text}
    if not isinstance(arguments, dict):
        raise EncodingError(f"The arguments of the call to {name!r} must be a JSON object, not {text[:80]!r}.")
    return arguments


def _parameter(key: str, value: object) -> str:
    text = f"{STRING}{value}" if isinstance(value, str) else JSON + to_json(value)
    return f'{PARAMETER_OPEN} name="{key}{text}<{PARAMETER_CLOSE}>'


def parse_completion(text: str, *, thinking_mode: str) -> dict[str, Any]:
    """Read a whole completion back into an assistant message: strict (spec 15.6), where `CompletionReader` is lenient.

    Args:
        text: what was sampled after the prompt, EOS included (EOS is optional after a tool block only).
        thinking_mode: "thinking" if the prompt ended with `<think>`, "chat" if it ended with `</think>`.

    Returns:
        `{"role": "assistant", "content", "reasoning_content", "tool_calls"}`; absent parts are "" and []. Arguments are
        JSON texts in which values marked string="false" stand as sampled, so they need not be valid JSON.

    Raises:
        DSMLError: the completion is malformed; the sentence says where.
        EncodingError: thinking_mode is unknown.
    """
    check_thinking_mode(thinking_mode)
    reasoning, rest = "", text
    if thinking_mode == "thinking":
        reasoning, marker, rest = _cut(text, (THINK_END, TOOLS_OPEN))
        if marker != THINK_END:
            raise DSMLError(f"The reasoning does not end with {THINK_END}.")
    content, marker, rest = _cut(rest, (EOS, TOOLS_OPEN))
    if not marker:
        raise DSMLError(f"The content ends neither with {EOS} nor with tool calls.")
    calls: list[dict[str, str]] = []
    if marker == TOOLS_OPEN:
        calls, rest = _read_block(rest)
        rest = rest.removeprefix(EOS)
    if rest:
        raise DSMLError(f"Text follows the end of the message: {rest[:40]!r}.")
    for part in (reasoning, content):
        found = [token for token in _NEVER_IN_TEXT if token in part]
        if found:
            raise DSMLError(f"The text holds {found[0]}, which belongs to the format.")
    return {
        "role": "assistant",
        "content": content,
        "reasoning_content": reasoning,
        "tool_calls": [{"type": "function", "function": call} for call in calls],
    }


def _cut(text: str, markers: Sequence[str]) -> tuple[str, str, str]:
    """(text before the first of `markers`, that marker, text after it); the marker is "" when none is there."""
    start, marker = min(((text.find(marker), marker) for marker in markers if marker in text), default=(len(text), ""))
    return text[:start], marker, text[start + len(marker) :]


def _read_block(text: str) -> tuple[list[dict[str, str]], str]:
    """The calls of the block that `text` begins with, just after `TOOLS_OPEN`, and what follows it."""
    reader = ToolBlockReader()
    calls: list[dict[str, str]] = []
    for piece in reader.feed(text):
        if piece.kind == "begin":
            calls.append({"name": piece.text, "arguments": ""})
        else:
            calls[-1]["arguments"] += piece.text
    if reader.error is not None:
        raise reader.error
    if not reader.complete:
        raise DSMLError("The tool calls are not finished.")
    return calls, reader.rest
