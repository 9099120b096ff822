"""Ids: a service is named by its engine type and its model, an instance by its service and its host."""

from __future__ import annotations

import pytest

from aima_core.domain.ids import HostName, ServiceId
from aima_core.errors import BadId


def test_a_service_is_named_by_its_engine_type_and_its_model():
    service = ServiceId("svc-vllm-qwen3-32b")

    parts = (service.engine_type, service.model)

    assert parts == ("vllm", "qwen3-32b")


def test_an_instance_is_a_service_on_a_host():
    service, host = ServiceId("svc-vllm-qwen3-32b"), HostName("spark-01")

    instance = service.on(host)

    assert instance == "svc-vllm-qwen3-32b@spark-01"
    assert (instance.service, instance.host) == (service, host)


def test_a_malformed_id_is_refused_with_an_example():
    malformed = "vllm/Qwen3"

    with pytest.raises(BadId) as refused:
        ServiceId(malformed)

    assert malformed in str(refused.value)
    assert "svc-vllm-qwen3-32b" in str(refused.value) + str(refused.value.failure.hint)
