"""POST /v1/responses: OpenAI's request, as Codex and the SDK send it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from ds4_mlx.server import ask as asking
from ds4_mlx.server.ask import Ask
from ds4_mlx.server.errors import invalid
from ds4_mlx.server.prompt import thinking_of
from ds4_mlx.server.responses_items import conversation
from ds4_mlx.server.responses_tools import Tools, tool_choice
from ds4_mlx.server.schema import Body, Json, SamplingBody, described, refuse, schema_format
from ds4_mlx.server.served import ServedModel, ServerOptions

_LOGPROBS = "message.output_text.logprobs"
ENCRYPTED = "reasoning.encrypted_content"

_TEXT = {"type": "string"}
_ITEM = {
    "type": "object",
    "properties": {"type": _TEXT, "role": {"enum": ["user", "assistant", "system", "developer"]}, "content": _TEXT},
}
_TOOL = {
    "type": "object",
    "required": ["type"],
    "properties": {"type": _TEXT, "name": _TEXT, "description": _TEXT, "parameters": {"type": "object"}},
}


class Reasoning(Body):
    """How hard to think, and whether the reasoning is shown as a summary."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class TextConfig(Body):
    """The format of the answer. Verbosity is a habit of OpenAI's models; it is accepted, there is none here."""

    format: Json | None = None
    verbosity: str | None = None


class ResponsesRequest(SamplingBody):
    """The body of a response. max_tool_calls and context_management speak of tools and memory on OpenAI's side."""

    model: str = Field(max_length=512)
    input: Annotated[str, Field(min_length=1)] | Annotated[list[Json], described(_ITEM), Field(min_length=1)]
    instructions: str | None = None
    tools: Annotated[list[Json], described(_TOOL)] | None = None
    tool_choice: str | Json | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    text: TextConfig | None = None
    max_output_tokens: int | None = None
    stop: str | list[str] | None = None
    top_logprobs: int | None = None
    include: list[str] | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    stream: bool | None = None
    metadata: dict[str, Any] | None = None
    user: str | None = None
    # Known, and refused where they ask for something.
    background: bool | None = None
    conversation: str | Json | None = None
    prompt: Json | None = None
    truncation: str | None = None

    def tool_set(self) -> Tools:
        """The tools, and what they are called in the prompt."""
        return Tools.of(self.tools or [])

    @property
    def shows_summary(self) -> bool:
        """Whether the client wants reasoning as a summary."""
        reasoning = self.reasoning or Reasoning()
        return (reasoning.summary or reasoning.generate_summary or "none") != "none"

    @property
    def wants_logprobs(self) -> bool:
        """Whether the text's tokens are listed."""
        return _LOGPROBS in (self.include or [])

    def ask(self, model: ServedModel, options: ServerOptions, history: list[Json]) -> Ask:
        """The request in the server's own terms. history: items that come before the input. Raises a 400 that names
        what cannot be honoured.
        """
        self._refuse()
        tools = self.tool_set()
        choice = tool_choice(self.tool_choice, tools)
        asking.check_tools(tools.functions, choice)
        items: str | list[Json] = self.input
        if history:
            own = [{"role": "user", "content": items}] if isinstance(items, str) else items
            items = [*history, *own]
        return Ask(
            model=self.model,
            thinking=thinking_of(
                options.canonical(self.model),
                model.profile,
                asked=None,
                effort=self.reasoning.effort if self.reasoning else None,
                default=True,
                param="reasoning.effort",
            ),
            messages=conversation(items, self.instructions, tools),
            tools=tools.functions,
            tool_choice=choice,
            parallel=self.parallel_tool_calls is not False,
            response_format=self._format(),
            sampling=self.sampling(),
            max_tokens=asking.positive(self.max_output_tokens, "max_output_tokens"),
            stop=asking.stop_strings(self.stop),
            top_logprobs=self._top_logprobs(),
        )

    def _refuse(self) -> None:
        refuse(
            self,
            {
                "background": "answers are not made in the background; use stream.",
                "conversation": "use previous_response_id.",
                "prompt": "there are no stored prompts; send instructions and input.",
            },
        )
        if self.truncation not in (None, "disabled"):
            raise invalid("truncation must be disabled: nothing is ever cut out of a conversation here.", "truncation")

    def _format(self) -> Json | None:
        form = self.text.format if self.text else None
        kind = None if form is None else form.get("type")
        if form is None or kind == "text":
            return None
        if kind == "json_object":
            return {"type": "json_object"}
        if kind != "json_schema":
            raise invalid("text.format must be of type text, json_object or json_schema.", "text.format")
        return schema_format(form.get("schema"), form.get("name"), "text.format.schema")

    def _top_logprobs(self) -> int | None:
        if not self.wants_logprobs:
            if self.top_logprobs:
                raise invalid(f"top_logprobs needs include: [{_LOGPROBS!r}].", "top_logprobs")
            return None
        return asking.top_logprobs(self.top_logprobs or 0, "top_logprobs")


@dataclass(frozen=True)
class Continued:
    """A request with the items that come before its input."""

    body: ResponsesRequest
    history: list[Json]

    def asks(self, model: ServedModel, options: ServerOptions) -> list[Ask]:
        """See `ResponsesRequest.ask`."""
        return [self.body.ask(model, options, self.history)]
