"""/v1/messages: requests as Claude Code sends them in, events and objects out."""

from __future__ import annotations

import pytest

from server.events import names, parse
from server.running import Running, running
from server.scripted_engine import Reply

PATH = "/v1/messages"
HI = [{"role": "user", "content": "hi"}]
READ = {"name": "Read", "description": "reads", "input_schema": {"type": "object"}}
ASK = {"model": "claude-opus-4-8", "max_tokens": 100, "messages": HI}


@pytest.fixture(scope="module")
def calling():
    with running(Reply("Sure.", "Let me think.", [("Read", {"path": "a"}), ("Read", {})], cached=2)) as server:
        yield server


def test_object_has_blocks_in_order(calling: Running) -> None:
    answer = calling.post(PATH, **ASK, thinking={"type": "adaptive"}, tools=[READ]).json()
    assert [block["type"] for block in answer["content"]] == ["thinking", "text", "tool_use", "tool_use"]
    assert answer["content"][0]["thinking"] == "Let me think."
    assert answer["content"][2]["input"] == {"path": "a"}
    assert answer["content"][2]["id"].startswith("toolu_")
    assert answer["stop_reason"] == "tool_use"
    assert answer["model"] == "claude-opus-4-8"


def test_stream_opens_and_closes_each_block(calling: Running) -> None:
    lines = calling.lines(PATH + "?beta=true", **ASK, thinking={"type": "enabled", "budget_tokens": 50}, tools=[READ])
    assert names(lines) == [
        "message_start",
        "ping",
        *["content_block_start", "content_block_delta", "content_block_stop"] * 3,
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    events = parse(lines)
    assert [e["content_block"]["type"] for e in events if e["type"] == "content_block_start"] == [
        "thinking",
        "text",
        "tool_use",
        "tool_use",
    ]
    assert [e["index"] for e in events if e["type"] == "content_block_stop"] == [0, 1, 2, 3]
    pieces = [e["delta"]["partial_json"] for e in events if e.get("index") == 2 and "delta" in e]
    assert "".join(pieces) == '{"path": "a"}'


def test_counts_are_in_both_places(calling: Running) -> None:
    events = parse(calling.lines(PATH, **ASK))
    start, end = events[0]["message"]["usage"], events[-2]["usage"]
    assert start["cache_read_input_tokens"] == end["cache_read_input_tokens"] == 2
    assert start["input_tokens"] == end["input_tokens"] > 0
    assert end["output_tokens"] > 0
    total = calling.post(PATH + "/count_tokens", model="x", messages=HI).json()["input_tokens"]
    assert start["input_tokens"] + 2 == total


def test_no_thinking_unless_asked(calling: Running) -> None:
    blocks = calling.post(PATH, **ASK, output_config={"effort": "high"}).json()["content"]
    assert [block["type"] for block in blocks] == ["text", "tool_use", "tool_use"]


def test_stop_sequence_is_named() -> None:
    with running(Reply("one two three")) as server:
        answer = server.post(PATH, **ASK, stop_sequences=[" two"]).json()
        assert answer["stop_reason"] == "stop_sequence"
        assert answer["stop_sequence"] == " two"
        assert answer["content"] == [{"type": "text", "text": "one"}]


def test_length_is_max_tokens() -> None:
    with running(Reply("one two three")) as server:
        assert server.post(PATH, **{**ASK, "max_tokens": 1}).json()["stop_reason"] == "max_tokens"


def test_what_claude_code_sends_is_accepted(calling: Running) -> None:
    body = {
        **ASK,
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.197.ca0"},
            {"type": "text", "text": "You are Claude Code.", "cache_control": {"type": "ephemeral"}},
        ],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]},
            {"role": "system", "content": "Use the tools."},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": ""},
                    {"type": "tool_use", "id": "t1", "name": "Read", "input": {"path": "a"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "A"}]},
                    {"type": "text", "text": "go on"},
                ],
            },
        ],
        "tools": [READ, {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}],
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "xhigh"},
        "metadata": {"user_id": "{}"},
    }
    headers = {"anthropic-beta": "something-new-2027-01-01", "x-api-key": "any"}
    assert calling.client.post(PATH, json=body, headers=headers).status_code == 200
    prompt = calling.engine.tokenizer.decode(calling.engine.requests[-1].prompt)
    assert "billing" not in prompt
    assert "You are Claude Code." in prompt
    assert "Use the tools." in prompt.split("hi", 1)[1]
    assert "hm</think>" in prompt
    assert "<tool_result>A</tool_result>\n\ngo on" in prompt
    assert "web_search" not in prompt
    assert prompt.endswith("<think>")


def test_pictures_are_refused_unless_a_tool_brought_them(calling: Running) -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
    refused = calling.post(PATH, **{**ASK, "messages": [{"role": "user", "content": [picture]}]})
    assert refused.status_code == 400
    assert "images" in refused.json()["error"]["message"]
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [picture]}
    use = {"type": "tool_use", "id": "t1", "name": "Read", "input": {}}
    messages = [*HI, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    assert calling.post(PATH, **{**ASK, "messages": messages}).status_code == 200
    assert "[Unsupported image]" in calling.engine.tokenizer.decode(calling.engine.requests[-1].prompt)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", None),
        ("temperature", 200),
        ("top_p", -1),
        ("thinking", {"type": "maybe"}),
        ("thinking", {"type": "enabled", "budget_tokens": 0}),
        ("output_config", {"effort": "huge"}),
        ("output_config", {"format": {"type": "xml"}}),
        ("tool_choice", {"type": "some"}),
        ("tool_choice", {"type": "any"}),
        ("tools", [{"type": "computer_20250124", "name": "computer"}]),
        ("mcp_servers", [{"type": "url", "url": "x"}]),
        ("container", "x"),
        ("stop_sequences", [""]),
        ("messages", [{"role": "tool", "content": "x"}]),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(calling: Running, field: str, value: object) -> None:
    response = calling.post(PATH, **{**ASK, field: value})
    assert response.status_code == 400
    body = response.json()
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert field in body["error"]["message"]
