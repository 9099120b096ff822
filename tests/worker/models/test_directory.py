"""A model whose files lie on one host: that host copies them, and all others get them from hosts."""

from __future__ import annotations

import time

import pytest
from lab.hostile_peer import hostile_peer
from lab.parts import eventually
from lab.random_files import Random, RandomFiles
from lab.site import site
from worker.models.conftest import in_directory
from worker.models.test_sharing import state_all

from aima_core.domain.models import Source
from aima_core.domain.operations import Phase, PullModel, State
from aima_core.errors import NoHostSends, SourceFilesChanged, WrongBytes
from aima_core.redis import keys
from aima_worker.models.pieces import PIECE_SIZE

pytestmark = pytest.mark.redis

MIB = 1 << 20
FILES = RandomFiles({"config.json": b"{}", "sub/a.safetensors": Random(40 * MIB, 31), "empty.txt": b""})


@pytest.fixture
def root(tmp_path):
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def manifest(root):
    return in_directory(root, "mine", FILES)


def wait(host, fetch):
    """The published files."""
    fetch.wait()
    return host.content(fetch.fetch._order.manifest)


# On the host that has the directory -----------------------------------------------------------------------------------


def test_its_host_copies_the_files_which_are_no_links_to_them(redis, tmp_path, root, manifest):
    with site(redis, tmp_path, "alpha", serving=False, model_roots=[root]) as (alpha,):
        assert wait(alpha, alpha.fetch(manifest)) == FILES

        place = alpha.store.root / (alpha.store.find(manifest) or "")
        (root / "mine/config.json").write_bytes(b"[]")
        assert (place / "config.json").read_bytes() == b"{}"


def test_a_pull_of_it_is_an_operation_as_any_other(desk, tmp_path):
    manifest = in_directory(desk.host.settings.host.model_roots[0], "mine", FILES)

    outcome = desk.run_command(PullModel(manifest=manifest))

    assert outcome.operation.state is State.SUCCEEDED, outcome.operation.failure
    assert outcome.phases == [Phase.FETCHING, Phase.PULLED]
    assert outcome.operation.fetch.verified == FILES.size


def test_a_fetch_of_it_resumes_where_a_cancel_ended_it(redis, tmp_path, root, manifest):
    with site(redis, tmp_path, "alpha", serving=False, model_roots=[root], model_connections=1) as (alpha,):
        first = alpha.new_fetch(manifest)
        for progress in first:
            if progress.received >= PIECE_SIZE:
                break
        first.close()
        [before] = alpha.store.listing()
        again = alpha.fetch(manifest)

        assert before.received >= PIECE_SIZE
        assert wait(alpha, again) == FILES
        assert again.fetch._arrived == FILES.size - before.received


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (lambda file: file.unlink(), "No such file or directory"),
        (lambda file: file.write_bytes(b"{"), "it has 1 bytes instead of 2"),
        (lambda file: file.write_bytes(b"[]"), "it has the digest"),
    ],
    ids=["removed", "shorter", "other bytes"],
)
def test_a_file_that_has_changed_fails_the_fetch_with_the_remedy(redis, tmp_path, root, manifest, change, detail):
    change(root / "mine/config.json")
    with site(redis, tmp_path, "alpha", serving=False, model_roots=[root]) as (alpha,):
        with pytest.raises(SourceFilesChanged) as failed:
            alpha.fetch(manifest).wait()

        assert f"config.json: {detail}" in str(failed.value)
        assert f"aima model add file:{root}/mine --host alpha" in failed.value.failure.hint
        assert alpha.store.find(manifest) is None


def test_the_rate_of_downloads_limits_no_copy(redis, tmp_path, root, manifest):
    with site(redis, tmp_path, "alpha", serving=False, model_roots=[root], model_rate="100kB") as (alpha,):
        assert wait(alpha, alpha.fetch(manifest)) == FILES


# On other hosts -------------------------------------------------------------------------------------------------------


def test_another_host_gets_it_while_the_first_one_still_copies(redis, tmp_path, root, manifest):
    with site(redis, tmp_path, "alpha", "beta", model_roots=[root]) as (alpha, beta):
        later = beta.fetch(manifest)
        assert eventually(lambda: later.last is not None and later.last.waits_for is not None)
        assert "alpha" in later.last.waits_for

        alpha.fetch(manifest).wait()

        assert wait(beta, later) == FILES
        assert later.last.from_hosts == FILES.size


def test_another_host_reads_no_directory_of_the_same_path(redis, tmp_path, root, manifest):
    """Not even if it has one: the source is the directory of the host that it names."""
    with site(redis, tmp_path, "beta", model_roots=[root], model_stall="1s") as (beta,):
        with pytest.raises(NoHostSends) as failed:
            beta.fetch(manifest).wait()

        assert "aima model pull small --host alpha" in failed.value.failure.hint
        assert [each.received for each in beta.store.listing()] == [0]


def test_a_host_of_another_site_gets_it_from_the_one_that_has_the_directory(redis, tmp_path, root, manifest):
    more = {"model_roots": [root]}
    with (
        site(redis, tmp_path, "alpha", **more) as (alpha,),
        site(redis, tmp_path, "beta", site="other", **more) as (beta,),
    ):
        alpha.fetch(manifest).wait()
        alpha.join()

        assert wait(beta, beta.fetch(manifest)) == FILES


def test_a_host_gets_it_from_its_neighbours_while_the_directorys_host_is_away(redis, tmp_path, root, manifest):
    with site(redis, tmp_path, "alpha", "beta", "gamma", model_roots=[root]) as (alpha, beta, gamma):
        first, second = alpha.fetch(manifest), beta.fetch(manifest)
        first.wait(), second.wait()
        beta.join()
        alpha.die()

        assert wait(gamma, gamma.fetch(manifest)) == FILES


def test_without_a_certificate_it_waits_for_one_and_asks_no_origin(redis, tmp_path, root, manifest, soon):
    with site(redis, tmp_path, "beta", model_roots=[root], model_stall="2s") as (beta,):
        redis.flushall()
        at = time.monotonic()
        with pytest.raises(NoHostSends):
            beta.fetch(manifest).wait()

        assert time.monotonic() - at >= 2


def test_hosts_that_may_have_published_wrong_digests_are_avoided_where_no_origin_can_tell(
    redis, tmp_path, root, manifest
):
    with site(redis, tmp_path, "alpha", "beta", model_roots=[root]) as (alpha, beta), hostile_peer() as liar:
        alpha.fetch(manifest).wait()
        alpha.join()
        alpha.hosts.join("liar", identity="liar", session="test")
        redis.delete(*redis.keys(f"{keys.pieces}*"))
        state_all(redis, manifest, "liar", url=liar.url, digest_of=lambda _, length: liar.digest(length))

        fetch = beta.fetch(manifest)

        assert wait(beta, fetch) == FILES
        assert any("liar may have published wrong bytes" in notice for notice in fetch.notices), fetch.notices


def test_wrong_bytes_of_all_hosts_are_never_published(redis, tmp_path, root, manifest):
    with site(redis, tmp_path, "beta", model_roots=[root], model_stall="2s") as (beta,), hostile_peer() as liar:
        beta.hosts.join("liar", identity="liar", session="test")
        state_all(redis, manifest, "liar", url=liar.url, digest_of=lambda _, length: liar.digest(length))

        with pytest.raises((NoHostSends, WrongBytes)):
            beta.fetch(manifest).wait()

        assert beta.store.find(manifest) is None


# The source -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path", "host"),
    [
        ("file:/srv/models/mine@spark-01", "/srv/models/mine", "spark-01"),
        ("file:/srv/m@home/mine@spark-01", "/srv/m@home/mine", "spark-01"),
    ],
)
def test_the_host_is_what_follows_the_last_at_sign(text, path, host):
    source = Source.parse(text)

    assert (source.where, source.host) == (path, host)


@pytest.mark.parametrize(
    "text",
    [
        "file:/srv/models/mine",
        "file:mine@spark-01",
        "file:/srv/../etc@spark-01",
        "file:/srv//mine@spark-01",
        "file:/@spark-01",
        "file:/srv/mine@",
        "file:/srv/mine@Spark_01",
        "file:/srv/mi ne@spark-01",
        "file:///srv/mine@spark-01",
    ],
)
def test_a_source_without_an_absolute_plain_path_and_a_host_is_none(text):
    with pytest.raises(ValueError, match=r"file:/srv/models/mine@spark-01|no usable path"):
        Source.parse(text)
