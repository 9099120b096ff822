"""Models that nothing uses are collected below a watermark of free disk; what is used, pinned or fetched never is."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import NamedTuple

import pytest
from lab.commands import a_start_of, a_stop_of
from lab.parts import eventually
from lab.random_files import random_bytes
from worker.models.conftest import MIB, SIZE, manifest_of
from worker.models.test_fetch import a_start_with, content_of, published, pull

from aima_core.domain.ids import ModelId
from aima_core.domain.models import Manifest, ManifestFile
from aima_core.domain.operations import Kind, Phase, PinModel, PruneModels, PullModel, RemoveModel, State
from aima_core.domain.services import InstanceState
from aima_worker.models.collection import INTERRUPTED_FOR, SETTLES_FOR, Mounted, watermarks
from aima_worker.models.store import ModelStore
from aima_worker.operations.managed import recognize
from aima_worker.reconciler.supervision import HealthSupervisor
from aima_worker.runtimes.fake.engine import Behaviour

pytestmark = pytest.mark.redis

NAME = "test.svc-tiny-dial.alpha"
OLD, NEW = "1" * 40, "2" * 40
RESERVE = 64 * 1024
"""Bytes; the low watermark is twice as high, and the high one twice that."""


def publish(desk, model: str, files: dict[str, bytes], *, revision: str = OLD, days_ago: float = 10) -> Manifest:
    """As a fetch publishes it."""
    listed = tuple(
        ManifestFile(path=path, size=len(content), sha256=hashlib.sha256(content).hexdigest())
        for path, content in files.items()
    )
    manifest = Manifest(model=ModelId(model), source=f"hf:maker/{model}@main", revision=revision, files=listed)
    with desk.host.models.fetching(manifest, Flag()) as partial:
        for file in partial.files:
            if file not in partial.linked:
                partial.create(file)
                with partial.opened(file, write=True) as descriptor:
                    partial.write(descriptor, files[file.path], 0)
        desk.host.models.publish(partial)
    age(desk.host.models.root / model / manifest.name / "model.json", timedelta(days=days_ago))
    return manifest


def age(path, by: timedelta) -> None:
    moment = (datetime.now(UTC) - by).timestamp()
    os.utime(path, (moment, moment))


def weights(seed: int, size: int = MIB) -> dict[str, bytes]:
    return {"weights": random_bytes(size, seed)}


def names(desk) -> set[str]:
    return {each.model for each in desk.host.models.listing()}


def collections(desk) -> list:
    found = desk.host.operations.page(limit=10, having={"kind": Kind.PRUNE_MODELS}).items
    return [each for each in found if each.fence == 0]


def why_kept(desk, **how) -> dict[str, str | None]:
    return {each.model: each.kept for each in desk.host.collector.prune(all=True, dry_run=True, **how)}


class Usage(NamedTuple):
    total: int
    used: int
    free: int


class Disk:
    """A disk of a capacity, filled by the store and by other programs."""

    def __init__(self, root, capacity: int) -> None:
        self._root = root
        self.capacity = capacity

    def free(self) -> int:
        found = {}
        for parent, _, files in os.walk(self._root):
            for name in files:
                with suppress(FileNotFoundError):  # race: removed since it was listed
                    stat = (Path(parent) / name).lstat()
                    found[stat.st_ino] = stat.st_blocks * 512
        return max(0, self.capacity - sum(found.values()))

    def usage(self, _path: object) -> Usage:
        free = self.free()
        return Usage(self.capacity, self.capacity - free, free)


@pytest.fixture
def disk(desk, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Of 1 GB, until a test makes it smaller."""
    disk = Disk(desk.host.models.root, 1 << 30)
    monkeypatch.setattr(shutil, "disk_usage", disk.usage)
    desk.host.settings.host.__dict__["disk_reserve"] = RESERVE
    return disk


# Watermarks -----------------------------------------------------------------------------------------------------------


def test_below_the_low_watermark_the_least_recently_used_go_until_the_high_one(desk, disk):
    for days, model in ((1, "young"), (30, "oldest"), (20, "old"), (5, "middle")):
        publish(desk, model, weights(days), days_ago=days)
    disk.capacity -= disk.free() - (2 * RESERVE - 1)
    desk.host.settings.host.__dict__["model_collect_until"] = 2 * RESERVE + 3 * MIB // 2

    desk.host.collector.run_once()

    assert names(desk) == {"young", "middle"}
    assert disk.free() >= 2 * RESERVE + 3 * MIB // 2


def test_above_the_low_watermark_nothing_is_collected(desk, disk):
    publish(desk, "old", weights(1))
    disk.capacity -= disk.free() - 2 * RESERVE

    desk.host.collector.run_once()

    assert names(desk) == {"old"}


def test_a_use_counts_more_than_the_time_of_the_fetch(desk, disk):
    fetched_long_ago = publish(desk, "used", weights(1), days_ago=30)
    publish(desk, "unused", weights(2), days_ago=20)
    desk.host.models.uses.record(fetched_long_ago)
    desk.host.settings.host.__dict__["model_collect_until"] = 2 * RESERVE
    disk.capacity -= disk.free() - (2 * RESERVE - 1)

    desk.host.collector.run_once()

    assert names(desk) == {"used"}


def test_a_model_that_was_just_fetched_is_not_collected_at_the_watermark(desk, disk):
    publish(desk, "fresh", weights(1), days_ago=0)
    disk.capacity -= disk.free()

    desk.host.collector.run_once()
    age(next(desk.host.models.root.glob("fresh/*/model.json")), SETTLES_FOR + timedelta(minutes=1))
    before = names(desk)
    desk.host.collector.run_once()

    assert (before, names(desk)) == ({"fresh"}, set())


def test_a_collection_is_recorded_as_an_operation_with_its_reason_and_bytes(desk, disk, redis):
    manifest = publish(desk, "old", weights(1))
    disk.capacity -= disk.free() - 5000

    desk.host.collector.run_once()

    [operation] = collections(desk)
    [entry] = operation.collection
    assert (operation.state, operation.phase, operation.host) == (State.SUCCEEDED, Phase.REMOVED, "alpha")
    assert operation.reason.startswith("1 of 1 model (1.0")
    assert operation.reason.endswith("were removed from alpha: 5 kB of disk were free, less than 131 kB.")
    assert (entry.model, entry.revision, entry.size, entry.kept) == ("old", OLD, manifest.size, None)
    assert entry.freed >= manifest.size
    assert [event.collection for event in desk.host.operations.events(operation.id)] == [operation.collection]


def test_a_collection_without_redis_is_recorded_once_it_answers(desk, disk, monkeypatch):
    from aima_core.errors import BrokerUnavailable

    publish(desk, "old", weights(1))
    disk.capacity -= disk.free()
    record = desk.host.collector.record
    desk.host.collector.record = unavailable(BrokerUnavailable(detail="away"))

    with pytest.raises(BrokerUnavailable):
        desk.host.collector.run_once()
    desk.host.collector.record = record
    desk.host.collector.run_once()

    assert names(desk) == set()
    assert len(collections(desk)) == 1


def unavailable(failure: Exception) -> Callable[..., None]:
    def fail(*_) -> None:
        raise failure

    return fail


@pytest.mark.parametrize(
    ("settings_of_host", "expected"),
    [
        pytest.param({}, (20_000_000_000, 40_000_000_000), id="twice the reserve, and twice that"),
        pytest.param({"model_collect_below": "50GB"}, (50_000_000_000, 100_000_000_000), id="the operator's"),
        pytest.param({"model_collect_below": "0B"}, (0, 0), id="never"),
        pytest.param(
            {"model_collect_below": "50GB", "model_collect_until": "10GB"},
            (50_000_000_000,) * 2,
            id="not below the low",
        ),
    ],
)
def test_the_watermarks_follow_the_reserve_of_the_disk(settings, settings_of_host, expected):
    from aima_core.settings import HostSettings

    host = HostSettings.model_validate({"name": "alpha", **settings_of_host})

    assert watermarks(host, 4_000_000_000_000) == expected


# What is never collected ----------------------------------------------------------------------------------------------


def started(desk, manifest: Manifest, service: str = "svc-tiny-dial", **engine):
    command = a_start_of(service, model_mount="/models", **engine)
    return desk.run_command(command.model_copy(update={"manifest": manifest}))


def mounted_and_running(desk, runtime, manifest):
    assert started(desk, manifest).operation.state is State.SUCCEEDED


def mounted_by_an_exited_container(desk, runtime, manifest):
    mounted_and_running(desk, runtime, manifest)
    runtime.end(NAME, exit_code=1)


def kept_for_the_restoration_of_a_revision(desk, runtime, manifest):
    mounted_and_running(desk, runtime, manifest)
    instance = desk.outcome(desk.host.services.instances_on("alpha")[0].operation).instance
    from aima_worker.operations.previous import remember_previous

    remember_previous(desk.host, instance, operation=None)
    runtime.remove(NAME, grace=timedelta())


def pinned(desk, runtime, manifest):
    assert desk.run_command(PinModel(model=manifest.model)).operation.state is State.SUCCEEDED


def mounted_by_a_container_of_an_unknown_version(desk, runtime, manifest):
    mounted_and_running(desk, runtime, manifest)
    spec = runtime.spec_of(NAME)
    labels = {**spec.labels, "aima.command": '{"kind": "another"}'}
    runtime.remove(NAME, grace=timedelta())
    runtime.run(spec.model_copy(update={"labels": labels}))


@pytest.mark.parametrize(
    ("use", "why"),
    [
        (mounted_and_running, "mounted by svc-tiny-dial@alpha"),
        (mounted_by_an_exited_container, "mounted by svc-tiny-dial@alpha"),
        (kept_for_the_restoration_of_a_revision, "mounted by the previous revision of svc-tiny-dial@alpha"),
        (mounted_by_a_container_of_an_unknown_version, "svc-tiny-dial@alpha may have it mounted"),
        (pinned, "pinned"),
    ],
)
def test_what_is_in_use_is_never_collected_and_says_why(desk, disk, runtime, use, why):
    manifest = publish(desk, "dial", weights(1), days_ago=100)
    use(desk, runtime, manifest)
    age(next(desk.host.models.root.glob("dial/*/model.json")), timedelta(days=100))
    disk.capacity -= disk.free()

    said = why_kept(desk)
    desk.host.collector.run_once()
    desk.host.models.make_room(ModelId("other"), 1)
    removed = desk.host.collector.prune(all=True, dry_run=False)
    desk.run_command(a_stop_of())

    assert said == {"dial": why}
    assert [each.kept for each in removed] == [why]
    assert content_of(published(desk, manifest)) == weights(1)


def test_while_containers_cannot_be_listed_nothing_is_collected(desk, disk, runtime):
    publish(desk, "old", weights(1))
    disk.capacity -= disk.free()
    runtime.away = True

    desk.host.models.make_room(ModelId("other"), 1)
    refused = desk.run_command(PruneModels(all=True))

    assert refused.code == "docker_unavailable"
    assert names(desk) == {"old"}


def test_a_model_that_is_being_fetched_is_never_collected(desk, origin, disk):
    manifest, origin.paused_at = manifest_of(origin), MIB
    id, fetched = desk.begin(PullModel(manifest=manifest))
    assert eventually(lambda: names(desk) == {"small"})

    said = why_kept(desk)
    desk.host.collector.prune(all=True, dry_run=False)
    origin.release.set()

    assert said == {"small": f"used by operation {id}"}
    assert fetched.result(20).operation.state is State.SUCCEEDED
    assert origin.all_sent == SIZE


def test_an_interrupted_fetch_is_collected_after_a_day_only(desk, origin, disk):
    manifest, origin.paused_from = manifest_of(origin), 16 * MIB
    id, ending = desk.begin(PullModel(manifest=manifest))
    assert eventually(lambda: [each.received for each in desk.host.models.listing()] == [SIZE - 21 * MIB])
    desk.host.operations.request_cancel(id)
    ending.result(10)
    origin.release.set()
    assert eventually(lambda: not origin.sending and is_idle(desk, manifest))
    [place] = desk.host.models.root.glob(".fetching/*/*")
    disk.capacity -= disk.free()

    for name in ("journal", "model.json"):
        age(place / name, SETTLES_FOR + timedelta(minutes=1))
    desk.host.collector.run_once()
    before = names(desk)
    for name in ("journal", "model.json"):
        age(place / name, INTERRUPTED_FOR + timedelta(minutes=1))
    desk.host.collector.run_once()

    assert (before, names(desk)) == ({"small"}, set())
    assert [entry.kept for each in collections(desk) for entry in each.collection] == [None]


def is_idle(desk, manifest) -> bool:
    with desk.host.models.unless_fetching(manifest) as idle:
        return idle


# Races ----------------------------------------------------------------------------------------------------------------


def test_a_start_between_its_lookup_and_its_container_keeps_its_model(desk, disk, runtime, monkeypatch):
    manifest = publish(desk, "dial", weights(1), days_ago=100)
    run, outcomes = runtime.run, []

    def collect_then_run(spec):
        outcomes.append(why_kept(desk))
        outcomes.append({each.model: each.kept for each in desk.host.collector.prune(all=True, dry_run=False)})
        assert Path(spec.mounts[0].source).is_dir()
        return run(spec)

    monkeypatch.setattr(runtime, "run", collect_then_run)

    outcome = started(desk, manifest)

    why = f"used by operation {outcome.operation.id}"
    assert outcome.operation.state is State.SUCCEEDED, outcome.operation.failure
    assert outcomes == [{"dial": why}] * 2


def between_listing_and_removal(desk, act: Callable[[], object]) -> None:
    """`act` happens once, after a collection has listed the containers."""
    listed, acts = desk.host.collector.mounted, [act]

    def mounted() -> list[Mounted]:
        found = listed()
        if acts:
            acts.pop()()
        return found

    desk.host.collector.mounted = mounted


def test_a_start_that_begins_and_ends_after_the_containers_were_listed_keeps_its_model(desk, disk):
    manifest = publish(desk, "dial", weights(1), days_ago=100)
    between_listing_and_removal(desk, lambda: started(desk, manifest))

    [entry] = desk.host.collector.prune(all=True, dry_run=False)

    assert entry.kept == "a use of it has begun or ended, or its directory cannot be renamed"
    assert content_of(published(desk, manifest)) == weights(1)


def test_a_start_that_began_before_a_collection_and_ends_after_its_listing_keeps_its_model(
    desk, disk, runtime, monkeypatch
):
    manifest = publish(desk, "dial", weights(1), days_ago=100)
    run, begun, goes_on = runtime.run, Flag(), Flag()

    def run_when_listed(spec):
        begun.set()
        assert goes_on.wait(10)
        return run(spec)

    monkeypatch.setattr(runtime, "run", run_when_listed)
    command = a_start_of(model_mount="/models").model_copy(update={"manifest": manifest})
    _, starting = desk.begin(command)
    assert begun.wait(10)

    def finish() -> None:
        goes_on.set()
        assert starting.result(10).operation.state is State.SUCCEEDED

    between_listing_and_removal(desk, finish)
    [entry] = desk.host.collector.prune(all=True, dry_run=False)

    assert entry.kept
    assert content_of(published(desk, manifest)) == weights(1)


def test_a_pin_that_is_set_after_the_pins_were_read_keeps_the_model(desk, disk):
    manifest = publish(desk, "dial", weights(1), days_ago=100)
    reasons = desk.host.collector._reasons

    def read_then_pin(places, need):
        found = reasons(places, need)
        desk.run_command(PinModel(model=manifest.model))
        return found

    desk.host.collector._reasons = read_then_pin

    desk.host.collector.prune(all=True, dry_run=False)

    assert names(desk) == {"dial"}


def test_a_restart_whose_container_is_being_replaced_keeps_its_model(desk, disk, runtime, monkeypatch):
    manifest = publish(desk, "dial", weights(1), days_ago=100)
    started(desk, manifest)
    runtime.end(NAME, exit_code=1)
    managed = recognize(desk.host, runtime.find(NAME))
    run = runtime.run

    def collect_while_there_is_no_container(spec):
        runtime.remove(NAME, grace=timedelta())
        desk.host.collector.prune(all=True, dry_run=False)
        return run(spec)

    monkeypatch.setattr(runtime, "run", collect_while_there_is_no_container)
    supervisor = HealthSupervisor(desk.host, None)
    supervisor.restarts._delays = (timedelta(),)
    supervisor.check_without_records({managed.service: managed})

    assert runtime.find(NAME).status == "running"
    assert content_of(published(desk, manifest)) == weights(1)


def test_a_revision_that_is_remembered_while_containers_are_listed_keeps_its_model(desk, disk, runtime):
    old = publish(desk, "dial", weights(1), days_ago=100)
    new = publish(desk, "dial", weights(2), revision=NEW, days_ago=100)
    started(desk, old)
    runtime.next_runs(Behaviour(exit_code=1))
    changing = desk.host.fences.changing
    acts = [lambda: (desk.host.fences.__dict__.pop("changing"), remove_old())]

    def remove_old():
        from aima_worker.operations.previous import remember_previous

        remember_previous(desk.host, desk.host.services.instances_on("alpha")[0], operation=None)
        runtime.remove(NAME, grace=timedelta())

    def read_then_change():
        found = changing()
        acts.pop()()
        return found

    desk.host.fences.changing = read_then_change

    kept = {each.revision: each.kept for each in desk.host.collector.prune(all=True, dry_run=False)}
    desk.run_command(a_stop_of())

    assert kept == {OLD: "a use of it has begun or ended, or its directory cannot be renamed", NEW: None}
    assert published(desk, old)
    assert not published(desk, new)


def test_starts_that_race_with_collections_never_lose_their_directory(
    desk, origin, disk, runtime, monkeypatch, request
):
    small = {"config.json": b"{}", "weights": random_bytes(4096, 5)}
    origin.publish("maker/small", small)
    manifest, lost, collected = manifest_of(origin, small), [], []
    run = runtime.run

    def check_then_run(spec):
        lost.extend(mount.source for mount in spec.mounts if not Path(mount.source).is_dir())
        return run(spec)

    monkeypatch.setattr(runtime, "run", check_then_run)
    ended = Flag()

    def collect() -> None:
        while not ended.is_set():
            collected.extend(each for each in desk.host.collector.prune(all=True, dry_run=False) if each.kept is None)

    collectors = [Thread(target=collect) for _ in range(2)]
    for each in collectors:
        each.start()
    try:
        for _ in range(60 if request.config.getoption("--long") else 6):
            outcome = desk.run_command(a_start_with(manifest))
            assert outcome.operation.state is State.SUCCEEDED, outcome.operation.failure
            assert published(desk, manifest)
            before = len(collected)
            desk.run_command(a_stop_of())
            assert eventually(lambda before=before: len(collected) > before)
    finally:
        ended.set()
        for each in collectors:
            each.join()

    assert lost == []


# Fetches that lack space ----------------------------------------------------------------------------------------------


def test_a_fetch_that_lacks_space_collects_first_and_no_more_than_it_needs(desk, origin, disk):
    for days, model in ((30, "oldest"), (20, "old"), (10, "young")):
        publish(desk, model, weights(days, 20 * MIB), days_ago=days)
    disk.capacity -= disk.free() - (SIZE + RESERVE - 21 * MIB)

    outcome = pull(desk, manifest_of(origin))
    desk.host.collector.run_once()

    assert outcome.operation.state is State.SUCCEEDED, outcome.operation.failure
    assert {"young", "small"} <= names(desk)
    assert "oldest" not in names(desk)
    [operation] = [each for each in collections(desk) if "the fetch" in each.reason]
    assert "the fetch of small lacked 22" in operation.reason


def test_a_fetch_for_which_no_collection_suffices_removes_nothing(desk, origin, disk):
    publish(desk, "old", weights(1, 10 * MIB))
    disk.capacity -= disk.free() - (SIZE + RESERVE - 30 * MIB)

    outcome = pull(desk, manifest_of(origin))

    assert outcome.code == "model_disk_full"
    assert names(desk) == {"old"}
    assert "`aima model prune --all --dry-run`" in outcome.operation.failure.hint


def test_an_earlier_revision_that_nothing_uses_makes_room_for_the_next_one(desk, origin, disk):
    publish(desk, "small", weights(1, 20 * MIB))
    disk.capacity -= disk.free() - (SIZE + RESERVE - 10 * MIB)

    outcome = pull(desk, manifest_of(origin))

    assert outcome.operation.state is State.SUCCEEDED, outcome.operation.failure
    assert [each.revision for each in desk.host.models.listing()] == [manifest_of(origin).revision]


# Shared files ---------------------------------------------------------------------------------------------------------


def test_files_that_revisions_share_are_counted_once_and_with_the_last_of_them(desk, disk):
    shared = {"shared": random_bytes(4 * MIB, 9)}
    publish(desk, "dial", shared | {"own": random_bytes(MIB, 1)}, days_ago=30)
    publish(desk, "dial", shared | {"own": random_bytes(MIB, 2)}, revision=NEW, days_ago=20)
    before = disk.free()

    planned = {each.revision: each.freed for each in desk.host.collector.prune(all=True, dry_run=True)}
    done = {each.revision: each.freed for each in desk.host.collector.prune(all=True, dry_run=False)}

    assert planned == done
    assert MIB <= done[OLD] < 2 * MIB
    assert 5 * MIB <= done[NEW] < 6 * MIB
    assert disk.free() - before == sum(done.values())


def test_a_file_that_a_pinned_model_shares_is_not_counted(desk, disk):
    shared = {"shared": random_bytes(4 * MIB, 9)}
    publish(desk, "dial", shared | {"own": random_bytes(MIB, 1)})
    publish(desk, "kept", shared)
    desk.run_command(PinModel(model=ModelId("kept")))

    removed = desk.run_command(RemoveModel(model=ModelId("dial")))

    assert removed.operation.reason.startswith("dial was removed from alpha (1.0")


# Prune ----------------------------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_go_and_why_others_stay_and_removes_nothing(desk, disk):
    used = publish(desk, "dial", weights(1), days_ago=40)
    publish(desk, "pinned", weights(2), days_ago=30)
    publish(desk, "unused", weights(3), days_ago=20)
    started(desk, used)
    desk.run_command(PinModel(model=ModelId("pinned")))

    outcome = desk.run_command(PruneModels(all=True, dry_run=True))

    found = {each.model: (each.kept, each.freed is not None) for each in outcome.operation.collection}
    assert outcome.phases == [Phase.DONE]
    assert found == {
        "dial": ("mounted by svc-tiny-dial@alpha", False),
        "pinned": ("pinned", False),
        "unused": (None, True),
    }
    assert outcome.operation.reason.startswith("1 of 3 models (1.0")
    assert outcome.operation.reason.endswith(" MB) would be removed from alpha.")
    assert names(desk) == {"dial", "pinned", "unused"}


def test_a_prune_stops_at_the_high_watermark_and_all_of_them_go_with_all(desk, disk):
    for days, model in ((30, "oldest"), (20, "old")):
        publish(desk, model, weights(days), days_ago=days)
    disk.capacity -= disk.free() - (4 * RESERVE - 1)

    first = desk.run_command(PruneModels())
    left = names(desk)
    second = desk.run_command(PruneModels(all=True))

    assert {each.model: each.kept for each in first.operation.collection} == {
        "oldest": None,
        "old": "enough disk is free without it",
    }
    assert (left, names(desk)) == ({"old"}, set())
    assert second.phases == [Phase.REMOVING, Phase.REMOVED]


def test_a_prune_of_an_empty_host_removes_nothing(desk, disk):
    outcome = desk.run_command(PruneModels(all=True))

    assert outcome.operation.reason == "0 of 0 models (0 B) were removed from alpha."


# Pins -----------------------------------------------------------------------------------------------------------------


def test_a_pinned_model_is_not_removed_and_the_remedy_is_to_unpin_it(desk, disk):
    manifest = publish(desk, "dial", weights(1))
    pin = desk.run_command(PinModel(model=manifest.model))

    refused = desk.run_command(RemoveModel(model=manifest.model))
    unpin = desk.run_command(PinModel(kind=Kind.UNPIN_MODEL, model=manifest.model))
    removed = desk.run_command(RemoveModel(model=manifest.model))

    assert pin.operation.reason == "dial on alpha is pinned."
    assert refused.code == "model_pinned"
    assert "`aima model unpin dial --host alpha`" in refused.operation.failure.hint
    assert unpin.operation.reason == "dial on alpha is not pinned."
    assert removed.operation.state is State.SUCCEEDED


def test_a_pin_is_kept_by_the_host_and_listed(desk, disk, redis):
    publish(desk, "dial", weights(1))
    desk.run_command(PinModel(model=ModelId("dial")))
    redis.flushall()

    again = ModelStore(desk.host.models.root, host=desk.host.name)

    assert [each.pinned for each in again.listing()] == [True]


def test_only_a_model_that_is_there_is_pinned_and_any_is_unpinned(desk, disk):
    absent = desk.run_command(PinModel(model=ModelId("dial")))
    unpinned = desk.run_command(PinModel(kind=Kind.UNPIN_MODEL, model=ModelId("dial")))

    assert absent.code == "model_absent"
    assert unpinned.operation.state is State.SUCCEEDED


def test_while_the_pins_cannot_be_read_every_model_counts_as_pinned(desk, disk):
    publish(desk, "dial", weights(1))
    (desk.host.models.root / ".uses.json").write_text("{")
    again = ModelStore(desk.host.models.root, host=desk.host.name)
    [manifest] = [each.manifest for each in again.places()]

    again.uses.record(manifest)

    assert [each.pinned for each in again.listing()] == [True]
    assert (desk.host.models.root / ".uses.json").read_text() == "{"


# Last use -------------------------------------------------------------------------------------------------------------


def used_at(desk) -> datetime | None:
    [listed] = ModelStore(desk.host.models.root, host=desk.host.name).listing()
    return listed.used_at


def test_the_last_use_is_recorded_when_an_engine_starts_runs_and_ends_and_survives_the_worker(desk, disk):
    manifest = publish(desk, "dial", weights(1))
    clock = [datetime(2026, 11, 28, 12, tzinfo=UTC)]
    desk.host.models.uses._clock = lambda: clock[0]
    moments = [used_at(desk)]
    started(desk, manifest)
    moments.append(used_at(desk))
    for minutes in (4, 2):
        clock[0] += timedelta(minutes=minutes)
        desk.host.collector.run_once()
        moments.append(used_at(desk))
    clock[0] += timedelta(minutes=3)
    desk.run_command(a_stop_of())
    moments.append(used_at(desk))
    clock[0] += timedelta(hours=1)
    desk.host.collector.run_once()

    after = [each and (each - datetime(2026, 11, 28, 12, tzinfo=UTC)) / timedelta(minutes=1) for each in moments]
    assert after == [None, 0, 0, 6, 9]
    assert used_at(desk) == moments[-1]


def test_a_pull_is_no_use(desk, origin, disk):
    pull(desk, manifest_of(origin))

    assert used_at(desk) is None


def test_a_failed_start_leaves_its_model_to_the_next_collection(desk, disk, runtime):
    manifest = publish(desk, "dial", weights(1), days_ago=100)
    runtime.crash_next()

    failed = started(desk, manifest)
    desk.host.collector.prune(all=True, dry_run=False)

    assert failed.instance.state is InstanceState.FAILED
    assert names(desk) == set()
