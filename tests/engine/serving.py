"""Requests to a scheduler, and what comes back, for tests and load scripts."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ds4_mlx.cache.store import SessionStore
from ds4_mlx.engine.language_model import LanguageModel
from ds4_mlx.engine.request import Done, Failed, Piece, Progress, Request, Text
from ds4_mlx.engine.sampling import SamplingOptions
from ds4_mlx.engine.scheduler import Scheduler
from ds4_mlx.engine.work import Work
from ds4_mlx.model.rope import Rope
from ds4_mlx.model.transformer import BlockStack


class Client:
    """Sends one request and gathers its pieces."""

    def __init__(
        self, engine: Scheduler, prompt: list[int], *, cancel_after: int | None = None, **options: Any
    ) -> None:
        self.pieces: list[Piece] = []
        self._ended = threading.Event()
        self._cancel_after = cancel_after
        sampling = {k: options.pop(k) for k in list(options) if k in SamplingOptions.__dataclass_fields__}
        options.setdefault("raw", True)
        request = Request(prompt, SamplingOptions(**{"temperature": 0.0, **sampling}), **options)
        self.ticket: Work | None = None
        self.ticket = engine.submit(request, self._deliver)

    def _deliver(self, piece: Piece) -> None:
        self.pieces.append(piece)
        if isinstance(piece, (Done, Failed)):
            self._ended.set()
        elif self._cancel_after is not None and len(self.pieces) > self._cancel_after and self.ticket is not None:
            self.ticket.cancel()

    def wait(self, seconds: float = 60) -> Client:
        """Until the answer is over."""
        assert self._ended.wait(seconds), self.pieces
        return self

    @property
    def is_over(self) -> bool:
        return self._ended.is_set()

    @property
    def ids(self) -> list[int]:
        return [
            token.id for piece in self.pieces if not isinstance(piece, (Progress, Failed)) for token in piece.tokens
        ]

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces if isinstance(piece, Text))

    @property
    def progress(self) -> list[Progress]:
        return [piece for piece in self.pieces if isinstance(piece, Progress)]

    @property
    def done(self) -> Done:
        last = self.wait().pieces[-1]
        assert isinstance(last, Done), last
        return last

    @property
    def failed(self) -> str:
        last = self.wait().pieces[-1]
        assert isinstance(last, Failed), last
        return last.message


def twin(model: LanguageModel, store: SessionStore, cache_bytes: int | None = None) -> LanguageModel:
    """The same weights with nothing in memory."""
    other = LanguageModel(model.checkpoint, model.tokenizer, model.numerics, cache_bytes, store)
    other._network = model.network
    return other


def shallow(model: LanguageModel, store: SessionStore) -> LanguageModel:
    """Its first four layers as a model: one of each kind, and quick."""
    checkpoint = copy.copy(model.checkpoint)
    config = replace(model.config, num_hidden_layers=4, compress_ratios=(0, 0, 4, 128, 0))
    object.__setattr__(checkpoint, "config", config)
    other = LanguageModel(checkpoint, model.tokenizer, model.numerics, store=store)
    other._network = copy.copy(model.network)
    other._network.layers = model.network.layers[:4]
    ropes = Rope.for_layer(config, 0), Rope.for_layer(config, 4)
    other._network._stack = BlockStack(other._network.layers, config, *ropes)
    return other


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Waits for something that another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


class Calls:
    """Looks on as a model is called: the lengths of the parts of each call. `hold` keeps it from going on."""

    def __init__(self, model: LanguageModel) -> None:
        self.parts: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self._forward = model.forward
        model.forward = self._call  # type: ignore[method-assign]

    def _call(self, parts: list[Any], **options: Any) -> Any:
        assert self.gate.wait(60)
        self.parts.append([len(ids) for _, ids in parts])
        return self._forward(parts, **options)
