"""The announced facts: detected, overridden by the operator, and read again while the host lives."""

from __future__ import annotations

from typing import Any

import pytest
from worker.node.recorded import found_on

from aima_core.redis.interface import TextRedis
from aima_core.settings import HostSettings, Settings
from aima_worker.node import hardware
from aima_worker.node.facts import MAX_IMAGES, clock_offset, host_facts
from aima_worker.node.hardware import memory_reserve
from aima_worker.runtimes.fake.runtime import FakeRuntime

GB = 1_000_000_000


def reported(settings: Settings, **host: Any) -> Settings:
    """The same settings with more of the host's."""
    said = {"name": "alpha", "ports": "18500-18599", **host}
    return settings.model_copy(update={"host": HostSettings.model_validate(said)})


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the worker detect a recorded machine."""
    return lambda machine: monkeypatch.setattr(hardware, "_detected", lambda: found_on(machine))


# Routes -----------------------------------------------------------------------------------------------------------


def test_a_host_consumes_its_own_route_and_those_of_its_accelerators_and_its_cpu(
    settings: Settings, runtime: FakeRuntime, on: Any
) -> None:
    on("gb10")

    facts = host_facts(reported(settings, facts={"arch": "arm64"}), runtime)

    assert facts.routes == ("host.alpha", "gb10.arm64", "cpu.arm64")


def test_two_cards_of_one_kind_make_one_route(settings: Settings, runtime: FakeRuntime, on: Any) -> None:
    on("two_cards")

    facts = host_facts(reported(settings, facts={"arch": "amd64"}), runtime)

    assert facts.routes == ("host.alpha", "cuda.amd64", "cpu.amd64")


def test_a_host_whose_driver_fails_joins_as_a_cpu_host(settings: Settings, runtime: FakeRuntime, on: Any) -> None:
    on("another_driver_than_the_library")

    facts = host_facts(settings, runtime)

    assert facts.accelerators == ()
    assert [route for route in facts.routes if route.host is None] == [f"cpu.{facts.arch}"]


# Overrides --------------------------------------------------------------------------------------------------------


def test_configured_facts_override_detected_ones(settings: Settings, runtime: FakeRuntime, on: Any) -> None:
    on("two_cards")
    gb10 = {"kind": "gb10", "name": "NVIDIA GB10", "compute_capability": "12.1"}

    facts = host_facts(
        reported(settings, facts={"arch": "arm64", "cores": 20, "memory": "128GB", "accelerators": [gb10]}), runtime
    )

    assert (facts.arch, facts.cores, facts.memory) == ("arm64", 20, 128 * GB)
    assert [(each.kind, each.memory) for each in facts.accelerators] == [("gb10", None)]
    assert facts.unified_memory


def test_facts_that_are_not_configured_are_detected(settings: Settings, runtime: FakeRuntime, on: Any) -> None:
    on("gb10")
    found = host_facts(settings, runtime)

    facts = host_facts(reported(settings, facts={"cores": 99}), runtime)

    assert facts == found.model_copy(update={"cores": 99})


def test_an_empty_accelerator_list_hides_the_detected_ones(settings: Settings, runtime: FakeRuntime, on: Any) -> None:
    on("gb10")

    facts = host_facts(reported(settings, facts={"accelerators": []}), runtime)

    assert facts.accelerators == ()
    assert not facts.unified_memory


def test_shared_memory_can_be_disabled_by_configuration(settings: Settings, runtime: FakeRuntime, on: Any) -> None:
    on("gb10")

    assert not host_facts(reported(settings, facts={"unified_memory": False}), runtime).unified_memory


# Memory reserve ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("unified", "reserve"), [(True, 10 * GB), (False, 5 * GB)])
def test_the_memory_reserve_is_larger_where_the_gpu_shares_the_memory(
    settings: Settings, unified: bool, reserve: int
) -> None:
    assert memory_reserve(settings, 100 * GB, unified=unified) == reserve


def test_the_memory_reserve_can_be_configured(settings: Settings, runtime: FakeRuntime) -> None:
    facts = host_facts(reported(settings, memory_reserve="0B", slots=2, images=["mine/*"]), runtime)

    assert facts.memory_reserve == 0
    assert facts.slots == 2
    assert facts.allows == ("mine/*",)


# Facts that change ------------------------------------------------------------------------------------------------


def test_the_newest_images_are_reported_up_to_a_few_hundred(settings: Settings) -> None:
    runtime = FakeRuntime(images=[f"many:{number}" for number in range(MAX_IMAGES + 50)])

    facts = host_facts(settings, runtime)

    assert len(facts.images) == MAX_IMAGES
    assert facts.images[0].reference == f"many:{MAX_IMAGES + 49}"
    assert facts.images[0].digest is not None


def test_a_host_whose_docker_engine_is_unavailable_still_has_facts(settings: Settings, runtime: FakeRuntime) -> None:
    runtime.away = True

    facts = host_facts(settings, runtime)

    assert not facts.runtime_answers
    assert facts.images == ()


@pytest.mark.redis
def test_a_clock_ahead_of_redis_is_detected(redis: TextRedis) -> None:
    assert abs(clock_offset(redis)) < 1

    seconds, microseconds = redis.time()
    ahead = clock_offset(redis, now=lambda: seconds + microseconds / 1e6 + 90)

    assert ahead == pytest.approx(90, abs=1)


def test_the_clock_offset_is_measured_at_the_middle_of_the_round_trip() -> None:
    class SlowRedis:
        def time(self) -> tuple[int, int]:
            return 1000, 500_000

    moments = iter([999.5, 1001.5])

    assert clock_offset(SlowRedis(), now=lambda: next(moments)) == pytest.approx(0)  # type: ignore[arg-type]  # all it is asked
