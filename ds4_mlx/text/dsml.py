"""DSML, DeepSeek's markup for tool calls: written for a prompt, read back from a completion (spec 15.5, 15.6).

    \\n\\n<｜DSML｜tool_calls>\\n
    <｜DSML｜invoke name="NAME">\\n
    <｜DSML｜parameter name="KEY" string="true|false">VALUE</｜DSML｜parameter>\\n
    </｜DSML｜invoke>\\n
    </｜DSML｜tool_calls>

`ToolBlockReader` is the one definition of what a well-formed block is: `parse_completion` gives it all the text at
once, `CompletionStream` gives it whatever has been sampled.
"""

import json
from collections.abc import Generator, Sequence
from typing import Any

from ds4_mlx.text.errors import DSMLError, EncodingError, check_thinking_mode
from ds4_mlx.text.special import BOS, DSML, EOS, THINK, THINK_END
from ds4_mlx.text.templates import to_json

TOOLS_OPEN = f"\n\n<{DSML}tool_calls"  # without its `>`: what follows is checked by the reader
_TOOLS_CLOSE = f"</{DSML}tool_calls>"
_INVOKE_OPEN = f"<{DSML}invoke"
_INVOKE_CLOSE = f"</{DSML}invoke"
_PARAMETER_OPEN = f"<{DSML}parameter"
_PARAMETER_CLOSE = f"/{DSML}parameter"  # searched without its `<`, as the reference does; values may hold any other tag
_STRING, _JSON = '" string="true">', '" string="false">'

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
    return f"{TOOLS_OPEN}>\n{invokes}\n{_TOOLS_CLOSE}"


def _invoke(call: dict[str, Any]) -> str:
    function = call.get("function") if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str):
        raise EncodingError(f"A tool call must have a function with a name, unlike {call!r}.")
    lines = "\n".join(_parameter(key, value) for key, value in _arguments(name, function.get("arguments")).items())
    return f'{_INVOKE_OPEN} name="{name}">\n{lines}\n{_INVOKE_CLOSE}>'


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
    text = f"{_STRING}{value}" if isinstance(value, str) else _JSON + to_json(value)
    return f'{_PARAMETER_OPEN} name="{key}{text}<{_PARAMETER_CLOSE}>'


def parse_completion(text: str, *, thinking_mode: str) -> dict[str, Any]:
    """Read a whole completion back into an assistant message: strict (spec 15.6), where `CompletionStream` is lenient.

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
    reader = ToolBlockReader()
    if not reader.feed(text):
        raise DSMLError("The tool calls are not finished.")
    return reader.calls, reader.rest


class ToolBlockReader:
    """Reads one block of tool calls, from just after `TOOLS_OPEN` to its closing tag, in pieces of any size.

    calls:  `{"name", "arguments"}` of each invoke closed so far; arguments are a JSON text
    """

    def __init__(self) -> None:
        """Begin just after `TOOLS_OPEN`."""
        self.calls: list[dict[str, str]] = []
        self._text = ""
        self._position = 0
        self._steps = self._block()
        self._complete = False

    @property
    def read(self) -> str:
        """The text accepted so far. Where a malformed block stops being one does not depend on the pieces."""
        return self._text[: self._position]

    @property
    def rest(self) -> str:
        """The text not accepted: what follows a complete block, what makes one malformed, or what is undecided."""
        return self._text[self._position :]

    def feed(self, text: str) -> bool:
        """Take more text; whether the block is complete. DSMLError as soon as it cannot become well formed."""
        self._text += text
        if not self._complete:
            try:
                next(self._steps)
            except StopIteration:
                self._complete = True
        return self._complete

    # The grammar. Each step waits (yields) until there is enough text to decide, and then moves the position.

    def _block(self) -> Generator[None, None, None]:
        yield from self._one_of(">\n")
        while (yield from self._one_of(_INVOKE_OPEN, _TOOLS_CLOSE)) == _INVOKE_OPEN:
            yield from self._one_of(' name="')
            name, _ = yield from self._until('">\n')
            arguments = yield from self._parameters()
            self.calls.append({"name": name, "arguments": arguments})

    def _parameters(self) -> Generator[None, None, str]:
        """The parameters of an invoke and its closing tag; an empty line stands for no parameters."""
        values: dict[str, str] = {}
        tag = yield from self._one_of(_PARAMETER_OPEN, _INVOKE_CLOSE, "\n" + _INVOKE_CLOSE)
        while tag == _PARAMETER_OPEN:
            yield from self._one_of(' name="')
            key, kind = yield from self._until(_STRING, _JSON, _PARAMETER_CLOSE)
            if kind == _PARAMETER_CLOSE:
                raise DSMLError(f'A parameter has no string="true" or string="false": {key[:40]!r}.')
            value, _ = yield from self._until(_PARAMETER_CLOSE)
            if not value.endswith("<"):
                raise DSMLError(f"The parameter {key!r} is not closed with <{_PARAMETER_CLOSE}>.")
            if key in values:
                raise DSMLError(f"The parameter {key!r} is given twice.")
            values[key] = to_json(value[:-1]) if kind == _STRING else value[:-1]
            yield from self._one_of(">\n")
            tag = yield from self._one_of(_PARAMETER_OPEN, _INVOKE_CLOSE)
        yield from self._one_of(">\n")
        return "{" + ", ".join(f"{to_json(key)}: {value}" for key, value in values.items()) + "}"

    def _one_of(self, *options: str) -> Generator[None, None, str]:
        """Accept the option that comes next; DSMLError as soon as none of them can."""
        while True:
            ahead = self._text[self._position : self._position + max(map(len, options))]
            for option in options:
                if ahead.startswith(option):
                    self._position += len(option)
                    return option
            if not any(option.startswith(ahead) for option in options):
                raise DSMLError(f"Expected {' or '.join(map(repr, options))} in the tool calls, not {ahead!r}.")
            yield

    def _until(self, *markers: str) -> Generator[None, None, tuple[str, str]]:
        """Accept everything up to and with the first of `markers`: (text before it, the marker)."""
        overlap = max(map(len, markers)) - 1
        searched = self._position
        while True:
            found = [(at, marker) for marker in markers if (at := self._text.find(marker, searched)) >= 0]
            if found:
                at, marker = min(found)
                before = self._text[self._position : at]
                self._position = at + len(marker)
                return before, marker
            searched = max(self._position, len(self._text) - overlap)
            yield
