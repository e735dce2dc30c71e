"""Each API's errors, in the words its clients act on."""

from __future__ import annotations

import httpx
import pytest

from ds4_mlx.engine.request import Request
from ds4_mlx.errors import UserError

from server.running import Running, running, tiny_model
from server.scripted_engine import Reply, ScriptedEngine

HI = [{"role": "user", "content": "hi"}]
CHAT = ("/v1/chat/completions", {"model": "x", "messages": HI})
RESPONSES = ("/v1/responses", {"model": "x", "input": "hi"})
MESSAGES = ("/v1/messages", {"model": "x", "max_tokens": 10, "messages": HI})


def post(server: Running, ask: tuple[str, dict], **more: object) -> httpx.Response:
    return server.post(ask[0], **{**ask[1], **more})


@pytest.fixture(scope="module")
def plain():
    with running() as server:
        yield server


@pytest.mark.parametrize("stream", [False, True])
def test_context_overflow_has_the_known_wordings(stream: bool) -> None:
    with running(model=tiny_model(context=20)) as server:
        long = "word " * 100
        chat = post(server, CHAT, messages=[{"role": "user", "content": long}], stream=stream)
        assert chat.status_code == 400
        assert chat.json()["error"]["code"] == "context_length_exceeded"
        assert "maximum context length is 19 tokens" in chat.json()["error"]["message"]
        responses = post(server, RESPONSES, input=long, stream=stream)
        assert responses.json()["error"]["code"] == "context_length_exceeded"
        messages = post(server, MESSAGES, messages=[{"role": "user", "content": long}], stream=stream)
        assert messages.status_code == 400
        error = messages.json()["error"]
        tokens = server.post(
            "/v1/messages/count_tokens", model="x", messages=[{"role": "user", "content": long}]
        ).json()
        assert error["message"] == f"prompt is too long: {tokens['input_tokens']} tokens > 19 maximum"


@pytest.mark.parametrize("header", [{"Authorization": "Bearer sésame"}, {}, {"x-api-key": "wrong"}])
def test_wrong_key_is_401(header: dict) -> None:
    with running(api_key="sesame") as server:
        header = {name: value.encode() for name, value in header.items()}
        for path, body in (CHAT, MESSAGES):
            response = server.client.post(path, json=body, headers=header)
            assert response.status_code == 401
            assert response.json()["error"]["type"] == "authentication_error"
        assert server.client.get("/v1/models", headers=header).status_code == 401
        assert server.client.get("/health").status_code == 200
        assert server.client.get("/").status_code == 200


@pytest.mark.parametrize("header", [{"Authorization": "Bearer sesame"}, {"x-api-key": "sesame"}])
def test_right_key_is_let_in(header: dict) -> None:
    with running(api_key="sesame") as server:
        for path, body in (CHAT, MESSAGES):
            assert server.client.post(path, json=body, headers=header).status_code == 200


def test_any_key_will_do_where_there_is_none(plain: Running) -> None:
    assert plain.client.post(CHAT[0], json=CHAT[1], headers={"x-api-key": "whatever"}).status_code == 200


def test_full_queue_is_429_with_retry_after() -> None:
    with running(Reply("x", prefill=5), max_queue=0) as server:
        for ask in (CHAT, RESPONSES, MESSAGES):
            response = post(server, ask)
            assert response.status_code == 429
            assert response.headers["retry-after"] == "7"
            assert response.json()["error"]["type"] == "rate_limit_error"


def test_when_one_of_several_answers_is_not_taken_none_is_made() -> None:
    with running(Reply("x", prefill=5), max_queue=2) as server:
        assert post(server, CHAT, n=3).status_code == 429
        assert server.engine.cancelled == 2


def test_failure_is_500_before_and_an_error_event_after_the_first_byte() -> None:
    with running(Reply("abc", fail="The GPU is gone.")) as server:
        for path, body in (CHAT, RESPONSES, MESSAGES):
            response = server.post(path, **body)
            assert response.status_code == 500
            assert response.json()["error"]["message"] == "The GPU is gone."
        assert '"error":{"message":"The GPU is gone."' in "".join(server.lines(CHAT[0], **CHAT[1]))
        assert '"type":"response.failed"' in "".join(server.lines(RESPONSES[0], **RESPONSES[1]))
        lines = server.lines(MESSAGES[0], **MESSAGES[1])
        assert "event: error" in lines
        assert '"type":"api_error","message":"The GPU is gone."' in "".join(lines)


def test_engine_that_refuses_is_a_400() -> None:
    class Refusing(ScriptedEngine):
        def submit(self, request: Request, deliver):  # type: ignore[no-untyped-def]
            raise UserError("This cannot be answered.")

    with running(engine=Refusing(tiny_model().tokenizer)) as server:
        assert post(server, CHAT).status_code == 400


def test_constraint_that_cannot_be_built_is_a_400() -> None:
    def refuse(*args: object, **options: object) -> None:
        raise UserError("This schema cannot be kept to.")

    with running(model=tiny_model(constrain=refuse)) as server:
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}
        response = post(server, CHAT, response_format=form, stream=True)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "response_format"


def test_mistake_of_ours_is_told_without_details() -> None:
    class Broken(ScriptedEngine):
        def submit(self, request: Request, deliver):  # type: ignore[no-untyped-def]
            raise RuntimeError("secret")

    with running(engine=Broken(tiny_model().tokenizer)) as server:
        for ask in (CHAT, MESSAGES):
            response = post(server, ask)
            assert response.status_code == 500
            assert "secret" not in response.text


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b'{"model": 1}', b"[" * 100_000, b'{"a": ' + b"1" * 5000 + b"}"]
)
def test_bodies_that_are_no_requests_are_400(plain: Running, body: bytes) -> None:
    for path in (CHAT[0], RESPONSES[0], MESSAGES[0], "/v1/completions", "/v1/messages/count_tokens"):
        response = plain.client.post(path, content=body)
        assert response.status_code == 400, path
        assert response.json()["error"]["message"]


def test_half_a_surrogate_pair_is_a_400(plain: Running) -> None:
    for path, body in (
        (CHAT[0], b'{"model": "x", "messages": [{"role": "user", "content": "\\ud800"}]}'),
        (MESSAGES[0], b'{"model": "x", "max_tokens": 5, "messages": [{"role": "\\ud800", "content": "x"}]}'),
        (CHAT[0], b'{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}'),
    ):
        assert plain.client.post(path, content=body).status_code == 400


def test_body_without_a_content_type_is_read(plain: Running) -> None:
    content = b'{"model": "x", "messages": [{"role": "user", "content": "hi"}]}'
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert plain.client.post(CHAT[0], content=content, headers=form).status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_large_body_is_413(chunked: bool) -> None:
    with running(body_limit=1000) as server:
        content = b"x" * 2000
        for path in (CHAT[0], MESSAGES[0]):
            response = server.client.post(path, content=iter([content]) if chunked else content)
            assert response.status_code == 413
        assert response.json()["error"]["type"] == "request_too_large"


def test_unknown_paths_and_methods_have_the_shape_of_their_api(plain: Running) -> None:
    missing = plain.client.get("/v1/nothing")
    assert missing.status_code == 404
    assert missing.json()["error"]["type"] == "not_found_error"
    wrong = plain.client.get("/v1/messages")
    assert wrong.status_code == 405
    assert wrong.json()["type"] == "error"


def test_every_response_has_an_id(plain: Running) -> None:
    for response in (post(plain, CHAT), post(plain, CHAT, temperature=-1), plain.client.get("/v1/nothing")):
        assert response.headers["request-id"] == response.headers["x-request-id"] != ""
    refused = post(plain, MESSAGES, max_tokens=0)
    assert refused.json()["request_id"] == refused.headers["request-id"]


def test_front_page_answers_get_and_head(plain: Running) -> None:
    assert plain.client.get("/").status_code == 200
    assert plain.client.head("/").status_code == 200


def test_models_have_the_keys_of_both_apis() -> None:
    with running(aliases={"gpt-local": "deepseek-chat"}) as server:
        models = server.client.get("/v1/models?limit=1000").json()
        assert [model["id"] for model in models["data"]][-1] == "gpt-local"
        one = server.client.get("/v1/models/deepseek-v4-flash").json()
        assert one["object"] == "model"
        assert one["type"] == "model"
        assert server.client.get("/v1/models/other").status_code == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "192.168.1.5"}, 200),
        ({"Host": "127.0.0.1:1", "Origin": "http://127.0.0.1:1"}, 200),
        ({"Origin": "https://page.example"}, 200),  # named by --cors
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example:8000"}, 403),  # a name that points here
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),
        ({"Host": "[", "Origin": "http://["}, 403),
    ],
)
def test_web_pages_of_others_are_not_let_in_without_a_key(headers: dict, status: int) -> None:
    with running(local=True, cors=("https://page.example",)) as server:
        for path, body in (CHAT, MESSAGES):
            assert server.client.post(path, json=body, headers=headers).status_code == status
        assert server.client.get("/v1/models", headers=headers).status_code == status


def test_with_a_key_any_host_will_do() -> None:
    with running(local=True, api_key="k") as server:
        headers = {"Host": "proxy.example", "Origin": "https://evil.example", "x-api-key": "k"}
        assert server.client.get("/v1/models", headers=headers).status_code == 200


def test_cors_lets_named_origins_in() -> None:
    with running(cors=("http://page.example",), api_key="k") as server:
        headers = {"Origin": "http://page.example", "Access-Control-Request-Method": "POST"}
        preflight = server.client.options(CHAT[0], headers=headers)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "http://page.example"
        refused = server.client.options(CHAT[0], headers={**headers, "Origin": "http://other.example"})
        assert "access-control-allow-origin" not in refused.headers
