"""Figures for Prometheus. Every server has its own registry, so that tests can have many."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ds4_mlx.server.collected import Collected

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/models",
    "/sessions",
    "/health",
    "/metrics",
)


class Metrics:
    """The counters of one server."""

    def __init__(self, stats: Callable[[], dict[str, float]] | None = None) -> None:
        """stats: the engine's figures by name; each is a gauge."""
        self._registry = registry = CollectorRegistry()
        if stats is not None:
            registry.register(_EngineFigures(stats))
        self._responses = Counter("ds4_http_responses", "HTTP responses.", ["path", "status"], registry=registry)
        self._answers = Counter("ds4_answers", "Answers, by how they ended.", ["api", "outcome"], registry=registry)
        self._tokens = Counter("ds4_tokens", "Tokens: prompt, cached, generated.", ["kind"], registry=registry)
        self._active = Gauge("ds4_requests_active", "Requests being answered or waiting.", registry=registry)
        self._first = Histogram(
            "ds4_first_token_seconds", "From request to first token.", buckets=_SECONDS, registry=registry
        )
        self._whole = Histogram("ds4_answer_seconds", "From request to end.", buckets=_SECONDS, registry=registry)
        self.active = 0

    def responded(self, path: str, status: int) -> None:
        """An HTTP status went out."""
        self._responses.labels(path if path in _PATHS else "other", str(status)).inc()

    def began(self) -> None:
        """A request was accepted; `ended` will follow."""
        self.active += 1
        self._active.set(self.active)

    def ended(self, api: str, outcome: str, begun: float, answers: Sequence[Collected]) -> None:
        """A request ended, one way or the other. begun: when it came, by `time.perf_counter`."""
        self.active -= 1
        self._active.set(self.active)
        self._answers.labels(api, outcome).inc()
        self._whole.observe(time.perf_counter() - begun)
        first = [answer.first_at for answer in answers if answer.first_at is not None]
        if first:
            self._first.observe(min(first) - begun)
        self._tokens.labels("prompt").inc(sum(answer.prompt_tokens for answer in answers))
        self._tokens.labels("cached").inc(sum(answer.cached_tokens for answer in answers))
        self._tokens.labels("generated").inc(sum(answer.generated_tokens for answer in answers))

    def page(self) -> bytes:
        """What Prometheus reads."""
        return generate_latest(self._registry)


class _EngineFigures(Collector):
    """Asks the engine when Prometheus does."""

    def __init__(self, stats: Callable[[], dict[str, float]]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One gauge for each figure."""
        for name, value in self._stats().items():
            yield GaugeMetricFamily(f"ds4_engine_{name}", f"The engine's {name}.", value=value)
