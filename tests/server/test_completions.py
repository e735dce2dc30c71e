"""/v1/completions."""

from __future__ import annotations

import pytest

from server.events import parse
from server.running import Running, running
from server.scripted_engine import Reply

PATH = "/v1/completions"


@pytest.fixture(scope="module")
def counting():
    with running(Reply(" two three")) as server:
        yield server


def test_prompt_is_continued_as_it_is(counting: Running) -> None:
    answer = counting.post(PATH, model="ds4", prompt="one", max_tokens=50).json()
    assert answer["choices"][0]["text"] == " two three"
    request = counting.engine.requests[-1]
    assert request.raw
    assert counting.engine.tokenizer.decode(request.prompt) == "one"


def test_echo_puts_the_prompt_before_in_both_forms(counting: Running) -> None:
    body = {"model": "ds4", "prompt": "one", "max_tokens": 50, "echo": True}
    assert counting.post(PATH, **body).json()["choices"][0]["text"] == "one two three"
    chunks = [chunk for chunk in parse(counting.lines(PATH, **body)) if chunk != "[DONE]"]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "one two three"


def test_several_prompts_as_texts_and_as_ids(counting: Running) -> None:
    texts = counting.post(PATH, model="ds4", prompt=["a", "b"], n=2, max_tokens=5).json()
    assert [choice["index"] for choice in texts["choices"]] == [0, 1, 2, 3]
    ids = counting.post(PATH, model="ds4", prompt=[[5, 6], [7]], max_tokens=5).json()
    assert len(ids["choices"]) == 2
    assert [request.prompt for request in counting.engine.requests[-2:]] == [[5, 6], [7]]
    assert ids["usage"]["prompt_tokens"] == 3


def test_logprobs_are_lists(counting: Running) -> None:
    logprobs = counting.post(PATH, model="ds4", prompt="one", logprobs=1, max_tokens=50).json()["choices"][0][
        "logprobs"
    ]
    assert "".join(logprobs["tokens"]) == " two three"
    assert len(logprobs["token_logprobs"]) == len(logprobs["top_logprobs"]) == len(logprobs["text_offset"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("suffix", "end"),
        ("best_of", 3),
        ("prompt", ""),
        ("prompt", []),
        ("prompt", [[]]),
        ("prompt", [999999]),
        ("prompt", ["a"] * 40),
        ("logprobs", 100),
        ("max_tokens", 0),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(counting: Running, field: str, value: object) -> None:
    response = counting.post(PATH, **{"model": "ds4", "prompt": "one", field: value})
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith(field)
