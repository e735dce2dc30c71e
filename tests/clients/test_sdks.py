"""OpenAI's and Anthropic's own clients against `ds4-mlx serve` with ds4-tiny. The long form, a table, is sdks.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from clients import structured
from clients.conversations import Chat, Conversation, Messages, Responses, StoredResponses
from clients.serving import Served, serving
from clients.toolbox import Toolbox


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("server")) as served:
        yield served


@pytest.mark.parametrize(
    ("api", "stream"), [(Chat, False), (Chat, True), (Responses, True), (StoredResponses, False), (Messages, True)]
)
def test_a_tool_is_called_and_its_result_told(
    server: Served, tmp_path: Path, api: type[Conversation], stream: bool
) -> None:
    talk = api(server.url, Toolbox(tmp_path / "files"), stream=stream)
    assert "buy milk and bread" in talk.say("What does notes.txt contain?")
    assert talk.toolbox.executed == ["read_file(notes.txt)"]
    calling, answering = talk.usages
    # All that was fed for the call is there for the answer; the last token of an answer is never fed.
    assert answering.cached >= calling.prompt + calling.generated - 1
    assert (talk.streamed > 3) == stream


@pytest.mark.parametrize("parse", [structured.chat, structured.responses, structured.messages])
def test_an_answer_is_parsed(server: Served, parse: Callable[[str], structured.Weather | None]) -> None:
    assert isinstance(parse(server.url), structured.Weather)


def test_a_completion_is_streamed(server: Served) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)
    options = {"model": "any", "prompt": "Once upon a time", "temperature": 0, "max_tokens": 6}
    whole = client.completions.create(**options)
    chunks = list(client.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text != ""
    assert chunks[-1].usage.completion_tokens == 6


def test_a_restarted_server_reads_only_what_is_new(tmp_path: Path) -> None:
    with serving(tmp_path / "server") as first:
        talk = Messages(first.url, Toolbox(tmp_path / "files"))
        talk.add_user("What does notes.txt contain?")
        talk.ask()
    with serving(tmp_path / "server") as second:
        talk.url = second.url
        assert "buy milk and bread" in talk.ask()[0]
    before, after = talk.usages
    assert after.cached >= before.prompt + before.generated - 1
