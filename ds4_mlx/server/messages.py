"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's request, as Claude Code and the SDKs send it."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import Field

from ds4_mlx.server import ask as asking
from ds4_mlx.server.ask import Ask, Thinking, ToolChoice
from ds4_mlx.server.errors import invalid
from ds4_mlx.server.prompt import Message, assistant_message, thinking_of, tool_call, without_billing
from ds4_mlx.server.schema import Body, Json, SamplingBody, described, no_picture, refuse, schema_format, text_of
from ds4_mlx.server.served import ServedModel, ServerOptions

# Tools that Anthropic's servers run are left out of the prompt. Claude Code sends web_search and lives without it.
_SERVER_TOOLS = ("web_search_", "web_fetch_", "code_execution_", "tool_search_tool_", "mcp_toolset", "advisor_")

_TEXT = {"type": "string"}
_BLOCK = {"type": "object", "required": ["type"], "properties": {"type": _TEXT, "text": _TEXT}}
_MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"enum": ["user", "assistant", "system"]},
        "content": {"anyOf": [_TEXT, {"type": "array", "items": _BLOCK}]},
    },
}
_TOOL = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": _TEXT, "type": _TEXT, "description": _TEXT, "input_schema": {"type": "object"}},
}


class MessagesThinking(Body):
    """Whether to think: enabled (with a budget), adaptive or disabled."""

    type: str
    budget_tokens: int | None = None


class OutputConfig(Body):
    """Effort, and the format of the answer."""

    effort: str | None = None
    format: Json | None = None


class CountRequest(Body):
    """What has a number of tokens."""

    model: str = Field(max_length=512)
    messages: Annotated[list[Json], described(_MESSAGE)] = Field(min_length=1)
    system: str | list[Json] | None = None
    tools: Annotated[list[Json], described(_TOOL)] | None = None
    tool_choice: Json | None = None
    thinking: MessagesThinking | None = None
    output_config: OutputConfig | None = None
    output_format: Json | None = None  # the name that output_config.format had first

    def ask(self, model: ServedModel, options: ServerOptions) -> Ask:
        """The request in the server's own terms. Raises a 400 that names what cannot be honoured."""
        config = self.output_config or OutputConfig()
        tools = _tools(self.tools or [])
        choice, parallel = _tool_choice(self.tool_choice)
        asking.check_tools(tools, choice)
        return Ask(
            model=self.model,
            thinking=self._thinking(model, options, config.effort),
            messages=conversation(self.system, self.messages),
            tools=tools,
            tool_choice=choice,
            parallel=parallel,
            response_format=_format(config.format or self.output_format),
        )

    def asks(self, model: ServedModel, options: ServerOptions) -> list[Ask]:
        """`ask` as a list."""
        return [self.ask(model, options)]

    def _thinking(self, model: ServedModel, options: ServerOptions, effort: str | None) -> Thinking:
        """Without `thinking` there is none, whatever the effort: subagents and titles leave it out."""
        kind = self.thinking.type if self.thinking else "disabled"
        if kind not in ("enabled", "adaptive", "disabled"):
            raise invalid(f"thinking.type is {kind[:40]!r}; expected enabled, adaptive or disabled.", "thinking.type")
        budget = asking.positive(self.thinking.budget_tokens if self.thinking else None, "thinking.budget_tokens")
        return thinking_of(
            options.canonical(self.model),
            model.profile,
            asked=kind != "disabled",
            effort=effort,
            default=False,
            budget=budget if kind == "enabled" else None,
            param="output_config.effort",
        )


class MessagesRequest(CountRequest, SamplingBody):
    """The body of a message. `context_management`, `metadata`, `cache_control` and `service_tier` are accepted: nothing
    of the answer depends on them here.
    """

    max_tokens: int
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    # Known, and refused where they ask for something.
    mcp_servers: list[Json] | None = None
    container: str | Json | None = None

    def ask(self, model: ServedModel, options: ServerOptions) -> Ask:
        """The request in the server's own terms. Raises a 400 that names what cannot be honoured."""
        refuse(
            self,
            {
                "mcp_servers": "this server calls no other; give their tools as tools.",
                "container": "this server runs no code.",
            },
        )
        ask = super().ask(model, options)
        ask.sampling = self.sampling()
        ask.max_tokens = asking.positive(self.max_tokens, "max_tokens")
        ask.stop = asking.stop_strings(self.stop_sequences, "stop_sequences")
        return ask


def _tools(tools: list[Json]) -> list[Json]:
    functions = []
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        kind = tool.get("type") or "custom"
        if isinstance(kind, str) and kind.startswith(_SERVER_TOOLS):
            continue
        if kind != "custom" and "input_schema" not in tool:
            raise invalid(f"{where} is of type {str(kind)[:40]!r}; give it an input_schema, or leave it out.", where)
        schema = tool.get("input_schema")
        functions.append(
            asking.function_tool(
                tool.get("name"), tool.get("description"), schema, where, strict=tool.get("strict") is True
            )
        )
    return functions


def _tool_choice(choice: Json | None) -> tuple[ToolChoice, bool]:
    """(the choice, whether calls may be parallel)"""
    if choice is None:
        return ToolChoice(), True
    parallel = choice.get("disable_parallel_tool_use") is not True
    kind = choice.get("type")
    if kind in ("auto", "none"):
        return ToolChoice("auto" if kind == "auto" else "none"), parallel
    if kind == "any":
        return ToolChoice("required"), parallel
    if kind == "tool" and isinstance(choice.get("name"), str):
        return ToolChoice("named", choice["name"]), parallel
    raise invalid("tool_choice.type must be auto, any, none, or tool with a name.", "tool_choice")


def _format(output_format: Json | None) -> Json | None:
    if output_format is None:
        return None
    if output_format.get("type") != "json_schema":
        raise invalid("output_config.format must be of type json_schema.", "output_config.format")
    return schema_format(output_format.get("schema"), None, "output_config.format.schema")


def conversation(system: str | list[Json] | None, messages: list[Json]) -> list[Message]:
    """Anthropic's system and messages in the encoder's form. Raises a 400 that names the message."""
    result: list[Message] = []
    if isinstance(system, str):
        result.append({"role": "system", "content": system})
    elif system:
        texts = without_billing([text_of([block], f"system[{index}]") for index, block in enumerate(system)])
        result.append({"role": "system", "content": "\n\n".join(texts)})
    for index, message in enumerate(messages):
        result.extend(_message(message, f"messages[{index}]"))
    return result


def _message(message: Json, where: str) -> list[Message]:
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant", "system"):
        raise invalid(f"{where} has the role {str(role)[:40]!r}; expected user, assistant or system.", f"{where}.role")
    where = f"{where}.content"
    if role == "system":
        return [{"role": "system", "content": text_of(content, where)}]
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if not isinstance(content, list):
        raise invalid(f"{where} must be text or a list of blocks.", where)
    blocks = [_block(block, f"{where}[{index}]") for index, block in enumerate(content)]
    return _user(blocks, where) if role == "user" else [_assistant(blocks, where)]


def _block(block: object, where: str) -> Json:
    if isinstance(block, dict) and isinstance(block.get("type"), str):
        return block
    raise invalid(f"{where} must be an object with a type.", where)


def _user(blocks: list[Json], where: str) -> list[Message]:
    """Tool results and texts in their order; the encoder joins them to one turn."""
    result: list[Message] = []
    for index, block in enumerate(blocks):
        here = f"{where}[{index}]"
        if block["type"] == "tool_result":
            call_id, content = block.get("tool_use_id"), block.get("content")
            if not isinstance(call_id, str):
                raise invalid(f"{here} has no tool_use_id.", f"{here}.tool_use_id")
            text = text_of(content, f"{here}.content", pictures=True)
            result.append({"role": "tool", "tool_call_id": call_id, "content": text})
        elif block["type"] == "document":
            result.append({"role": "user", "content": _document(block, here)})
        else:
            result.append({"role": "user", "content": text_of([block], here)})
    return result


def _document(block: Json, where: str) -> str:
    source = block.get("source")
    kind = source.get("type") if isinstance(source, dict) else None
    if isinstance(source, dict) and kind == "text" and isinstance(source.get("data"), str):
        return source["data"]
    if isinstance(source, dict) and kind == "content":
        return text_of(source.get("content"), f"{where}.source.content")
    raise no_picture(f"document ({kind})", where)


def _assistant(blocks: list[Json], where: str) -> Message:
    texts, reasoning, calls = [], [], []
    for index, block in enumerate(blocks):
        here = f"{where}[{index}]"
        kind = block["type"]
        if kind == "text":
            texts.append(text_of([block], here))
        elif kind == "thinking":
            thought = block.get("thinking")
            if not isinstance(thought, str):
                raise invalid(f"{here} has no thinking.", here)
            reasoning.append(thought)
        elif kind == "tool_use":
            calls.append(_tool_use(block, here))
        elif kind not in ("redacted_thinking", "server_tool_use") and not kind.endswith("_tool_result"):
            raise no_picture(kind, here)
    return assistant_message("".join(texts), "\n\n".join(reasoning), calls)


def _tool_use(block: Json, where: str) -> Message:
    name, arguments, call_id = block.get("name"), block.get("input", {}), block.get("id")
    if not isinstance(name, str) or not isinstance(call_id, str):
        raise invalid(f"{where} needs an id and a name.", where)
    if not isinstance(arguments, dict):
        raise invalid(f"{where}.input must be an object.", f"{where}.input")
    return tool_call(call_id, name, json.dumps(arguments, ensure_ascii=False))
