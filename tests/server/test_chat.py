"""/v1/chat/completions: requests in, chunks and objects out."""

from __future__ import annotations

from typing import Any

import pytest

from server.events import deltas, parse
from server.running import Running, running, tiny_model
from server.scripted_engine import Reply

PATH = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]
ADD = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def calling():
    """A server whose answers think, say something and call a tool twice."""
    calls = [("add", {"a": 1}), ("add", {"text": 'é "quoted"'})]
    with running(Reply("Sure.", "Let me think.", calls, cached=3)) as server:
        yield server


def test_object_has_reasoning_content_and_calls(calling: Running) -> None:
    answer = calling.post(PATH, model="ds4", messages=HI, tools=[ADD]).json()
    choice = answer["choices"][0]
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "ds4"
    assert choice["message"]["content"] == "Sure."
    assert choice["message"]["reasoning_content"] == "Let me think."
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["add", "add"]
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'
    assert choice["finish_reason"] == "tool_calls"


def test_stream_says_the_same_as_the_object(calling: Running) -> None:
    message = calling.post(PATH, model="ds4", messages=HI).json()["choices"][0]["message"]
    parts = deltas(calling.lines(PATH, model="ds4", messages=HI))
    assert parts[0] == {"role": "assistant", "content": ""}
    assert "".join(part.get("reasoning_content", "") for part in parts) == message["reasoning_content"]
    assert "".join(part.get("content", "") for part in parts) == message["content"]
    calls = [call for part in parts for call in part.get("tool_calls", [])]
    for index, whole in enumerate(message["tool_calls"]):
        mine = [call for call in calls if call["index"] == index]
        assert mine[0]["function"]["name"] == whole["function"]["name"]
        assert mine[0]["id"].startswith("call_")
        assert "".join(call["function"]["arguments"] for call in mine) == whole["function"]["arguments"]


def test_last_chunks_are_finish_reason_usage_and_done(calling: Running) -> None:
    events = parse(calling.lines(PATH, model="ds4", messages=HI, stream_options={"include_usage": True}))
    assert events[-1] == "[DONE]"
    assert events[-2]["choices"] == []
    assert events[-2]["usage"]["prompt_tokens_details"]["cached_tokens"] == 3
    assert events[-3]["choices"][0]["finish_reason"] == "tool_calls"


def test_usage_adds_up(calling: Running) -> None:
    usage = calling.post(PATH, model="ds4", messages=HI).json()["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_cache_hit_tokens"] + usage["prompt_cache_miss_tokens"] == usage["prompt_tokens"]
    assert 0 < usage["completion_tokens_details"]["reasoning_tokens"] < usage["completion_tokens"]


def test_several_answers_have_seeds_of_their_own() -> None:
    with running([Reply("one"), Reply("two")]) as server:
        answer = server.post(PATH, model="ds4", messages=HI, n=2, seed=5).json()
        assert [choice["message"]["content"] for choice in answer["choices"]] == ["one", "two"]
        assert [request.sampling.seed for request in server.engine.requests] == [5, 6]
        chunks = parse(server.lines(PATH, model="ds4", messages=HI, n=2))
        finished = [c["choices"][0]["index"] for c in chunks if c != "[DONE]" and c["choices"][0]["finish_reason"]]
        assert sorted(finished) == [0, 1]


def test_logprobs_in_both_forms() -> None:
    with running(Reply("Hello there.", "Hm.")) as server:
        body = {"model": "ds4", "messages": HI, "logprobs": True, "top_logprobs": 2}
        whole = server.post(PATH, **body).json()["choices"][0]["logprobs"]
        assert "".join(entry["token"] for entry in whole["content"]) == "Hello there."
        assert len(whole["content"][0]["top_logprobs"]) == 2
        assert bytes(whole["content"][0]["bytes"]).decode() == whole["content"][0]["token"]
        chunks = [c["choices"][0] for c in parse(server.lines(PATH, **body)) if c != "[DONE]"]
        streamed = [entry for c in chunks if c["logprobs"] for entry in c["logprobs"].get("content", [])]
        assert streamed == whole["content"]


def test_every_parameter_reaches_the_engine() -> None:
    with running() as server:
        given = {
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 7,
            "min_p": 0.1,
            "seed": 3,
            "presence_penalty": 0.5,
            "frequency_penalty": -0.5,
        }
        response = server.post(
            PATH, model="ds4", messages=HI, max_tokens=9, stop=["a", "b"], logit_bias={"5": -100}, **given
        )
        assert response.status_code == 200
        request = server.engine.requests[0]
        assert {name: getattr(request.sampling, name) for name in given} == given
        assert request.sampling.logit_bias == {5: -100.0}
        assert request.max_tokens == 9
        assert request.stop == ("a", "b")


def test_stop_string_and_length_are_told() -> None:
    with running(Reply("one two three four")) as server:
        stopped = server.post(PATH, model="ds4", messages=HI, stop=" three").json()["choices"][0]
        assert stopped["message"]["content"] == "one two"
        assert stopped["finish_reason"] == "stop"
        cut = server.post(PATH, model="ds4", messages=HI, max_completion_tokens=1).json()["choices"][0]
        assert cut["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1),
        ("temperature", "hot"),
        ("top_p", 1.5),
        ("top_k", -2),
        ("min_p", 2),
        ("seed", 2**64),
        ("n", 0),
        ("n", 1000),
        ("max_tokens", 0),
        ("max_completion_tokens", -5),
        ("presence_penalty", 3),
        ("frequency_penalty", -3),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"5": 101}),
        ("logit_bias", {"999999": 1}),
        ("stop", [""]),
        ("stop", ["x"] * 17),
        ("top_logprobs", 5),
        ("stream_options", {"include_usage": True}),
        ("tool_choice", "sometimes"),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "nobody"}}),
        ("response_format", {"type": "xml"}),
        ("response_format", {"type": "json_schema"}),
        ("reasoning_effort", "enormous"),
        ("thinking", {"type": "perhaps"}),
        ("functions", [{"name": "f"}]),
        ("function_call", "auto"),
        ("audio", {"voice": "x"}),
        ("modalities", ["text", "audio"]),
        ("prediction", {"type": "content", "content": "x"}),
        ("web_search_options", {"search_context_size": "low"}),
        ("messages", []),
        ("model", None),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(calling: Running, field: str, value: object) -> None:
    response = calling.post(PATH, **{"model": "ds4", "messages": HI, field: value})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith(field)
    assert field in error["message"]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user"}, "messages[0].content"),
        ({"role": "robot", "content": "x"}, "messages[0].role"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0]"),
        ({"role": "tool", "content": "x"}, "messages[0].tool_call_id"),
        ({"role": "assistant", "content": "x", "tool_calls": [{"id": "a"}]}, "messages[0].tool_calls[0]"),
    ],
)
def test_wrong_messages_are_named(calling: Running, message: dict, param: str) -> None:
    error = calling.post(PATH, model="ds4", messages=[message]).json()["error"]
    assert error["param"] == param
    assert error["message"].startswith("messages[0]")


def test_allowed_tools_are_a_choice_among_some() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in "fgh"]
    seen: list[tuple] = []

    def constrain(tokenizer: object, **options: Any) -> None:
        seen.append((options["tool_choice"], [tool["function"]["name"] for tool in options["tools"]]))

    with running(model=tiny_model(constrain=constrain)) as server:
        for mode, names in (("auto", "fh"), ("required", "g"), ("auto", "")):
            allowed = {"mode": mode, "tools": [{"type": "function", "function": {"name": name}} for name in names]}
            choice = {"type": "allowed_tools", "allowed_tools": allowed}
            assert server.post(PATH, model="x", messages=HI, tools=tools, tool_choice=choice).status_code == 200
    assert seen == [("auto", ["f", "h"]), ("required", ["g"]), ("none", ["f", "g", "h"])]


def test_unknown_keys_and_any_model_are_accepted(calling: Running) -> None:
    body = {"model": "gpt-6", "messages": HI, "metadata": {"a": "b"}, "user": "me", "something_new": 1, "store": False}
    answer = calling.post(PATH, **body)
    assert answer.status_code == 200
    assert answer.json()["model"] == "gpt-6"
