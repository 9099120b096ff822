"""A model is fetched from its origin, verified and published; interruptions are resumed, and faults told apart."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
from datetime import timedelta
from functools import partial
from http.client import HTTPConnection

import pytest
from lab.commands import a_start_of
from lab.model_origin import LATER_COMMIT, Faults
from lab.parts import eventually
from lab.random_files import random_bytes
from worker.models.conftest import CONFIG, FILES, MIB, REPOSITORY, SIZE, TOKENIZER, WEIGHTS, manifest_of

from aima_core.domain.catalog import Model
from aima_core.domain.ids import Route
from aima_core.domain.operations import Phase, PullModel, RemoveModel, State
from aima_worker.attempt import WorkerShutdown
from aima_worker.models.origin import OriginClient
from aima_worker.models.steps import RATE_FILE, FetchCoordinator
from aima_worker.node.facts import host_facts
from aima_worker.node.hardware import arch
from aima_worker.operations.model_paths import opened_model

pytestmark = pytest.mark.redis
SOON, LATER = timedelta(seconds=1), timedelta(minutes=1)


def published(desk, manifest):
    place = desk.host.models.find(manifest)
    return place and desk.host.models.root / place


def content_of(directory) -> dict[str, bytes]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def pull(desk, manifest, **more):
    return desk.run_command(PullModel(manifest=manifest, **more))


# Whole fetches --------------------------------------------------------------------------------------------------------


def test_a_pull_publishes_every_file_as_the_manifest_says(desk, origin):
    manifest = manifest_of(origin)

    outcome = pull(desk, manifest)

    assert outcome.phases == [Phase.FETCHING, Phase.PULLED]
    assert content_of(published(desk, manifest)) == FILES
    assert outcome.operation.reason == "small at 0123456789ab is on alpha (4 files, 41.9 MB, verified)."
    assert origin.all_sent == SIZE


def test_progress_ends_with_all_bytes_received_and_verified(desk, origin):
    outcome = pull(desk, manifest_of(origin))

    last = outcome.operation.fetch
    assert (last.received, last.verified, last.total) == (SIZE, SIZE, SIZE)
    assert (last.files_done, last.files) == (4, 4)


def test_a_published_model_is_read_only_and_readable_by_engines(desk, origin):
    manifest = manifest_of(origin)

    pull(desk, manifest)

    place = published(desk, manifest)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in place.rglob("*") if path.is_file()}
    assert modes == {0o444}
    assert stat.S_IMODE((place / "sub").stat().st_mode) == 0o555


def test_a_second_pull_asks_no_origin(desk, origin):
    manifest = manifest_of(origin)
    pull(desk, manifest)
    before = origin.requests.total()

    outcome = pull(desk, manifest)

    assert outcome.operation.state is State.SUCCEEDED
    assert Phase.FETCHING not in outcome.phases
    assert origin.requests.total() == before


def test_a_later_revision_fetches_only_what_differs_and_shares_the_rest(desk, origin):
    manifest = manifest_of(origin)
    pull(desk, manifest)
    changed = {**FILES, TOKENIZER: random_bytes(2 * MIB, 7)}
    origin.publish(REPOSITORY, changed, commit=LATER_COMMIT)
    origin.sent.clear()
    later = manifest_of(origin, changed, revision=LATER_COMMIT)

    pull(desk, later)

    assert origin.sent == {TOKENIZER: 2 * MIB}
    assert content_of(published(desk, later)) == changed
    assert content_of(published(desk, manifest)) == FILES
    assert (published(desk, later) / WEIGHTS).samefile(published(desk, manifest) / WEIGHTS)


def test_two_operations_share_one_fetch_and_one_that_leaves_does_not_end_it(desk, origin):
    manifest, origin.paused_at = manifest_of(origin), MIB
    first, leaving = desk.begin(PullModel(manifest=manifest))
    second, staying = desk.begin(PullModel(manifest=manifest))
    desk.until_phase(first, Phase.FETCHING)
    desk.until_phase(second, Phase.FETCHING)

    desk.host.operations.request_cancel(first)
    assert leaving.result(10).operation.state is State.CANCELLED
    origin.release.set()

    assert staying.result(20).operation.state is State.SUCCEEDED
    assert origin.all_sent == SIZE


# Starts ---------------------------------------------------------------------------------------------------------------


def a_start_with(manifest, *, path: str | None = None, **engine):
    facts = {"name": "small", "type": "test", "size": "42MB", "engines": ["tiny-test"]}
    model = Model.model_validate({**facts, "source": manifest.source, "path": path})
    command = a_start_of(model_mount="/models", **engine)
    return command.model_copy(update={"model": model, "manifest": manifest})


def test_a_start_fetches_a_missing_model_before_the_image_and_mounts_it(desk, origin, runtime):
    manifest = manifest_of(origin)

    outcome = desk.run_command(a_start_with(manifest, image="far:1"))

    assert outcome.phases == [Phase.FETCHING, Phase.PULLING, Phase.STARTING, Phase.LOADING, Phase.READY]
    assert [mount.source for mount in runtime.spec_of("test.svc-tiny-dial.alpha").mounts] == [
        str(published(desk, manifest))
    ]


def test_a_start_uses_what_people_put_at_the_path_of_the_model(desk, origin, model_root, runtime):
    (model_root / "small").mkdir()
    (model_root / "small" / "weights").write_bytes(b"by hand")

    outcome = desk.run_command(a_start_with(manifest_of(origin), path="small"))

    assert outcome.operation.state is State.SUCCEEDED
    assert origin.requests.total() == 0
    assert [mount.source for mount in runtime.spec_of("test.svc-tiny-dial.alpha").mounts] == [str(model_root / "small")]


# Interruptions --------------------------------------------------------------------------------------------------------


def test_a_cancel_keeps_what_is_there_and_the_next_pull_fetches_the_rest(desk, origin):
    manifest, origin.paused_from = manifest_of(origin), 16 * MIB
    id, ending = desk.begin(PullModel(manifest=manifest))
    assert eventually(lambda: [each.received for each in desk.host.models.listing()] == [SIZE - 21 * MIB])

    desk.host.operations.request_cancel(id)
    cancelled = ending.result(10)
    [journal] = desk.host.models.root.glob(".fetching/*/*/journal")
    journalled = journal.read_bytes()
    [partial] = desk.host.models.listing()
    assert journal.read_bytes() == journalled
    origin.release.set()
    assert eventually(lambda: not origin.sending)
    origin.sent.clear()
    outcome = pull(desk, manifest)

    assert cancelled.operation.state is State.CANCELLED
    assert (partial.verified, partial.size) == (False, SIZE)
    assert outcome.operation.state is State.SUCCEEDED
    assert origin.all_sent == SIZE - partial.received
    assert content_of(published(desk, manifest)) == FILES


def test_a_worker_that_shuts_down_requeues_the_fetch_for_its_own_host_and_keeps_what_is_there(desk, origin):
    manifest, origin.paused_from = manifest_of(origin), 16 * MIB
    id, ending = desk.begin(a_start_with(manifest), route=Route(f"cpu.{arch()}"))
    assert eventually(lambda: [each.received for each in desk.host.models.listing()] == [SIZE - 21 * MIB])

    desk.host.claims.cancel_all()

    with pytest.raises(WorkerShutdown):
        ending.result(10)
    record = desk.host.operations.get(id)
    assert (record.state, record.host) == (State.QUEUED, "alpha")
    assert [each.received for each in desk.host.models.listing()] == [SIZE - 21 * MIB]


def test_a_connection_that_is_cut_is_continued_at_its_byte(desk, origin):
    origin.faults[WEIGHTS] = Faults(cut_after=5 * MIB, times=4)
    manifest = manifest_of(origin)

    outcome = pull(desk, manifest)

    assert outcome.operation.state is State.SUCCEEDED
    assert content_of(published(desk, manifest)) == FILES
    assert origin.all_sent == SIZE


def test_an_origin_that_is_busy_is_asked_again_after_the_time_that_it_says(desk, origin):
    origin.faults[CONFIG] = Faults(status=429, retry_after="1", times=1)

    outcome = pull(desk, manifest_of(origin))

    said = " ".join(event.message or "" for event in outcome.events)
    assert outcome.operation.state is State.SUCCEEDED
    assert "429 Too Many Requests: refused: Scripted; it asks to wait 1s." in said


def test_an_origin_without_ranges_sends_whole_files(desk, origin):
    origin.faults[WEIGHTS] = Faults(no_ranges=True)
    manifest = manifest_of(origin)

    outcome = pull(desk, manifest)

    assert outcome.operation.state is State.SUCCEEDED, outcome.operation.failure
    assert content_of(published(desk, manifest)) == FILES


def test_an_expired_address_of_a_redirect_is_resolved_again(desk, origin):
    origin.faults[WEIGHTS] = Faults(redirect=origin.url.replace("127.0.0.1", "localhost"), times=1)
    manifest = manifest_of(origin)

    outcome = pull(desk, manifest)

    assert outcome.operation.state is State.SUCCEEDED, outcome.operation.failure
    assert content_of(published(desk, manifest)) == FILES


def test_the_end_of_a_piece_is_read_at_once_however_few_bytes_it_has(desk, origin):
    content = {**FILES, WEIGHTS: random_bytes(18 * MIB + 1, 5)}
    origin.publish(REPOSITORY, content)

    outcome = pull(desk, manifest_of(origin, content))

    asked = sum(number for path, number in origin.requests.items() if path.endswith(WEIGHTS))
    assert outcome.operation.state is State.SUCCEEDED, outcome.operation.failure
    assert asked == 2, "a read that waits for more bytes than are left is repeated after its timeout"


def test_more_bytes_than_were_requested_are_not_taken(desk, origin):
    origin.faults[WEIGHTS] = Faults(longer_by=100, times=1)
    manifest = manifest_of(origin)

    outcome = pull(desk, manifest)

    assert outcome.operation.state is State.SUCCEEDED, outcome.operation.failure
    assert content_of(published(desk, manifest)) == FILES


def test_a_damaged_piece_of_an_earlier_fetch_is_fetched_again(desk, origin):
    manifest, origin.paused_from = manifest_of(origin), 16 * MIB
    id, ending = desk.begin(PullModel(manifest=manifest))
    place = desk.host.models.root / ".fetching/small" / manifest.name
    assert eventually(lambda: [each.received for each in desk.host.models.listing()] == [SIZE - 21 * MIB])
    desk.host.operations.request_cancel(id)
    ending.result(10)
    origin.release.set()
    damaged = place / "files" / WEIGHTS
    content = bytearray(damaged.read_bytes())
    content[100] ^= 1
    damaged.write_bytes(content)

    outcome = pull(desk, manifest)

    assert outcome.operation.state is State.SUCCEEDED, outcome.operation.failure
    assert content_of(published(desk, manifest)) == FILES
    assert [origin.sent_of[WEIGHTS, piece] // MIB for piece in range(3)] == [32, 16, 5]
    journal = published(desk, manifest).with_name("journal").read_text()
    assert f" 0 {'0' * 64}\n" in journal, "the data plane would have sent the damaged piece"


# Failures -------------------------------------------------------------------------------------------------------------


def test_an_abort_meets_a_connection_that_its_own_thread_closes_just_then() -> None:
    class Closing(HTTPConnection):
        """It is open only the first time that it is looked at."""

        left = 1

        @property
        def sock(self) -> socket.socket | None:
            self.left -= 1
            return ours if self.left == 0 else None

        @sock.setter
        def sock(self, _: object) -> None: ...

    ours, theirs = socket.socketpair()
    client = OriginClient(host="alpha", token=None, stall=timedelta(seconds=1))
    client._connections = {("http", "origin"): Closing("origin")}
    with ours, theirs:
        client.abort()

        assert theirs.recv(1) == b"", "a read that was blocked there would go on"


@pytest.mark.parametrize("stall", [timedelta(seconds=2)], ids=["after 2s"])
def test_a_stall_ends_the_fetch_with_its_reason_and_keeps_what_is_there(desk, origin):
    origin.faults[WEIGHTS] = Faults(stall_after=0)
    manifest = manifest_of(origin)

    outcome = pull(desk, manifest)

    assert outcome.code == "fetch_stalled"
    assert "no byte arrived for 2s" in outcome.operation.failure.message
    assert published(desk, manifest) is None
    assert [each.received for each in desk.host.models.listing()] == [len(FILES[CONFIG]) + len(FILES[TOKENIZER])]


@pytest.mark.parametrize(
    ("faults", "code", "stall"),
    [
        (Faults(status=403), "source_denied", LATER),
        (Faults(status=401), "source_denied", LATER),
        (Faults(status=404), "source_unknown", LATER),
        (Faults(status=503), "fetch_stalled", SOON),
        (Faults(status=400), "origin_unreachable", LATER),
        (Faults(other_range=True), "fetch_stalled", SOON),
        (Faults(content=b"x" * MIB), "source_changed", LATER),
        (Faults(content=bytes(37 * MIB)), "wrong_bytes", LATER),
    ],
    ids=["403", "401", "404", "503", "400", "another range", "another size", "wrong bytes of the right length"],
)
def test_a_fault_of_the_origin_is_told_apart_and_nothing_is_published(desk, origin, faults, code):
    origin.faults[WEIGHTS] = faults
    manifest = manifest_of(origin)

    outcome = pull(desk, manifest)

    assert (outcome.operation.state, outcome.code) == (State.FAILED, code)
    assert published(desk, manifest) is None


def test_wrong_bytes_that_come_once_are_fetched_again(desk, origin):
    origin.faults[TOKENIZER] = Faults(content=random_bytes(3 * MIB, 9), times=1)
    manifest = manifest_of(origin)

    outcome = pull(desk, manifest)

    assert outcome.operation.state is State.SUCCEEDED
    assert origin.sent[TOKENIZER] == 6 * MIB
    assert content_of(published(desk, manifest)) == FILES


def test_a_model_that_does_not_fit_is_refused_with_the_numbers_before_a_byte_is_fetched(desk, origin):
    desk.host.fetches._settings.host.__dict__["disk_reserve"] = 1 << 60

    outcome = pull(desk, manifest_of(origin))

    assert outcome.code == "model_disk_full"
    assert "41.9 MB are to be fetched" in outcome.operation.failure.message
    assert origin.requests.total() == 0
    assert desk.host.models.listing() == ()


def test_a_disk_that_fills_up_meanwhile_ends_the_fetch_and_leaves_nothing(desk, origin, monkeypatch):
    def full(self, descriptor, content, at):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("aima_worker.models.store.PartialModel.write", full)

    outcome = pull(desk, manifest_of(origin))

    assert outcome.code == "model_disk_full"
    assert [*desk.host.models.root.rglob("*.safetensors")] == []


def test_a_published_file_that_was_changed_is_not_used_and_fetched_again(desk, origin):
    manifest = manifest_of(origin)
    pull(desk, manifest)
    altered = published(desk, manifest) / CONFIG
    altered.chmod(0o644)
    altered.write_bytes(b'{"layers": 3}')
    [listed] = desk.host.models.listing()
    origin.sent.clear()

    outcome = pull(desk, manifest)

    assert listed.verified is False
    assert outcome.operation.state is State.SUCCEEDED
    assert content_of(published(desk, manifest)) == FILES
    assert origin.sent[WEIGHTS] == 0


# Tokens ---------------------------------------------------------------------------------------------------------------


def test_a_gated_model_is_fetched_with_the_token_of_the_host(desk, origin):
    origin.publish(REPOSITORY, FILES, gated_for="hf_secret")
    secret = desk.host.secrets.directory / "huggingface"
    secret.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    secret.touch(mode=0o600)
    secret.write_text("hf_secret\n")
    manifest = manifest_of(origin)

    without, given = pull(desk, manifest), pull(desk, manifest, token="huggingface")

    assert (without.code, given.operation.state) == ("source_denied", State.SUCCEEDED)
    assert "`token`" in without.operation.failure.hint


def test_a_missing_token_fails_the_pull_with_its_place(desk, origin):
    outcome = pull(desk, manifest_of(origin), token="huggingface")

    assert outcome.code == "secret_missing"
    assert origin.requests.total() == 0


# Removal --------------------------------------------------------------------------------------------------------------


def test_a_model_is_removed_with_all_that_is_there_of_it(desk, origin):
    manifest = manifest_of(origin)
    pull(desk, manifest)

    outcome = desk.run_command(RemoveModel(model=manifest.model))

    assert outcome.phases == [Phase.REMOVING, Phase.REMOVED]
    assert desk.host.models.listing() == ()
    assert content_of(desk.host.models.root) == {}
    assert desk.run_command(RemoveModel(model=manifest.model)).code == "model_absent"


def test_a_model_that_an_instance_mounts_is_not_removed(desk, origin):
    manifest = manifest_of(origin)
    desk.run_command(a_start_with(manifest))

    outcome = desk.run_command(RemoveModel(model=manifest.model))

    assert outcome.code == "model_in_use"
    assert "svc-tiny-dial@alpha" in outcome.operation.failure.message
    assert content_of(published(desk, manifest)) == FILES


def test_a_model_that_is_being_fetched_is_not_removed(desk, origin):
    manifest, origin.paused_at = manifest_of(origin), MIB
    id, fetched = desk.begin(PullModel(manifest=manifest))
    desk.until_phase(id, Phase.FETCHING)

    refused = desk.run_command(RemoveModel(model=manifest.model))
    origin.release.set()

    assert refused.code == "model_in_use"
    assert fetched.result(20).operation.state is State.SUCCEEDED


# Room on the disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def announced(desk):
    """The host has joined, with facts of a moment ago: nothing in its store, and a disk of plenty."""
    facts = host_facts(desk.host.settings, desk.host.runtime, models=())
    desk.host.hosts.announce(facts)
    desk.host.hosts.join(desk.host.name, identity=facts.identity, session="the test's")


def without_room(desk, monkeypatch, free: int = 1 << 20) -> None:
    usage = shutil.disk_usage("/")._replace(free=free)
    monkeypatch.setattr("aima_worker.models.steps.shutil.disk_usage", lambda _: usage)
    desk.host.fetches.measure_disk()
    monkeypatch.undo()


def test_a_start_without_room_for_its_model_waits_and_is_claimed_once_there_is(desk, origin, announced, monkeypatch):
    woken = []
    desk.host.models.changed = lambda: woken.append("announce")
    without_room(desk, monkeypatch)

    outcome = desk.run_command(a_start_with(manifest_of(origin)))
    waits = outcome.operation.state, outcome.operation.host, outcome.operation.reason
    desk.host.fetches.measure_disk()
    desk.finish(outcome.operation.id)

    assert waits[:2] == (State.QUEUED, None)
    assert waits[2] == ("No host has capacity now. alpha: not enough disk free for the model. It starts when one has.")
    assert woken[0] == "announce"
    assert desk.outcome(outcome.operation.id).operation.state is State.SUCCEEDED


def test_a_host_without_room_starts_a_model_that_it_has(desk, origin, announced, monkeypatch):
    manifest = manifest_of(origin)
    pull(desk, manifest)
    without_room(desk, monkeypatch, free=0)

    assert desk.run_command(a_start_with(manifest)).operation.state is State.SUCCEEDED


def test_the_room_is_what_is_free_above_the_reserve_and_not_awaited_by_running_fetches(desk, origin, announced):
    before = desk.host.fetches.measure_disk()
    origin.paused_at = MIB
    _, fetch = desk.begin(PullModel(manifest=manifest_of(origin)))
    assert eventually(lambda: origin.all_sent >= MIB)
    assert eventually(lambda: [each.fetching for each in desk.host.models.listing()] == [True])

    disk = desk.host.fetches.disk  # of the same measurement: the fetch has begun since
    origin.release.set()

    assert (before.awaited, disk.free) == (0, before.free)
    assert 35 * MIB < disk.awaited <= SIZE
    assert desk.host.capacity_now().model_disk <= before.usable
    assert fetch.result().operation.state is State.SUCCEEDED
    assert desk.host.fetches.disk.awaited == 0
    assert [each.fetching for each in desk.host.models.listing()] == [False]


def test_the_rate_of_a_fetch_is_measured_from_its_beginning(desk, origin):
    assert desk.host.fetches.rate is None
    origin.paused_at = 20 * MIB

    _, fetch = desk.begin(PullModel(manifest=manifest_of(origin)))
    assert eventually(lambda: desk.host.fetches.rate is not None)
    origin.release.set()
    fetch.result()

    assert 0 < desk.host.fetches.rate < SIZE / 0.5


def test_the_measured_rate_outlasts_the_worker(desk, origin, settings):
    origin.paused_at = 20 * MIB
    _, fetch = desk.begin(PullModel(manifest=manifest_of(origin)))
    assert eventually(lambda: desk.host.fetches.rate is not None)
    origin.release.set()
    fetch.result()

    after_a_restart = FetchCoordinator(desk.host.models, settings, open_directory=partial(opened_model, settings))

    assert after_a_restart.rate == desk.host.fetches.rate


@pytest.mark.parametrize("content", [b"", b"fast", b"-1", b"inf", b"nan", b"\xff"])
def test_an_unreadable_rate_is_none(desk, settings, content):
    (settings.state_dir / RATE_FILE).write_bytes(content)

    assert FetchCoordinator(desk.host.models, settings, open_directory=partial(opened_model, settings)).rate is None


def test_the_disk_of_a_store_that_was_not_made_yet_is_that_of_a_directory_above_it(desk):
    assert not desk.host.models.root.exists()

    disk = desk.host.fetches.measure_disk()

    assert disk.total == shutil.disk_usage(desk.host.models.root.parent).total
    assert disk.reserve == 1000
