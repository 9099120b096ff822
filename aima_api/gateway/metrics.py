"""Prometheus metrics of a gateway: requests, tokens, times, and the health of instances as it sees them.

Times between the parts of a stream are counted by the stream itself and added when it ends: a histogram's lock per part
would cost more than passing it on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from aima_api.gateway.balancer import Backend
from aima_api.gateway.inference import FORMS, Inference
from aima_api.gateway.requests import ModelRequest
from aima_api.gateway.streams import Usage
from aima_api.http.server import ConnectionMetrics

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
"""Seconds until the first byte."""
GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
"""Seconds between two parts."""
_BOUNDS = [str(bound) for bound in GAPS]


class Gaps:
    """Times between the parts of one stream."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(GAPS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(GAPS, seconds)] += 1
        self.total += seconds


class GatewayMetrics:
    def __init__(self, *, backends: Callable[[], Iterable[Backend]], waiting: Callable[[], int]) -> None:
        registry = self._registry = CollectorRegistry()
        self.connections = ConnectionMetrics(registry)
        self.requests = Counter(
            "aima_gateway_requests",
            "Requests that were answered or whose client left (status 499).",
            ("operation", "model", "instance", "key", "status"),
            registry=registry,
        )
        self.refused = Counter(
            "aima_gateway_requests_refused", "Requests that reached no instance.", ("code",), registry=registry
        )
        self.tokens = Counter(
            "aima_gateway_tokens",
            "Tokens as engines count them; estimated by the parts of a stream that did not complete.",
            ("model", "key", "direction", "estimated"),
            registry=registry,
        )
        self.characters = Counter(
            "aima_gateway_speech_characters",
            "Characters of texts that were spoken.",
            ("model", "key"),
            registry=registry,
        )
        self.audio = Counter(
            "aima_gateway_audio_seconds",
            "Seconds of recordings that were transcribed or translated, as the engine or the file's WAV header states.",
            ("model", "key"),
            registry=registry,
        )
        self.first_byte = Histogram(
            "aima_gateway_first_byte_seconds",
            "From a request until the first byte of its answer.",
            ("model", "instance"),
            buckets=BUCKETS,
            registry=registry,
        )
        self.retries = Counter(
            "aima_gateway_retries", "Requests sent to another instance.", ("model", "instance"), registry=registry
        )
        self.cool_downs = Counter(
            "aima_gateway_cool_downs", "Times that an instance was left out.", ("instance", "reason"), registry=registry
        )
        self.aborted = Counter(
            "aima_gateway_aborted", "Requests whose client left.", ("model", "instance"), registry=registry
        )
        # Caches of their children by labels: to look one up costs more than to count.
        self._requests_of = cache(self.requests.labels)
        self._first_byte_of = cache(self.first_byte.labels)
        self._tokens_of = cache(self.tokens.labels)
        self._gaps: dict[tuple[str, str], Gaps] = {}
        ProcessCollector(registry=registry)
        registry.register(_Instances(self._gaps, backends, waiting))

    def add_gaps(self, backend: Backend, gaps: Gaps) -> None:
        total = self._gaps.setdefault((backend.model, backend.instance), Gaps())
        total.counts = [a + b for a, b in zip(total.counts, gaps.counts, strict=True)]
        total.total += gaps.total

    def count_request(self, operation: str, model: str, instance: str, key: str, status: int) -> None:
        self._requests_of(operation, model, instance, key, status).inc()

    def observe_first_byte(self, backend: Backend, seconds: float) -> None:
        self._first_byte_of(backend.model, backend.instance).observe(seconds)

    def add_tokens(self, backend: Backend, key: str, usage: Usage) -> None:
        estimated = "true" if usage.estimated else "false"
        for direction, number in (("input", usage.input), ("output", usage.output)):
            if number:
                self._tokens_of(backend.model, key, direction, estimated).inc(number)

    def add_audio(self, backend: Backend, key: str, request: ModelRequest, usage: Usage) -> None:
        """Of an answered request. A duration that neither the engine nor the file states is not counted."""
        if request.operation is Inference.SPEECH and (characters := request.characters()):
            self.characters.labels(backend.model, key).inc(characters)
        elif request.operation in FORMS and (seconds := usage.audio_seconds or request.audio_seconds()):
            self.audio.labels(backend.model, key).inc(seconds)

    def read(self) -> bytes:
        return generate_latest(self._registry)


class _Instances(Collector):
    """Gauges of the balancer, read at each scrape."""

    def __init__(
        self,
        gaps: dict[tuple[str, str], Gaps],
        backends: Callable[[], Iterable[Backend]],
        waiting: Callable[[], int],
    ) -> None:
        self._gaps = gaps
        self._backends = backends
        self._waiting = waiting

    def collect(self) -> Iterator[Metric]:
        in_flight = GaugeMetricFamily(
            "aima_gateway_in_flight", "Requests in flight from this gateway.", labels=["model", "instance"]
        )
        cooling = GaugeMetricFamily(
            "aima_gateway_cooling_down", "Whether this gateway leaves the instance out.", labels=["instance"]
        )
        for backend in self._backends():
            in_flight.add_metric([backend.model, backend.instance], backend.in_flight)
            cooling.add_metric([backend.instance], bool(backend.cool_until))
        yield in_flight
        yield cooling
        yield GaugeMetricFamily("aima_gateway_waiting", "Requests that wait for an instance.", value=self._waiting())
        gaps = HistogramMetricFamily(
            "aima_gateway_chunk_gap_seconds", "Between two parts of a stream.", labels=["model", "instance"]
        )
        for (model, instance), each in list(self._gaps.items()):
            gaps.add_metric([model, instance], _cumulative(each.counts), each.total)
        yield gaps

    def describe(self) -> Iterator[Metric]:
        return iter(())


def _cumulative(counts: Sequence[int]) -> list[tuple[str, float]]:
    buckets, total = [], 0
    for bound, count in zip([*_BOUNDS, "+Inf"], counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets
