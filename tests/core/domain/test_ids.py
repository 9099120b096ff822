"""Ids are built and parsed in one place; a malformed id is refused where it enters."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from aima_core.domain.ids import (
    AnswerId,
    EngineName,
    EngineType,
    HostName,
    Id,
    InstanceId,
    ModelId,
    OperationId,
    Route,
    ServiceId,
)
from aima_core.errors import BadId

KINDS = [EngineName, EngineType, HostName, InstanceId, ModelId, OperationId, Route, ServiceId]

TYPES = st.from_regex(r"[a-z][a-z0-9_]{0,31}", fullmatch=True).map(EngineType)
MODELS = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?", fullmatch=True).map(ModelId)
HOSTS = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?", fullmatch=True).map(HostName)


@given(TYPES, MODELS)
@example(EngineType("vllm"), ModelId("qwen3-32b"))
@example(EngineType("vllm"), ModelId("glm-4.7-flash"))
@example(EngineType("a"), ModelId("b---c--d.e..f-g"))
@example(EngineType("svc"), ModelId("svc-svc-svc"))
def test_a_service_id_parses_into_its_type_and_its_model(engine_type: EngineType, model: ModelId) -> None:
    service = ServiceId(str(ServiceId.of(engine_type, model)))

    assert (service.engine_type, service.model) == (engine_type, model)


@given(TYPES, MODELS, HOSTS)
@example(EngineType("vllm"), ModelId("qwen3-32b"), HostName("spark-01"))
@example(EngineType("vllm"), ModelId("q--1.5-b"), HostName("spark-01.lab.example.org"))
def test_an_instance_id_parses_into_its_service_and_its_host(
    engine_type: EngineType, model: ModelId, host: HostName
) -> None:
    service = ServiceId.of(engine_type, model)

    instance = InstanceId(str(service.on(host)))

    assert (instance.service, instance.host) == (service, host)


@given(TYPES, MODELS, HOSTS)
def test_an_id_composed_of_valid_ids_or_a_part_of_one_is_valid(
    engine_type: EngineType, model: ModelId, host: HostName
) -> None:
    instance, route = ServiceId.of(engine_type, model).on(host), Route.to_host(host)

    derived = [instance, instance.service, instance.host, instance.service.engine_type, instance.service.model]
    derived += [route, route.host, OperationId.new(), AnswerId.new()]

    assert [type(each)(str(each)) for each in derived] == derived


def test_the_first_dash_after_the_type_splits_the_id() -> None:
    service = ServiceId("svc-vllm-qwen3-32b-instruct-2507")

    assert (service.engine_type, service.model) == ("vllm", "qwen3-32b-instruct-2507")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "svc",
        "svc-",
        "svc-vllm",
        "svc-vllm-",
        "svc--qwen3",
        "vllm-qwen3-32b",
        "SVC-vllm-qwen3",
        "svc-vllm-Qwen3-32B",
        "svc-Vllm-qwen3",
        "svc-3d-qwen3",
        "svc-vllm--qwen3",
        "svc-vllm-qwen3-",
        "svc-vllm-qwen3.",
        "svc-vllm-.qwen3",
        "svc-vllm-qwen3/32b",
        "svc-vllm-../../etc",
        "svc-vllm-qwen3 ",
        " svc-vllm-qwen3",
        "svc-vllm-qwen3\n",
        "svc-vllm-qwen3\0",
        "svc-vllm-qwen3@spark-01",
        "svc-vllm-qwén",
        "svc-vllm-" + "q" * 65,
        "svc-" + "v" * 33 + "-qwen3",
    ],
)
def test_a_malformed_service_id_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(BadId) as refused:
        ServiceId(text)

    assert refused.value.failure.code == "bad_id"
    assert "svc-vllm-qwen3-32b" in refused.value.failure.hint


@pytest.mark.parametrize(
    "text",
    [
        "svc-vllm-qwen3",
        "svc-vllm-qwen3@",
        "@spark-01",
        "svc-vllm-qwen3@@spark-01",
        "svc-vllm-qwen3@a@b",
        "svc-vllm-qwen3@-spark",
        "svc-vllm-qwen3@spark-",
        "svc-vllm-qwen3@Spark",
        "svc-vllm-qwen3@spark_01",
        "svc-vllm-qwen3@spark-01\n",
        "svc-vllm-qwen3@" + "s" * 64,
    ],
)
def test_a_malformed_instance_id_is_refused(text: str) -> None:
    with pytest.raises(BadId):
        InstanceId(text)


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(max_size=80))
def test_any_text_parses_to_an_unchanged_id_or_is_refused(kind: type[Id], text: str) -> None:
    try:
        made = kind(text)
    except BadId as refused:
        assert kind.kind in refused.failure.message
    else:
        assert made == text
        assert kind.pattern.fullmatch(text)


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_in_a_refusal_is_a_valid_id(kind: type[Id]) -> None:
    assert kind(kind.example) == kind.example


@pytest.mark.parametrize("kind", KINDS)
def test_no_id_contains_a_special_character_of_keys_paths_or_shells(kind: type[Id]) -> None:
    for sign in ":*/ \n$;`'\"\\{}":
        with pytest.raises(BadId):
            kind(kind.example + sign)


def test_a_refusal_quotes_only_the_beginning_of_a_long_text() -> None:
    with pytest.raises(BadId) as refused:
        ServiceId("x" * 100_000)

    assert len(refused.value.failure.message) < 300


def test_an_id_in_a_message_is_parsed_as_its_type_or_refused() -> None:
    read = TypeAdapter(ServiceId)

    assert isinstance(read.validate_json('"svc-vllm-qwen3"'), ServiceId)
    with pytest.raises(BadId):
        read.validate_json('"qwen3"')


def test_every_operation_gets_a_new_uuid() -> None:
    ids = {OperationId.new() for _ in range(100)}

    assert len(ids) == 100
    assert all(re.fullmatch(r"[0-9a-f-]{36}", id_) for id_ in ids)


@given(HOSTS)
def test_a_route_to_a_host_names_the_host(host: HostName) -> None:
    assert Route(str(Route.to_host(host))).host == host


@pytest.mark.parametrize("text", ["gb10.arm64", "cpu.arm64", "cpu.amd64"])
def test_a_route_to_a_class_of_hosts_names_no_host(text: str) -> None:
    assert Route(text).host is None


@pytest.mark.parametrize("text", ["gb10", "gb10.", ".arm64", "gb10.riscv64", "host.", "host.Spark", "cpu.amd64.x"])
def test_a_malformed_route_is_refused(text: str) -> None:
    with pytest.raises(BadId):
        Route(text)
