"""The constant texts of a prompt: tools, response format and reasoning effort (spec 15.3, 15.4, 15.7).

Every character counts: the model was trained with these, and the golden prompts hold them literally.
"""

import json
from typing import Any

from ds4_mlx.text.errors import EncodingError

_TOOLS_HEAD = """## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by writing a \
"<｜DSML｜tool_calls>" block like the following:

<｜DSML｜tool_calls>
<｜DSML｜invoke name="$TOOL_NAME">
<｜DSML｜parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</｜DSML｜parameter>
...
</｜DSML｜invoke>
<｜DSML｜invoke name="$TOOL_NAME2">
...
</｜DSML｜invoke>
</｜DSML｜tool_calls>

String parameters should be specified as is and set `string="true"`. For all other types (numbers, booleans, arrays, \
objects), pass the value in JSON format and set `string="false"`.

If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside <think>...</think> \
BEFORE any tool calls or final response.

Otherwise, output directly after </think> with tool calls or final response.

### Available Tool Schemas

"""
_TOOLS_TAIL = """

You MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.
"""

_RESPONSE_FORMAT_HEAD = """## Response Format:

You MUST strictly adhere to the following schema to reply:
"""

_ABSOLUTE_MAXIMUM = """\
Reasoning Effort: Absolute maximum with no shortcuts permitted.
You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root cause, \
rigorously stress-testing your logic against all potential paths, edge cases, and adversarial scenarios.
Explicitly write out your entire deliberation process, documenting every intermediate step, considered alternative, \
and rejected hypothesis to ensure absolutely no assumption is left unchecked.

"""
_BEYOND_MAXIMUM = """\
Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.
You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: exhaustively decompose the \
problem into its most fundamental components, trace every causal chain to its root, and resolve the underlying cause \
rather than any surface symptom.
Do not stop reasoning until you have independently verified the solution from multiple angles and are certain that no \
assumption remains unchecked and no error remains undiscovered.

"""

# What July calls "high" is, word for word, what April called "max".
_EFFORT_TEXTS = {
    "april": {"high": "", "max": _ABSOLUTE_MAXIMUM},
    "0731": {"low": "", "high": _ABSOLUTE_MAXIMUM, "max": _BEYOND_MAXIMUM},
}


def effort_text(profile: str, reasoning_effort: str | None) -> str:
    """The preamble of a thinking prompt; empty for None. EncodingError for an unknown profile or level."""
    if profile not in ("april", "0731"):
        raise EncodingError(f"profile must be 'april' or '0731', not {profile!r}.")
    if reasoning_effort is None:
        return ""
    texts = _EFFORT_TEXTS[profile]
    if not isinstance(reasoning_effort, str) or reasoning_effort not in texts:
        levels = ", ".join(repr(level) for level in texts)
        raise EncodingError(
            f"reasoning_effort must be {levels} or None with the {profile!r} profile, not {reasoning_effort!r}."
        )
    return texts[reasoning_effort]


def tools_text(tools: list[dict[str, Any]]) -> str:
    """The tools block: one JSON line per tool, the inner `function` object; it ends with a newline."""
    return _TOOLS_HEAD + "\n".join(to_json(tool["function"]) for tool in tools) + _TOOLS_TAIL


def response_format_text(response_format: object) -> str:
    """The response-format block."""
    return _RESPONSE_FORMAT_HEAD + to_json(response_format)


def to_json(value: object) -> str:
    """JSON as everywhere in a prompt: Python's default separators, no ASCII escapes, key order preserved."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise EncodingError(f"This value cannot be written as JSON for the prompt: {error}.") from error
