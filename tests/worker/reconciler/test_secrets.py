"""Secrets of a running engine: what replaces its container, what its restart takes, and when its copies are removed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from lab.commands import a_start_of, a_stop_of

from aima_core.domain.operations import StartService, State
from aima_core.settings import Settings
from aima_worker.context import Timings
from aima_worker.reconciler.loop import ReconcileLoop
from aima_worker.runtime import ContainerSpec

pytestmark = pytest.mark.redis
NAME = "test.svc-tiny-dial.alpha"


@pytest.fixture
def tmpfs() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="aima-secrets-", dir="/dev/shm") as directory:
        yield Path(directory)


@pytest.fixture
def settings(settings: Settings, tmpfs: Path) -> Settings:
    settings.state_dir.joinpath("secrets").mkdir(parents=True, mode=0o700)
    rotate(settings, "old")
    return settings.model_copy(update={"host": settings.host.model_copy(update={"runtime_dir": tmpfs})})


@pytest.fixture
def timings() -> Timings:
    return Timings(restart_delays=(timedelta(),))


def rotate(settings: Settings, value: str) -> None:
    """Replaces the file, as an editor does."""
    draft = settings.state_dir / "secrets/draft~"
    draft.touch(mode=0o600)
    draft.write_text(value)
    draft.rename(settings.state_dir / "secrets/token")


def a_start() -> StartService:
    return a_start_of().model_copy(update={"secrets": {"HF_TOKEN": "token"}})


def value_in(spec: ContainerSpec) -> str:
    assert spec.secrets is not None
    return (Path(spec.secrets.source) / "files/HF_TOKEN").read_text()


def spec_of(runtime) -> ContainerSpec:
    return runtime._engines[NAME].spec


def copies(tmpfs: Path) -> list[Path]:
    return [path for path in (tmpfs / "secrets").rglob("*") if path.is_file()]


def test_a_start_with_the_same_values_adopts_the_engine_and_one_with_another_value_replaces_it(desk, runtime, settings):
    desk.run_command(a_start())
    before = runtime.find(NAME).id

    rotate(settings, "old")
    desk.run_command(a_start())
    written_again = runtime.find(NAME).id
    rotate(settings, "new")
    desk.run_command(a_start())

    assert written_again == before
    assert runtime.find(NAME).id != before
    assert value_in(spec_of(runtime)) == "new"


def test_a_restart_after_a_crash_takes_the_new_value_and_the_old_copy_is_removed(desk, runtime, settings, tmpfs):
    desk.run_command(a_start())
    watch = ReconcileLoop(desk.host)

    rotate(settings, "new")
    runtime.end(NAME, exit_code=1)
    watch.reconcile_once()
    ReconcileLoop(desk.host).reconcile_once()

    assert value_in(spec_of(runtime)) == "new"
    assert [path.read_text() for path in copies(tmpfs)] == ["new"]


def test_copies_are_removed_when_the_service_is_stopped(desk, tmpfs):
    desk.run_command(a_start())
    assert len(copies(tmpfs)) == 1

    desk.run_command(a_stop_of())

    assert copies(tmpfs) == []


def test_copies_that_a_crash_left_without_a_container_are_removed(desk, tmpfs):
    desk.host.secrets.provide(NAME, a_start())
    others = tmpfs / "secrets/other.svc-tiny-dial.alpha/1/files/HF_TOKEN"
    others.parent.mkdir(parents=True)
    others.write_text("another installation's")

    ReconcileLoop(desk.host).reconcile_once()

    assert copies(tmpfs) == [others]


def test_a_start_without_its_secret_fails_before_anything_is_pulled_or_replaced(desk, runtime, settings):
    desk.run_command(a_start())
    before = runtime.find(NAME).id
    (settings.state_dir / "secrets/token").unlink()

    outcome = desk.run_command(a_start_of(image="absent:1").model_copy(update={"secrets": {"HF_TOKEN": "token"}}))

    assert (outcome.operation.state, outcome.code) == (State.FAILED, "secret_missing")
    assert str(settings.state_dir / "secrets/token") in outcome.operation.failure.hint
    assert runtime.find(NAME).id == before


def test_the_host_announces_a_new_entry_at_the_next_pass(desk, settings):
    announced = []
    watch = ReconcileLoop(desk.host, facts_changed=lambda: announced.append(desk.host.secrets.names()))
    watch.reconcile_once()

    (settings.state_dir / "secrets/second").touch(mode=0o600)
    watch.reconcile_once()
    watch.reconcile_once()

    assert announced == [("second", "token")]
