"""`ds4-mlx serve`: what it refuses before it reads a weight, and one whole life with ds4-tiny."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from ds4_mlx.commands.serve import is_local, listen, plan, read_aliases, read_key
from ds4_mlx.engine.language_model import open_model
from ds4_mlx.errors import UserError


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("mac.local", False)],
)
def test_only_loopback_is_local(host: str, local: bool) -> None:
    assert is_local(host) is local


def test_public_address_without_a_key_is_refused() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "ds4_mlx.cli", "serve", "--host", "0.0.0.0"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "--insecure" in result.stderr
    assert "Traceback" not in result.stderr


def test_key_comes_from_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("sesame\n")
    assert read_key(None, path) == "sesame"
    with pytest.raises(UserError, match="not both"):
        read_key("x", path)
    with pytest.raises(UserError, match="cannot be read"):
        read_key(None, tmp_path / "missing")
    for wrong in ("", " ", "sésame"):
        with pytest.raises(UserError, match="printable ASCII"):
            read_key(wrong, None)


def test_aliases_are_for_our_names() -> None:
    assert read_aliases(["a", "b=deepseek-chat"]) == {"a": "deepseek-v4-flash", "b": "deepseek-chat"}
    with pytest.raises(UserError, match="expected NAME"):
        read_aliases(["a=gpt-9"])


def test_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(UserError, match="cannot be listened on"):
        listen("127.0.0.1", other.getsockname()[1])


def test_context_that_memory_does_not_hold_is_refused_with_numbers(tmp_path: Path) -> None:
    model = open_model(cache_bytes=2 << 20, kv_dir=tmp_path)
    with pytest.raises(UserError, match=r"1,000,000 tokens takes .* at most [\d,]+"):
        plan(model, 1_000_000, 8)
    context, lines = plan(model, None, 8)
    assert 2 <= context < 1_000_000
    assert f"{context:,}" in lines[-1]


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[str]:
    """A server process; SIGTERM at the end, which must end it well."""
    command = [sys.executable, "-m", "ds4_mlx.cli", "serve", "--port", "0", "--kv-dir", str(folder), *flags]
    environment = {**os.environ, "DS4_MLX_API_KEY": "sesame"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    try:
        url = None
        for line in process.stderr:
            found = re.search(r"on (http://\S+)", line)
            url = found[1] if found else url
            if "startup complete" in line:
                break
        assert url is not None
        yield url
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        process.stderr.read()
    finally:
        process.kill()
        process.stderr.close()


def test_second_turn_after_a_restart_reads_only_what_is_new(tmp_path: Path) -> None:
    tool = {
        "name": "add",
        "description": "Adds two numbers.",
        "input_schema": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    }
    ask = {"model": "ds4", "max_tokens": 200, "temperature": 0, "tools": [tool], "tool_choice": {"type": "any"}}
    said: list = [{"role": "user", "content": "What is 12 + 30?"}]
    with (
        serving(tmp_path, "--trace", str(tmp_path / "trace.jsonl")) as url,
        httpx.Client(base_url=url, timeout=120) as client,
    ):
        assert client.post("/v1/messages", json={**ask, "messages": said}).status_code == 401
        headers = {"x-api-key": "sesame"}
        first = client.post("/v1/messages", json={**ask, "messages": said}, headers=headers).json()
    use = first["content"][-1]
    assert use["type"] == "tool_use"
    read = first["usage"]["input_tokens"] + first["usage"]["output_tokens"]
    said += [
        {"role": "assistant", "content": first["content"]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use["id"], "content": "42"}]},
    ]
    with serving(tmp_path) as url, httpx.Client(base_url=url, timeout=120) as client:
        body = {**ask, "messages": said, "tool_choice": {"type": "auto"}}
        second = client.post("/v1/messages", json=body, headers=headers).json()
    assert second["usage"]["cache_read_input_tokens"] >= read - 1
    assert second["usage"]["input_tokens"] < 40
    trace = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    assert trace[0]["answers"][0]["calls"][0]["name"] == "add"
