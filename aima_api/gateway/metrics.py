"""Prometheus metrics of a gateway: requests, tokens, times, and the health of instances as it sees them.

What each request counts is added without a lock, in the event loop, and read at each scrape: the counters and
histograms of the library cost ten times as much. Times between the parts of a stream are added when it ends.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
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


class Times:
    """Of a histogram: how many are in each bucket, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def merge(self, other: Times) -> None:
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.total += other.total


class GatewayMetrics:
    def __init__(self, *, backends: Callable[[], Iterable[Backend]], waiting: Callable[[], int]) -> None:
        registry = self._registry = CollectorRegistry()
        self.connections = ConnectionMetrics(registry)
        self.refused = Counter(
            "aima_gateway_requests_refused", "Requests that reached no instance.", ("code",), registry=registry
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
        self.retries = Counter(
            "aima_gateway_retries", "Requests sent to another instance.", ("model", "instance"), registry=registry
        )
        self.cool_downs = Counter(
            "aima_gateway_cool_downs", "Times that an instance was left out.", ("instance", "reason"), registry=registry
        )
        self.aborted = Counter(
            "aima_gateway_aborted", "Requests whose client left.", ("model", "instance"), registry=registry
        )
        self._counted = _Counted()
        ProcessCollector(registry=registry)
        registry.register(self._counted)
        registry.register(_Instances(backends, waiting))

    def add_gaps(self, backend: Backend, gaps: Times) -> None:
        all_gaps, labels = self._counted.gaps, (backend.model, backend.instance)
        if labels not in all_gaps:
            all_gaps[labels] = Times(GAPS)
        all_gaps[labels].merge(gaps)

    def count_request(self, operation: str, model: str, instance: str, key: str, status: int) -> None:
        self._counted.requests[operation, model, instance, key, status] += 1

    def observe_first_byte(self, backend: Backend, seconds: float) -> None:
        first_bytes, labels = self._counted.first_bytes, (backend.model, backend.instance)
        if labels not in first_bytes:
            first_bytes[labels] = Times(BUCKETS)
        first_bytes[labels].add(seconds)

    def add_tokens(self, backend: Backend, key: str, usage: Usage) -> None:
        estimated = "true" if usage.estimated else "false"
        for direction, number in (("input", usage.input), ("output", usage.output)):
            if number:
                self._counted.tokens[backend.model, key, direction, estimated] += number

    def add_audio(self, backend: Backend, key: str, request: ModelRequest, usage: Usage) -> None:
        """Of an answered request. A duration that neither the engine nor the file states is not counted."""
        if request.operation is Inference.SPEECH and (characters := request.characters()):
            self.characters.labels(backend.model, key).inc(characters)
        elif request.operation in FORMS and (seconds := usage.audio_seconds or request.audio_seconds()):
            self.audio.labels(backend.model, key).inc(seconds)

    def read(self) -> bytes:
        return generate_latest(self._registry)


class _Counted(Collector):
    """By labels."""

    def __init__(self) -> None:
        self.requests = Counts[tuple[str, str, str, str, int]]()
        self.tokens = Counts[tuple[str, str, str, str]]()
        self.first_bytes: dict[tuple[str, str], Times] = {}
        self.gaps: dict[tuple[str, str], Times] = {}

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "aima_gateway_requests",
            "Requests that were answered or whose client left (status 499).",
            labels=["operation", "model", "instance", "key", "status"],
        )
        for (*labels, status), number in list(self.requests.items()):
            requests.add_metric([*labels, str(status)], number)
        yield requests
        tokens = CounterMetricFamily(
            "aima_gateway_tokens",
            "Tokens as engines count them; estimated by the parts of a stream that did not complete.",
            labels=["model", "key", "direction", "estimated"],
        )
        for each, number in list(self.tokens.items()):
            tokens.add_metric(each, number)
        yield tokens
        yield _histogram(
            "aima_gateway_first_byte_seconds", "From a request until the first byte of its answer.", self.first_bytes
        )
        yield _histogram("aima_gateway_chunk_gap_seconds", "Between two parts of a stream.", self.gaps)

    def describe(self) -> Iterator[Metric]:
        return iter(())


class _Instances(Collector):
    """Gauges of the balancer, read at each scrape."""

    def __init__(self, backends: Callable[[], Iterable[Backend]], waiting: Callable[[], int]) -> None:
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

    def describe(self) -> Iterator[Metric]:
        return iter(())


def _histogram(name: str, help: str, times: Mapping[tuple[str, str], Times]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, help, labels=["model", "instance"])
    for labels, each in list(times.items()):
        family.add_metric(labels, _cumulative(each.bounds, each.counts), each.total)
    return family


def _cumulative(bounds: Iterable[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    names = [*(str(float(bound)) for bound in bounds), "+Inf"]
    return [(name, float(total)) for name, total in zip(names, accumulate(counts), strict=True)]
