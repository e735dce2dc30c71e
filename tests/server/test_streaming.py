"""Heartbeats, clients that go away, several at once."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from server.events import parse
from server.running import Running, running, tiny_model, until
from server.scripted_engine import Reply

HI = [{"role": "user", "content": "hi"}]
CHAT = ("/v1/chat/completions", {"model": "x", "messages": HI})
RESPONSES = ("/v1/responses", {"model": "x", "input": "hi"})
MESSAGES = ("/v1/messages", {"model": "x", "max_tokens": 100, "messages": HI})
COMPLETIONS = ("/v1/completions", {"model": "x", "prompt": "hi"})
ALL = [CHAT, RESPONSES, MESSAGES, COMPLETIONS]
SLOW = Reply("Hello.", "Hm.", prefill=0.1, chunks=5, cached=1)


@pytest.fixture(scope="module")
def slow():
    with running(SLOW, heartbeat=0.05) as server:
        yield server


def test_chat_beats_with_empty_deltas_and_progress(slow: Running) -> None:
    chunks = [chunk for chunk in parse(slow.lines(CHAT[0], **CHAT[1])) if chunk != "[DONE]"]
    beats = [chunk for chunk in chunks if chunk["choices"][0]["delta"] == {} and "progress" in chunk]
    assert len(beats) >= 5
    done = [beat["progress"]["done"] for beat in beats]
    assert done == sorted(done)
    assert beats[-1]["progress"]["total"] > done[0]


def test_chat_shows_each_step_where_it_is_asked_to() -> None:
    with running(Reply("x", chunks=4)) as server:
        chunks = parse(server.lines(CHAT[0], **CHAT[1], stream_options={"include_progress": True}))
        assert [chunk["progress"]["done"] for chunk in chunks if "progress" in chunk][-1] > 0
        assert sum("progress" in chunk for chunk in chunks) == 5


def test_messages_beat_in_the_block_that_will_go_on(slow: Running) -> None:
    events = parse(slow.lines(MESSAGES[0], **MESSAGES[1], thinking={"type": "adaptive"}))
    assert events[0]["type"] == "message_start"
    assert events[0]["message"]["usage"]["cache_read_input_tokens"] == 1
    empty = [e for e in events if e.get("delta") == {"type": "thinking_delta", "thinking": ""}]
    assert len(empty) >= 5
    starts = [e["content_block"]["type"] for e in events if e["type"] == "content_block_start"]
    assert starts == ["thinking", "text"]
    assert any("progress" in e for e in events if e["type"] == "ping")


def test_messages_without_thinking_beat_in_a_text_block(slow: Running) -> None:
    events = parse(slow.lines(MESSAGES[0], **MESSAGES[1]))
    assert len([e for e in events if e.get("delta") == {"type": "text_delta", "text": ""}]) >= 5
    assert [e["content_block"]["type"] for e in events if e["type"] == "content_block_start"] == ["text"]


def test_message_start_does_not_wait_for_ever_in_the_queue() -> None:
    with running(Reply("x"), heartbeat=0.05) as server:
        pieces = server.engine._pieces

        def late(request, reply):  # type: ignore[no-untyped-def]
            delayed = pieces(request, reply)
            _, first = next(delayed)
            yield 0.3, first
            yield from delayed

        server.engine._pieces = late
        events = parse(server.lines(MESSAGES[0], **MESSAGES[1]))
        assert events[0]["type"] == "message_start"
        # Claude Code counts by the start, not by the end: what is cached is not known yet, how long the prompt is is.
        assert events[0]["message"]["usage"]["input_tokens"] == events[-2]["usage"]["input_tokens"] > 0


def test_responses_beat_with_in_progress(slow: Running) -> None:
    events = parse(slow.lines(RESPONSES[0], **RESPONSES[1]))
    beats = [e for e in events if e["type"] == "response.in_progress"]
    assert len(beats) >= 6
    assert "progress" in beats[-1]
    assert [e["sequence_number"] for e in events] == list(range(len(events)))


def test_beats_go_on_while_tokens_are_slow() -> None:
    with running(Reply("one two", delay=0.3), heartbeat=0.05) as server:
        chunks = parse(server.lines(CHAT[0], **CHAT[1]))
        first = next(i for i, c in enumerate(chunks) if c["choices"][0]["delta"].get("content"))
        assert any(chunk["choices"][0]["delta"] == {} for chunk in chunks[first + 1 : -2])


def test_object_is_preceded_by_white_space_in_a_long_silence(slow: Running) -> None:
    for path, body in ALL:
        text = slow.post(path, **body).text
        assert text.startswith("\n")
        assert json.loads(text)


def test_failure_after_white_space_breaks_the_connection_off() -> None:
    with running(Reply("x", prefill=0.2, fail="gone"), heartbeat=0.05) as server:
        with pytest.raises(httpx.RemoteProtocolError):
            server.post(CHAT[0], **CHAT[1])
        assert server.client.get("/health").status_code == 200


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("path", "body"), ALL)
def test_work_ends_when_the_client_goes_away(path: str, body: dict, stream: bool) -> None:
    with running(Reply("word " * 1000, delay=0.05, prefill=0.2)) as server:
        host, port = server.url.removeprefix("http://").split(":")
        connection = socket.create_connection((host, int(port)))
        content = json.dumps({**body, "stream": stream}).encode()
        connection.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(content)))
        connection.sendall(content)
        until(lambda: server.engine.running == 1)
        connection.close()
        until(lambda: server.engine.cancelled == 1)
        until(lambda: server.service.metrics.active == 0)


def test_all_answers_end_when_the_client_goes_away() -> None:
    with running(Reply("word " * 1000, delay=0.05)) as server:
        with server.client.stream("POST", CHAT[0], json={**CHAT[1], "n": 3, "stream": True}) as response:
            next(response.iter_lines())
        until(lambda: server.engine.cancelled == 3)


def test_streams_go_on_side_by_side() -> None:
    with running(Reply("one two three four", delay=0.05)) as server:
        texts: list[str] = []

        def ask() -> None:
            with httpx.Client(base_url=server.url, timeout=20) as client:
                response = client.post(CHAT[0], json=CHAT[1])
                texts.append(response.json()["choices"][0]["message"]["content"])

        threads = [threading.Thread(target=ask) for _ in range(20)]
        for thread in threads:
            thread.start()
        until(lambda: server.engine.running > 5)
        for thread in threads:
            thread.join()
        assert texts == ["one two three four"] * 20


def test_stream_goes_on_while_a_long_prompt_is_encoded() -> None:
    with running(Reply("word " * 1000, delay=0.005), model=tiny_model(context=10**7)) as server:
        lines = 0

        def listen() -> None:
            nonlocal lines
            body = {**CHAT[1], "stream": True}
            with (
                suppress(httpx.RemoteProtocolError),  # the server stops before it ends
                httpx.Client(timeout=60) as client,
                client.stream("POST", server.url + CHAT[0], json=body) as response,
            ):
                for _ in response.iter_lines():
                    lines += 1

        threading.Thread(target=listen, daemon=True).start()
        until(lambda: lines > 0)
        long = [{"role": "user", "content": "lorem ipsum " * 100_000}]
        content = json.dumps({"model": "x", "messages": long})
        before = lines
        assert server.client.post("/v1/messages/count_tokens", content=content).status_code == 200
        assert lines > before + 10


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("path", "body"), [CHAT, RESPONSES, MESSAGES])
def test_answer_that_the_servers_end_cuts_off_says_so(path: str, body: dict, stream: bool) -> None:
    responses: list[httpx.Response] = []
    with running(Reply("word " * 1000, delay=0.05)) as server:

        def ask() -> None:
            responses.append(httpx.post(server.url + path, json={**body, "stream": stream}, timeout=60))

        client = threading.Thread(target=ask)
        client.start()
        until(lambda: server.engine.running == 1)
    client.join()
    assert server.engine.cancelled == 1
    assert "shutting down" in responses[0].text
    assert responses[0].status_code == (200 if stream else 529 if path == MESSAGES[0] else 503)


def test_trace_holds_requests_and_answers(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    with running(Reply("Hello.", calls=[("f", {"a": 1})]), trace=trace, api_key="sesame") as server:
        headers = {"x-api-key": "sesame"}
        server.client.post(CHAT[0], json={**CHAT[1], "unknown": 1}, headers=headers)
        server.client.post(CHAT[0], json={**CHAT[1], "temperature": -1}, headers=headers)
    done, refused = [json.loads(line) for line in trace.read_text().splitlines()]
    assert done["request"]["unknown"] == 1
    assert done["answers"][0]["content"] == "Hello."
    assert done["answers"][0]["calls"][0]["name"] == "f"
    assert "temperature" in refused["error"]
    assert "sesame" not in trace.read_text()


def test_metrics_count_answers_and_tokens() -> None:
    with running(Reply("Hello.", cached=2), stats=lambda: {"queued": 3}) as server:
        server.post(CHAT[0], **CHAT[1])
        server.post(MESSAGES[0], **{**MESSAGES[1], "max_tokens": 0})
        page = server.client.get("/metrics").text
        assert 'ds4_answers_total{api="chat",outcome="done"} 1.0' in page
        assert 'ds4_http_responses_total{path="/v1/messages",status="400"} 1.0' in page
        assert 'ds4_tokens_total{kind="cached"} 2.0' in page
        assert "ds4_engine_queued 3.0" in page
        assert server.client.get("/health").json()["queued"] == 3
