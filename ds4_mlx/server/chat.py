"""POST /v1/chat/completions: OpenAI's request, with DeepSeek's additions (`reasoning_content`, `thinking`)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from ds4_mlx.server import ask as asking
from ds4_mlx.server.ask import Ask, ToolChoice
from ds4_mlx.server.errors import invalid
from ds4_mlx.server.prompt import Message, assistant_message, thinking_of, tool_call
from ds4_mlx.server.schema import Body, ChunkedBody, Json, described, refuse, schema_format, text_of
from ds4_mlx.server.served import ServedModel, ServerOptions

_TEXT = {"type": "string"}
_PART = {"type": "object", "required": ["type", "text"], "properties": {"type": {"const": "text"}, "text": _TEXT}}
_MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {"anyOf": [_TEXT, {"type": "array", "items": _PART}]},
        "reasoning_content": _TEXT,
        "tool_calls": {"type": "array", "items": {"type": "object"}},
        "tool_call_id": _TEXT,
    },
}
_FUNCTION = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": _TEXT,
        "description": _TEXT,
        "parameters": {"type": "object"},
        "strict": {"type": "boolean"},
    },
}
_TOOL = {
    "type": "object",
    "required": ["type", "function"],
    "properties": {"type": {"const": "function"}, "function": _FUNCTION},
}


class ChatThinking(Body):
    """DeepSeek's switch."""

    type: str
    budget_tokens: int | None = None


class ChatRequest(ChunkedBody):
    """The body of a chat completion."""

    model: str = Field(max_length=512)
    messages: Annotated[list[Json], described(_MESSAGE)] = Field(min_length=1)
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    n: int | None = None
    tools: Annotated[list[Json], described(_TOOL)] | None = None
    tool_choice: str | Json | None = None
    parallel_tool_calls: bool | None = None
    response_format: Json | None = None
    reasoning_effort: str | None = None
    thinking: ChatThinking | None = None
    # Known, and refused where they ask for something.
    functions: list[Json] | None = None
    function_call: str | Json | None = None
    modalities: list[str] | None = None
    audio: Json | None = None
    prediction: Json | None = None
    web_search_options: Json | None = None

    def ask(self, model: ServedModel, options: ServerOptions) -> Ask:
        """The request in the server's own terms. Raises a 400 that names what cannot be honoured."""
        self._refuse()
        tools = _tools(self.tools or [])
        choice = _tool_choice(self.tool_choice)
        asking.check_tools(tools, choice)
        return Ask(
            model=self.model,
            thinking=thinking_of(
                options.canonical(self.model),
                model.profile,
                asked=_switch(self.thinking),
                effort=self.reasoning_effort,
                default=True,
                budget=asking.positive(
                    self.thinking.budget_tokens if self.thinking else None, "thinking.budget_tokens"
                ),
            ),
            messages=conversation(self.messages),
            tools=tools,
            tool_choice=choice,
            parallel=self.parallel_tool_calls is not False,
            response_format=_response_format(self.response_format),
            sampling=self.sampling(),
            max_tokens=self._max_tokens(),
            stop=asking.stop_strings(self.stop),
            top_logprobs=self._top_logprobs(),
            choices=asking.choices(self.n),
        )

    def asks(self, model: ServedModel, options: ServerOptions) -> list[Ask]:
        """`ask` as a list."""
        return [self.ask(model, options)]

    def _refuse(self) -> None:
        refuse(
            self,
            {
                "functions": "use tools.",
                "function_call": "use tool_choice.",
                "audio": "this model writes text only.",
                "prediction": "answers are not predicted.",
                "web_search_options": "this server does not search.",
            },
        )
        if any(modality != "text" for modality in self.modalities or []):
            raise invalid("modalities must be ['text']; this model writes text only.", "modalities")
        self.check_stream_options()

    def _max_tokens(self) -> int | None:
        if self.max_completion_tokens is not None:
            return asking.positive(self.max_completion_tokens, "max_completion_tokens")
        return asking.positive(self.max_tokens, "max_tokens")

    def _top_logprobs(self) -> int | None:
        if not self.logprobs:
            if self.top_logprobs:
                raise invalid("top_logprobs needs logprobs: true.", "top_logprobs")
            return None
        return asking.top_logprobs(self.top_logprobs or 0, "top_logprobs")


def _switch(thinking: ChatThinking | None) -> bool | None:
    if thinking is None:
        return None
    if thinking.type not in ("enabled", "disabled", "adaptive", "auto"):
        raise invalid(f"thinking.type is {thinking.type[:40]!r}; expected enabled or disabled.", "thinking.type")
    return thinking.type != "disabled"


def _tools(tools: list[Json]) -> list[Json]:
    functions = []
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        kind = tool.get("type", "function")
        if kind == "custom":
            raise invalid("tools of type custom are for /v1/responses; use functions.", "tools")
        if kind != "function" or not isinstance(tool.get("function"), dict):
            raise invalid(f"{where} must be of type function, with a function object.", where)
        function = tool["function"]
        functions.append(
            asking.function_tool(
                function.get("name"),
                function.get("description"),
                function.get("parameters"),
                f"{where}.function",
                strict=function.get("strict") is True,
            )
        )
    return functions


def _tool_choice(choice: str | Json | None) -> ToolChoice:
    if choice is None:
        return ToolChoice()
    if isinstance(choice, str):
        return asking.choice_in_a_word(choice, "a function")
    if choice.get("type") == "allowed_tools" and isinstance(choice.get("allowed_tools"), dict):
        allowed = choice["allowed_tools"]
        return _allowed_tools(allowed.get("mode"), allowed.get("tools"))
    name = choice["function"].get("name") if isinstance(choice.get("function"), dict) else None
    if choice.get("type") != "function" or not isinstance(name, str):
        raise invalid(
            "tool_choice must name a function: {'type': 'function', 'function': {'name': ...}}.", "tool_choice"
        )
    return ToolChoice("named", name)


def _allowed_tools(mode: object, tools: object) -> ToolChoice:
    """The choice among some of the tools."""
    names = []
    for tool in tools if isinstance(tools, list) else [None]:
        name = None
        if isinstance(tool, dict):
            inner = tool.get("function")
            name = inner.get("name") if isinstance(inner, dict) else tool.get("name")
        if not isinstance(name, str):
            raise invalid("tool_choice.tools must be a list of tools with names.", "tool_choice")
        names.append(name)
    return asking.choice_among(mode, names)


def _response_format(response_format: Json | None) -> Json | None:
    kind = None if response_format is None else response_format.get("type")
    if response_format is None or kind == "text":
        return None
    if kind == "json_object":
        return {"type": "json_object"}
    inner = response_format.get("json_schema")
    if kind != "json_schema" or not isinstance(inner, dict):
        raise invalid("response_format must be of type text, json_object or json_schema.", "response_format")
    return schema_format(inner.get("schema"), inner.get("name"), "response_format.json_schema.schema")


def conversation(messages: list[Json]) -> list[Message]:
    """OpenAI's messages in the encoder's form. Raises a 400 that names the message."""
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _message(message: Json, where: str) -> Message:
    role = message.get("role")
    content, at = message.get("content"), f"{where}.content"
    if role in ("system", "developer", "user"):
        if content is None:
            raise invalid(f"{where} has no content.", at)
        return {"role": role, "content": text_of(content, at)}
    if role == "tool":
        return {
            "role": "tool",
            "tool_call_id": _text(message.get("tool_call_id"), f"{where}.tool_call_id"),
            "content": text_of(content, at, pictures=True),
        }
    if role == "assistant":
        reasoning = message.get("reasoning_content", message.get("reasoning"))
        return assistant_message(
            text_of(content, at, kinds=("text", "refusal")),
            "" if reasoning is None else _text(reasoning, f"{where}.reasoning_content"),
            _calls(message.get("tool_calls"), f"{where}.tool_calls"),
        )
    roles = "system, developer, user, assistant or tool"
    raise invalid(f"{where} has the role {str(role)[:40]!r}; expected {roles}.", f"{where}.role")


def _calls(calls: Any, where: str) -> list[Message]:
    if calls is None:
        return []
    if not isinstance(calls, list):
        raise invalid(f"{where} must be a list.", where)
    result = []
    for index, call in enumerate(calls):
        here = f"{where}[{index}]"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise invalid(f"{here} must be a call of a function.", here)
        arguments = function.get("arguments")
        result.append(
            tool_call(
                _text(call.get("id", ""), f"{here}.id"),
                _text(function.get("name"), f"{here}.function.name"),
                "" if arguments is None else _text(arguments, f"{here}.function.arguments"),
            )
        )
    return result


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise invalid(f"{where} must be text.", where)
    return value
