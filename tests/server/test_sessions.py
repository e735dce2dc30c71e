"""GET /sessions and /sessions/{reference}."""

from __future__ import annotations

from pathlib import Path

from ds4_mlx.cache.store import SessionStore

from server.running import running
from server.saved_sessions import head, store_with

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
CALL = {"type": "function", "id": "call_1", "function": {"name": "add", "arguments": "{}"}}
TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello.", "reasoning_content": "A guest."}]


def test_the_list_has_the_last_used_first(tmp_path: Path) -> None:
    store = store_with(tmp_path / "kv", head(1, TALK, title="hi"), head(2, None, name="notes"), head(3, TALK))
    with running(sessions=store) as server:
        listed = server.client.get("/sessions", params={"limit": 2}).json()
    assert [one["id"] for one in listed["data"]] == ["00000003", "00000002"]
    assert listed["total"] == 3
    assert listed["data"][1] == {
        "id": "00000002",
        "name": "notes",
        "title": "",
        "model": "ds4-tiny",
        "tokens": 102,
        "bytes": 5000,
        "created": 1.7e9,
        "used": 1.7e9 + 2,
    }


def test_an_opened_session_can_be_sent_back(tmp_path: Path) -> None:
    held = [
        {"role": "system", "content": "", "tools": [TOOL]},
        {"role": "user", "content": "add"},
        {"role": "assistant", "content": "", "reasoning_content": "Well.", "tool_calls": [CALL], "calls_text": "<x>"},
        {"role": "tool", "tool_call_id": "call_1", "content": "3"},
        {"role": "assistant", "content": "3", "wo_eos": True},
    ]
    with running(sessions=store_with(tmp_path / "kv", head(1, held, options={"thinking": True}))) as server:
        session = server.client.get("/sessions/0000").json()
        assert session["thinking"] is True
        assert session["tools"] == [TOOL]
        assert [message["role"] for message in session["messages"]] == ["user", "assistant", "tool", "assistant"]
        assert not any({"calls_text", "wo_eos"} & set(message) for message in session["messages"])
        messages = [*session["messages"], {"role": "user", "content": "thanks"}]
        answer = server.post("/v1/chat/completions", model="x", messages=messages, tools=session["tools"])
        assert answer.status_code == 200, answer.text
        kept = server.engine.requests[0].keeping.messages
    assert kept[0]["tools"][0]["function"] == TOOL["function"]


def test_a_session_that_is_a_text_has_no_messages(tmp_path: Path) -> None:
    with running(sessions=store_with(tmp_path / "kv", head(1, None))) as server:
        session = server.client.get("/sessions/00000001").json()
    assert session["messages"] is None
    assert session["thinking"] is None


def test_no_such_session_is_a_404(tmp_path: Path) -> None:
    for sessions in (None, SessionStore(tmp_path / "none")):
        with running(sessions=sessions) as server:
            assert server.client.get("/sessions").json()["data"] == []
            response = server.client.get("/sessions/ffff")
        assert response.status_code == 404
        assert "'ffff'" in response.json()["error"]["message"]


def test_sessions_need_the_key(tmp_path: Path) -> None:
    with running(sessions=store_with(tmp_path / "kv", head(1, TALK)), api_key="sesame") as server:
        for path in ("/sessions", "/sessions/00000001"):
            assert server.client.get(path).status_code == 401
            assert server.client.get(path, headers={"x-api-key": "sesame"}).status_code == 200


def test_the_api_page_describes_them() -> None:
    with running() as server:
        paths = server.client.get("/openapi.json").json()["paths"]
    assert set(paths["/sessions"]) == set(paths["/sessions/{reference}"]) == {"get"}
