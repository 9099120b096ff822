"""The scripting of the fake runtime, beyond the contract that it shares with the real ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from aima_core.errors import Cancelled, DiskFull, DockerUnavailable, GpuUnavailable, PullBroken, PullStalled
from aima_worker.runtime import ContainerSpec
from aima_worker.runtimes.fake.engine import Behaviour
from aima_worker.runtimes.fake.runtime import FakeRuntime
from aima_worker.runtimes.fake.streams import Published

STALL = timedelta(milliseconds=50)
URL = "http://127.0.0.1:20000/health"


def a_spec(**changes: object) -> ContainerSpec:
    fields = {
        "name": "engine",
        "image": "vllm:1",
        "command": ("serve",),
        "host_address": "127.0.0.1",
        "host_port": 20000,
        "container_port": 8000,
    }
    return ContainerSpec.model_validate(fields | changes)


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime(images=["vllm:1"])


def test_the_next_run_crashes_with_its_last_log_lines_and_the_one_after_it_does_not(runtime: FakeRuntime) -> None:
    runtime.crash_next(last_words="CUDA out of memory", exit_code=7)

    runtime.run(a_spec())
    crashed = runtime.find("engine")
    words = [line.text for line in runtime.logs("engine", follow=True)]
    runtime.run(a_spec())
    again = runtime.find("engine")

    assert crashed is not None
    assert again is not None
    assert (crashed.exit_code, words, again.exit_code) == (7, ["CUDA out of memory"], None)


def test_a_running_container_can_be_made_to_exit(runtime: FakeRuntime) -> None:
    runtime.run(a_spec())

    runtime.end("engine", exit_code=137, oom_killed=True, last_words="Killed")

    ended = runtime.find("engine")
    assert ended is not None
    assert (ended.exit_code, ended.oom_killed) == (137, True)


def test_the_probe_answers_for_a_running_container_once_it_has_loaded() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    runtime = FakeRuntime(images=["vllm:1"], now=lambda: now)
    runtime.next_runs(Behaviour(loads_for=timedelta(minutes=7)))
    runtime.run(a_spec())

    loading = runtime.probe(URL)
    now += timedelta(minutes=7)
    loaded = runtime.probe(URL)
    runtime.remove("engine", grace=timedelta(0))

    assert (loading, loaded) == (503, 200)
    with pytest.raises(OSError, match="nothing listens"):
        runtime.probe(URL)


def test_an_engine_can_be_set_never_to_answer(runtime: FakeRuntime) -> None:
    runtime.next_runs(Behaviour(answers=False))
    runtime.run(a_spec())

    with pytest.raises(OSError, match="nothing listens"):
        runtime.probe(URL)


def test_a_pulled_image_is_present_with_its_published_facts(runtime: FakeRuntime) -> None:
    runtime.published["tts:1"] = Published(layers=(100, 200), arch="arm64")

    last = list(runtime.pull("tts:1", stall=STALL))[-1]

    image = runtime.image("tts:1")
    assert image is not None
    assert image.arch == "arm64"
    assert (last.downloaded, last.extracted, last.total, last.total_known) == (300, 300, 300, True)


@pytest.mark.parametrize(
    ("failure", "seen"), [(None, PullBroken), (DiskFull(image="tts:1", detail="no space left on device"), DiskFull)]
)
def test_the_next_pull_fails_halfway_and_the_one_after_it_does_not(
    runtime: FakeRuntime, failure: DiskFull | None, seen: type[Exception]
) -> None:
    runtime.fail_next_pull(failure)

    with pytest.raises(seen):
        list(runtime.pull("tts:1", stall=STALL))
    before = runtime.image("tts:1")
    list(runtime.pull("tts:1", stall=STALL))

    assert before is None
    assert runtime.image("tts:1") is not None


def test_the_next_pull_stalls(runtime: FakeRuntime) -> None:
    runtime.stall_next_pull()

    with pytest.raises(PullStalled):
        list(runtime.pull("tts:1", stall=STALL))


def test_a_closed_pull_is_cancelled(runtime: FakeRuntime) -> None:
    pull = runtime.pull("tts:1", stall=STALL)

    with pytest.raises(Cancelled):
        for _ in pull:
            pull.close()

    assert runtime.image("tts:1") is None


def test_a_host_without_gpus_provides_none() -> None:
    runtime = FakeRuntime(images=["vllm:1"], gpus=False)

    with pytest.raises(GpuUnavailable):
        runtime.run(a_spec(gpus=1))

    assert runtime.containers({}) == []


def test_an_unavailable_engine_is_unavailable_until_it_is_back(runtime: FakeRuntime) -> None:
    runtime.run(a_spec())
    runtime.away = True

    with pytest.raises(DockerUnavailable):
        runtime.find("engine")

    runtime.away = False
    assert runtime.find("engine") is not None
