"""The metrics of a gateway, as Prometheus reads them."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from aima_api.gateway.balancer import Backend
from aima_api.gateway.metrics import BUCKETS, GAPS, GatewayMetrics, Times
from aima_api.gateway.reach import Direct
from aima_api.gateway.streams import Usage

BACKEND = {"model": "m", "instance": "svc-a@alpha"}


def a_backend() -> Backend:
    return Backend("svc-a@alpha", Direct("http://127.0.0.1:1"), serves=("chat",), model="m")


@pytest.fixture
def metrics() -> GatewayMetrics:
    return GatewayMetrics(backends=lambda: [a_backend()], waiting=lambda: 3)


def samples(metrics: GatewayMetrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.read().decode())
        for sample in family.samples
    }


def value(metrics: GatewayMetrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, frozenset(labels.items())]


def test_requests_and_tokens_are_counted_by_their_labels(metrics: GatewayMetrics) -> None:
    backend = a_backend()
    for status in (200, 200, 499):
        metrics.count_request("chat", "m", "svc-a@alpha", "k1", status)
    metrics.add_tokens(backend, "k1", Usage(input=7, output=5))
    metrics.add_tokens(backend, "k1", Usage(output=2, estimated=True))

    request = BACKEND | {"operation": "chat", "key": "k1"}
    assert value(metrics, "aima_gateway_requests_total", **request, status="200") == 2
    assert value(metrics, "aima_gateway_requests_total", **request, status="499") == 1
    token = {"model": "m", "key": "k1"}
    assert value(metrics, "aima_gateway_tokens_total", **token, direction="input", estimated="false") == 7
    assert value(metrics, "aima_gateway_tokens_total", **token, direction="output", estimated="false") == 5
    assert value(metrics, "aima_gateway_tokens_total", **token, direction="output", estimated="true") == 2


@pytest.mark.parametrize(
    ("name", "bounds"), [("aima_gateway_first_byte_seconds", BUCKETS), ("aima_gateway_chunk_gap_seconds", GAPS)]
)
def test_times_are_a_histogram_by_model_and_instance(
    metrics: GatewayMetrics, name: str, bounds: tuple[float, ...]
) -> None:
    backend = a_backend()
    for seconds in (0.0, bounds[0], bounds[-1] + 1):
        gaps = Times(GAPS)
        gaps.add(seconds)
        metrics.add_gaps(backend, gaps)
        metrics.observe_first_byte(backend, seconds)

    buckets = [value(metrics, f"{name}_bucket", **BACKEND, le=str(float(bound))) for bound in bounds]
    assert buckets == [2] * len(bounds)
    assert value(metrics, f"{name}_bucket", **BACKEND, le="+Inf") == value(metrics, f"{name}_count", **BACKEND) == 3
    assert value(metrics, f"{name}_sum", **BACKEND) == pytest.approx(bounds[0] + bounds[-1] + 1)


def test_instances_are_read_at_each_scrape(metrics: GatewayMetrics) -> None:
    assert value(metrics, "aima_gateway_in_flight", **BACKEND) == 0
    assert value(metrics, "aima_gateway_cooling_down", instance="svc-a@alpha") == 0
    assert value(metrics, "aima_gateway_waiting") == 3
