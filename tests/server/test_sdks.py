"""OpenAI's and Anthropic's own clients: streaming, tools, structured output, counts."""

from __future__ import annotations

import json

import anthropic
import openai
import pytest
from pydantic import BaseModel

from server.running import Running, running
from server.scripted_engine import Reply

HI = [{"role": "user", "content": "hi"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


class Place(BaseModel):
    """What the structured answers hold."""

    city: str
    people: int


def script(prompt: str, request: object) -> Reply:
    """Calls a tool once where there is one, then answers; JSON where a schema is shown."""
    if "## Response Format" in prompt:
        return Reply(json.dumps({"city": "Paris", "people": 2}))
    if "## Tools" in prompt and "<tool_result>" not in prompt:
        return Reply("Looking.", "I need the weather.", [("weather", {"city": "Paris"})], cached=5)
    return Reply("It is sunny.", "The tool said so.", cached=5)


@pytest.fixture(scope="module")
def server():
    with running(script) as running_server:
        yield running_server


@pytest.fixture
def gpt(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)


@pytest.fixture
def claude(server: Running) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.url, api_key="any", max_retries=0)


def test_openai_chat_stream(gpt: openai.OpenAI) -> None:
    with gpt.chat.completions.stream(model="ds4", messages=HI, stream_options={"include_usage": True}) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "It is sunny."
    assert final.usage is not None
    assert final.usage.prompt_tokens_details.cached_tokens == 5
    assert "".join(event.delta for event in events if event.type == "content.delta") == "It is sunny."


def test_openai_chat_tool_loop(gpt: openai.OpenAI, server: Running) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
    with gpt.chat.completions.stream(model="ds4", messages=HI, tools=[tool]) as stream:
        message = stream.get_final_completion().choices[0].message
    call = message.tool_calls[0]
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    said = [*HI, message.model_dump(exclude_none=True), result]
    answer = gpt.chat.completions.create(model="ds4", messages=said, tools=[tool])
    assert answer.choices[0].message.content == "It is sunny."
    assert "I need the weather.</think>" in server.engine.tokenizer.decode(server.engine.requests[-1].prompt)


def test_openai_chat_parse(gpt: openai.OpenAI) -> None:
    answer = gpt.chat.completions.parse(model="ds4", messages=HI, response_format=Place)
    assert answer.choices[0].message.parsed == Place(city="Paris", people=2)


def test_openai_responses_stream(gpt: openai.OpenAI) -> None:
    with gpt.responses.stream(model="ds4", input="hi") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text == "It is sunny."
    assert final.usage.input_tokens_details.cached_tokens == 5
    assert gpt.responses.retrieve(final.id).output_text == text


def test_openai_responses_tool_loop(gpt: openai.OpenAI) -> None:
    tool = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": True}
    with gpt.responses.stream(model="ds4", input="hi", tools=[tool]) as stream:
        first = stream.get_final_response()
    call = first.output[-1]
    assert json.loads(call.arguments) == {"city": "Paris"}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    by_id = gpt.responses.create(model="ds4", input=[result], previous_response_id=first.id, tools=[tool])
    echoed = [{"role": "user", "content": "hi"}, *[item.model_dump(exclude_none=True) for item in first.output], result]
    by_items = gpt.responses.create(model="ds4", input=echoed, tools=[tool])
    assert by_id.output_text == by_items.output_text == "It is sunny."


def test_openai_responses_parse(gpt: openai.OpenAI) -> None:
    answer = gpt.responses.parse(model="ds4", input="hi", text_format=Place)
    assert answer.output_parsed == Place(city="Paris", people=2)


def test_openai_completions_and_models(gpt: openai.OpenAI) -> None:
    answer = gpt.completions.create(model="ds4", prompt="The weather:", max_tokens=50)
    assert answer.choices[0].text == "It is sunny."
    assert "deepseek-v4-flash" in [model.id for model in gpt.models.list()]


def test_openai_errors_are_the_sdks_own(gpt: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature"):
        gpt.chat.completions.create(model="ds4", messages=HI, temperature=-1)
    with pytest.raises(openai.NotFoundError):
        gpt.responses.retrieve("resp_nobody")


def test_anthropic_stream_with_thinking(claude: anthropic.Anthropic) -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    with claude.messages.stream(model="ds4", max_tokens=2000, messages=HI, thinking=thinking) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == "It is sunny."
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert final.usage.cache_read_input_tokens == 5
    assert final.stop_reason == "end_turn"


def test_anthropic_tool_loop(claude: anthropic.Anthropic, server: Running) -> None:
    tool = {"name": "weather", "input_schema": PARAMETERS}
    options = {"model": "ds4", "max_tokens": 2000, "tools": [tool], "thinking": {"type": "adaptive"}}
    with claude.messages.stream(messages=HI, **options) as stream:
        first = stream.get_final_message()
    use = first.content[-1]
    assert use.input == {"city": "Paris"}
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
    said = [*HI, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    answer = claude.messages.create(messages=said, **options)
    assert answer.content[-1].text == "It is sunny."
    assert "I need the weather.</think>" in server.engine.tokenizer.decode(server.engine.requests[-1].prompt)


def test_anthropic_parse_and_count(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.parse(model="ds4", max_tokens=500, messages=HI, output_format=Place)
    assert answer.parsed_output == Place(city="Paris", people=2)
    assert claude.messages.count_tokens(model="ds4", messages=HI).input_tokens > 0
    assert "deepseek-v4-flash" in [model.id for model in claude.models.list()]


def test_anthropic_errors_are_the_sdks_own(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        claude.messages.create(model="ds4", max_tokens=5, messages=HI, extra_body={"temperature": -1})
