"""/v1/responses: requests as Codex and the SDK send them in, events and objects out, and what is stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ds4_mlx.server.responses_store import ResponsesStore, Stored
from ds4_mlx.server.responses_tools import InputReader

from server.events import names, parse
from server.running import Running, running
from server.scripted_engine import Reply

PATH = "/v1/responses"
SHELL = {"type": "function", "name": "shell", "parameters": {"type": "object"}, "strict": False}
PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: x"},
}
AGENTS = {"type": "namespace", "name": "agents", "tools": [{"type": "function", "name": "spawn", "parameters": {}}]}


@pytest.fixture(scope="module")
def calling():
    with running(Reply("Sure.", "Let me think.", [("shell", {"cmd": "ls"})], cached=2)) as server:
        yield server


def prompt_of(server: Running) -> str:
    return server.engine.tokenizer.decode(server.engine.requests[-1].prompt)


def test_stream_has_every_event_of_every_item(calling: Running) -> None:
    lines = calling.lines(PATH, model="ds4", input="hi", tools=[SHELL])
    assert names(lines) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    events = parse(lines)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == events[-1]["response"]["output"]
    assert done[0]["content"] == [{"type": "reasoning_text", "text": "Let me think."}]
    assert done[1]["content"][0]["text"] == "Sure."
    assert done[2]["arguments"] == '{"cmd": "ls"}'
    assert {item.get("status", "completed") for item in done} == {"completed"}


def test_object_says_the_same_as_the_stream(calling: Running) -> None:
    whole = calling.post(PATH, model="ds4", input="hi").json()
    streamed = parse(calling.lines(PATH, model="ds4", input="hi"))[-1]["response"]

    def shape(response: dict) -> list:
        fields = ("type", "role", "content", "arguments", "name", "status")
        return [{key: item.get(key) for key in fields} for item in response["output"]]

    assert shape(whole) == shape(streamed)
    assert whole["status"] == "completed"
    assert whole["usage"] == streamed["usage"]
    assert whole["usage"]["input_tokens_details"]["cached_tokens"] == 2


def test_reasoning_as_summary_and_sealed(calling: Running) -> None:
    body = {"model": "ds4", "reasoning": {"summary": "auto"}, "include": ["reasoning.encrypted_content"]}
    events = parse(calling.lines(PATH, input="hi", **body))
    kinds = [event["type"] for event in events]
    assert "response.reasoning_summary_text.delta" in kinds
    assert "response.reasoning_summary_part.done" in kinds
    item = events[-1]["response"]["output"][0]
    assert item["summary"] == [{"type": "summary_text", "text": "Let me think."}]
    # Either place is enough to have the reasoning back.
    call = {"type": "function_call", "call_id": "c", "name": "shell", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": "ok"}
    for kept in ({**item, "summary": []}, {**item, "encrypted_content": None}):
        said = [{"role": "user", "content": "hi"}, kept, call, output]
        assert calling.post(PATH, input=said, tools=[SHELL], **body).status_code == 200
        assert "Let me think.</think>" in prompt_of(calling)


def test_custom_tool_and_namespace_come_back_as_what_they_were() -> None:
    calls = [("apply_patch", {"input": "*** Begin\n"}), ("spawn", {"x": 1})]
    with running(Reply(calls=calls)) as server:
        tools = [PATCH, AGENTS, {"type": "web_search"}, {"type": "tool_search", "execution": "client"}]
        events = parse(server.lines(PATH, model="ds4", input="hi", tools=tools))
        custom, spawn = events[-1]["response"]["output"]
        assert (custom["type"], custom["name"], custom["input"]) == ("custom_tool_call", "apply_patch", "*** Begin\n")
        assert (spawn["type"], spawn["name"], spawn["namespace"]) == ("function_call", "spawn", "agents")
        inputs = [e["delta"] for e in events if e["type"] == "response.custom_tool_call_input.delta"]
        assert "".join(inputs) == "*** Begin\n"
        assert "start: x" in prompt_of(server)
        answers = [
            {"type": "custom_tool_call_output", "call_id": custom["call_id"], "output": "patched"},
            {
                "type": "function_call_output",
                "call_id": spawn["call_id"],
                "output": [{"type": "input_text", "text": "s"}],
            },
        ]
        said = [{"type": "message", "role": "user", "content": "hi"}, custom, spawn, *answers]
        assert server.post(PATH, model="ds4", input=said, tools=tools).status_code == 200
        assert "*** Begin\n" in prompt_of(server)
        assert "<tool_result>patched</tool_result>" in prompt_of(server)


@pytest.mark.parametrize("text", ["", "plain", 'a "b" \\ \n\t/', "é 北京 👩‍👩‍👧", "\x00\x1f\u2028"])
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_custom_input_is_read_in_pieces(text: str, ascii_only: bool, size: int) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=ascii_only)
    reader = InputReader()
    pieces = [reader.feed(arguments[start : start + size]) for start in range(0, len(arguments), size)]
    assert "".join(pieces) == reader.text == text


def test_cut_call_is_not_done(calling: Running) -> None:
    events = parse(calling.lines(PATH, model="ds4", input="hi", max_output_tokens=10))
    last = events[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert last["response"]["output"][-1]["status"] == "incomplete"
    done = [event["item"]["type"] for event in events if event["type"] == "response.output_item.done"]
    assert "function_call" not in done


def test_stored_response_is_continued_read_and_deleted(calling: Running) -> None:
    first = calling.post(PATH, model="ds4", input="my name is Ada", instructions="be brief").json()
    call_id = first["output"][-1]["call_id"]
    output = [{"type": "function_call_output", "call_id": call_id, "output": "ok"}]
    second = calling.post(PATH, model="ds4", input=output, previous_response_id=first["id"], tools=[SHELL])
    assert second.status_code == 200
    assert "my name is Ada" in prompt_of(calling)
    assert "be brief" not in prompt_of(calling)  # instructions are of one response only
    assert calling.client.get(f"{PATH}/{first['id']}").json() == first
    items = calling.client.get(f"{PATH}/{second.json()['id']}/input_items").json()["data"]
    assert items == output
    assert calling.client.delete(f"{PATH}/{first['id']}").json()["deleted"] is True
    assert calling.client.get(f"{PATH}/{first['id']}").status_code == 404
    refused = calling.post(PATH, model="ds4", input="x", previous_response_id=first["id"])
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "previous_response_id"


def test_store_false_keeps_nothing(calling: Running) -> None:
    answer = calling.post(PATH, model="ds4", input="hi", store=False).json()
    assert calling.client.get(f"{PATH}/{answer['id']}").status_code == 404


def test_store_survives_a_restart(tmp_path: Path) -> None:
    with running(responses=tmp_path / "r.sqlite3") as server:
        first = server.post(PATH, model="ds4", input="my name is Ada").json()
    with running(responses=tmp_path / "r.sqlite3") as server:
        again = server.post(PATH, model="ds4", input="and?", previous_response_id=first["id"])
        assert again.status_code == 200
        assert "my name is Ada" in prompt_of(server)


def test_store_is_bounded_and_keeps_what_is_in_use(tmp_path: Path) -> None:
    store = ResponsesStore(tmp_path / "r.sqlite3", budget=10_000)
    for number in range(12):
        previous = "r0" if number == 11 else None
        store.put(f"r{number}", Stored(previous, [{"text": "x" * 1000}], {"output": []}))
        store.flush()
        store.items("r0")
        store.flush()
    assert store.get("r0") is not None
    assert store.get("r1") is None
    assert store.items("r11") == [{"text": "x" * 1000}] * 2
    store.close()


def test_damaged_store_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite3"
    path.write_bytes(b"not a database" * 1000)
    store = ResponsesStore(path)
    store.put("a", Stored(None, [], {"output": []}))
    store.close()
    assert [p.read_bytes()[:5] for p in tmp_path.glob("*damaged*")] == [b"not a"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("background", True),
        ("conversation", "conv_1"),
        ("prompt", {"id": "p"}),
        ("truncation", "auto"),
        ("text", {"format": {"type": "xml"}}),
        ("reasoning", {"effort": "huge"}),
        ("max_output_tokens", 0),
        ("top_logprobs", 3),
        ("tool_choice", {"type": "file_search"}),
        ("previous_response_id", "resp_nobody"),
        ("input", []),
        ("input", [{"type": "item_reference", "id": "x"}]),
        ("input", [{"type": "mystery"}]),
        ("input", [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]),
        ("tools", [{"name": "x"}]),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(calling: Running, field: str, value: object) -> None:
    response = calling.post(PATH, **{"model": "ds4", "input": "hi", field: value})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"].startswith(field)


def test_what_codex_sends_is_accepted(calling: Running) -> None:
    message = {"type": "message", "id": "m" * 40}
    body = {
        "model": "ds4",
        "input": [
            {**message, "role": "developer", "content": [{"type": "input_text", "text": "You are Codex."}]},
            {**message, "role": "developer", "content": [{"type": "input_text", "text": "Permissions."}]},
            {**message, "role": "user", "content": [{"type": "input_text", "text": "cwd"}]},
            {**message, "role": "user", "content": [{"type": "input_text", "text": "list"}]},
        ],
        "tools": [SHELL, PATCH, AGENTS],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "uuid",
        "client_metadata": {"x": "y"},
        "text": {"verbosity": "low"},
    }
    assert calling.post(PATH, **body).status_code == 200
    prompt = prompt_of(calling)
    assert prompt.index("You are Codex.\n\nPermissions.") < prompt.index("## Tools") < prompt.index("cwd\n\nlist")
