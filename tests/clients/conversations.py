"""Conversations with tools through OpenAI's and Anthropic's own clients: one class for each API."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import anthropic
import openai

from clients.toolbox import Toolbox

ROUNDS = 4  # of calls in one turn


class Usage(NamedTuple):
    """What a request cost: tokens of its whole prompt, those of them that were cached, tokens generated."""

    prompt: int
    cached: int
    generated: int


class Conversation(ABC):
    """A conversation goes on over restarts of the server: `url` may change between turns."""

    def __init__(self, url: str, toolbox: Toolbox, *, stream: bool = False, model: str = "deepseek-chat") -> None:
        self.url = url
        self.toolbox = toolbox
        self.stream = stream
        self.model = model
        self.usages: list[Usage] = []
        self.streamed = 0  # pieces of text and arguments that came

    def say(self, text: str) -> str:
        """A user's turn; calls are executed until there is an answer in words, which is returned."""
        self.add_user(text)
        for _ in range(ROUNDS):
            answer, results = self.ask()
            if not results:
                return answer
        raise AssertionError(f"calls without end: {self.toolbox.executed}")

    @abstractmethod
    def add_user(self, text: str) -> None:
        """Appends what the user says."""

    @abstractmethod
    def ask(self) -> tuple[str, int]:
        """One request. Returns its text and how many calls were executed."""


class Chat(Conversation):
    """/v1/chat/completions"""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.messages: list[Any] = []

    def add_user(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})

    def ask(self) -> tuple[str, int]:
        client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0)
        options: Any = {
            "model": self.model,
            "messages": self.messages,
            "tools": self.toolbox.openai,
            "temperature": 0,
            "max_tokens": 200,
        }
        if self.stream:
            with client.chat.completions.stream(**options, stream_options={"include_usage": True}) as stream:
                for event in stream:
                    self.streamed += event.type in ("content.delta", "tool_calls.function.arguments.delta")
                completion: Any = stream.get_final_completion()
        else:
            completion = client.chat.completions.create(**options)
        message, usage = completion.choices[0].message, completion.usage
        self.usages.append(
            Usage(usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens, usage.completion_tokens)
        )
        self.messages.append(message.model_dump(exclude_none=True))
        calls = message.tool_calls or []
        assert (completion.choices[0].finish_reason == "tool_calls") == bool(calls)
        for call in calls:
            result = self.toolbox.run(call.function.name, json.loads(call.function.arguments))
            self.messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        return message.content or "", len(calls)


class Responses(Conversation):
    """/v1/responses, the whole conversation each time, as Codex does it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.items: list[Any] = []

    def add_user(self, text: str) -> None:
        self.items.append({"role": "user", "content": text})

    def request(self) -> dict[str, Any]:
        return {"input": self.items}

    def ask(self) -> tuple[str, int]:
        client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0)
        options: Any = {
            "model": self.model,
            "tools": self.toolbox.responses,
            "temperature": 0,
            "max_output_tokens": 200,
            **self.request(),
        }
        if self.stream:
            with client.responses.stream(**options) as stream:
                for event in stream:
                    self.streamed += event.type in (
                        "response.output_text.delta",
                        "response.function_call_arguments.delta",
                    )
                response: Any = stream.get_final_response()
        else:
            response = client.responses.create(**options)
        usage = response.usage
        self.usages.append(Usage(usage.input_tokens, usage.input_tokens_details.cached_tokens, usage.output_tokens))
        self.received(response)
        calls = [item for item in response.output if item.type == "function_call"]
        for call in calls:
            result = self.toolbox.run(call.name, json.loads(call.arguments))
            self.items.append({"type": "function_call_output", "call_id": call.call_id, "output": result})
        return response.output_text, len(calls)

    def received(self, response: Any) -> None:
        self.items += [item.model_dump(exclude_none=True) for item in response.output]


class StoredResponses(Responses):
    """/v1/responses, where the server keeps the conversation (previous_response_id)."""

    previous: str | None = None

    def request(self) -> dict[str, Any]:
        items, self.items = self.items, []
        return {"input": items, "previous_response_id": self.previous}

    def received(self, response: Any) -> None:
        self.previous = response.id


class Messages(Conversation):
    """/v1/messages"""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.messages: list[Any] = []

    def add_user(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})

    def ask(self) -> tuple[str, int]:
        client = anthropic.Anthropic(base_url=self.url, api_key="any", max_retries=0)
        options: Any = {
            "model": self.model,
            "messages": self.messages,
            "tools": self.toolbox.anthropic,
            "max_tokens": 200,
            "extra_body": {"temperature": 0},  # version 2 of the SDK has no argument for it
        }
        counted = client.messages.count_tokens(
            model=self.model, messages=self.messages, tools=options["tools"]
        ).input_tokens
        if self.stream:
            with client.messages.stream(**options) as stream:
                for event in stream:
                    self.streamed += event.type in ("text", "input_json")
                message: Any = stream.get_final_message()
        else:
            message = client.messages.create(**options)
        usage = message.usage
        prompt = usage.input_tokens + usage.cache_read_input_tokens
        assert counted == prompt, f"count_tokens said {counted}, the prompt had {prompt}"
        self.usages.append(Usage(prompt, usage.cache_read_input_tokens, usage.output_tokens))
        self.messages.append({"role": "assistant", "content": message.content})
        uses = [block for block in message.content if block.type == "tool_use"]
        assert (message.stop_reason == "tool_use") == bool(uses)
        if uses:
            results = [
                {"type": "tool_result", "tool_use_id": use.id, "content": self.toolbox.run(use.name, use.input)}
                for use in uses
            ]
            self.messages.append({"role": "user", "content": results})
        return "".join(block.text for block in message.content if block.type == "text"), len(uses)
