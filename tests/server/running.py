"""A server with a scripted engine, on a free port of this machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import uvicorn

import ds4_mlx
from ds4_mlx.engine.request import Engine
from ds4_mlx.server.app import create_app
from ds4_mlx.server.served import ServedModel, ServerOptions
from ds4_mlx.text import Tokenizer, load_tokenizer

from server.scripted_engine import HELLO, Script, ScriptedEngine

TINY = Path(ds4_mlx.__file__).parent / "models" / "ds4-tiny"


@cache
def tiny_tokenizer() -> Tokenizer:
    return load_tokenizer(TINY)


def tiny_model(**changes: Any) -> ServedModel:
    """ds4-tiny as the server sees it."""
    tokenizer = tiny_tokenizer()
    return replace(ServedModel(tokenizer, "0731", context=4096, vocab_size=tokenizer.vocab_size), **changes)


@dataclass
class Running:
    """url: the origin. engine: what answers."""

    url: str
    engine: Any
    client: httpx.Client
    service: Any

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    def lines(self, path: str, **body: Any) -> list[str]:
        """The lines of a stream."""
        with self.client.stream("POST", path, json={**body, "stream": True}) as response:
            assert response.status_code == 200, response.read()
            return list(response.iter_lines())


@contextmanager
def running(
    script: Script = HELLO,
    *,
    engine: Engine | None = None,
    model: ServedModel | None = None,
    max_queue: int | None = None,
    port: int = 0,
    **options: Any,
) -> Iterator[Running]:
    model = model or tiny_model()
    engine = engine or ScriptedEngine(model.tokenizer, script, max_queue=max_queue)
    app = create_app(engine, model, ServerOptions(**options))
    config = uvicorn.Config(app, "127.0.0.1", port, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=20) as client:
            yield Running(url, engine, client, app.state.service)
    finally:
        server.should_exit = True
        thread.join(10)


def until(condition: Any, seconds: float = 5.0) -> None:
    """Waits for something that another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
