"""Models as an attacker's way in: hostile origins, forged manifests, paths that lead elsewhere, and the store."""

from __future__ import annotations

import os

import pytest
from lab.commands import SIGNING_KEY, a_start_of, enqueue_signed
from lab.desk import desk_of
from lab.model_origin import Faults, model_origin
from worker.models.conftest import CONFIG, FILES, REPOSITORY, TOKENIZER, WEIGHTS, in_directory, manifest_of

from aima_core.domain.models import Manifest, ManifestFile
from aima_core.domain.operations import PullModel, StartService, State
from aima_core.settings import Settings
from aima_worker.node.hardware import arch
from aima_worker.runtimes.fake.runtime import FakeRuntime

pytestmark = pytest.mark.redis

TOKEN = "hf_the_token_of_this_host"


@pytest.fixture
def origin():
    with model_origin() as origin:
        origin.publish(REPOSITORY, FILES)
        yield origin


@pytest.fixture
def desk(tmp_path, redis):
    """The host that is attacked."""
    host = {"name": "alpha", "ports": "18500-18599", "model_stall": "30s", "disk_reserve": "1kB"}
    (tmp_path / "models").mkdir()
    host |= {"model_roots": [tmp_path / "models"], "trusted_model_roots": [tmp_path / "models"]}
    settings = Settings.model_validate(
        {"state_dir": tmp_path / "state", "installation": "test", "signing_key": SIGNING_KEY, "host": host}
    )
    runtime = FakeRuntime(host="alpha", arch=arch(), images=["tiny:1"])
    with desk_of(settings, redis, runtime, probe=runtime.probe) as desk:
        yield desk


@pytest.fixture
def token(desk):
    secret = desk.host.secrets.directory / "huggingface"
    secret.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    secret.touch(mode=0o600)
    secret.write_text(TOKEN)
    return "huggingface"


def pull(desk, manifest, **more):
    return desk.run_command(PullModel(manifest=manifest, **more))


def files_of(desk) -> list[str]:
    return sorted(path.name for path in desk.host.models.root.rglob("*") if path.is_file())


def test_a_token_is_not_sent_to_the_host_that_an_origin_redirects_to(desk, origin, token):
    origin.publish(REPOSITORY, FILES, gated_for=TOKEN)
    elsewhere = origin.url.replace("127.0.0.1", "localhost")
    origin.faults = {path: Faults(redirect=elsewhere) for path in FILES}

    outcome = pull(desk, manifest_of(origin), token=token)

    sent = {host.partition(":")[0]: given for host, given in origin.tokens}
    assert outcome.operation.state is State.SUCCEEDED, outcome.operation.failure
    assert sent == {"127.0.0.1": f"Bearer {TOKEN}", "localhost": None}


def test_a_token_is_not_sent_without_tls_beyond_this_machine(desk, origin, token):
    manifest = manifest_of(origin).model_copy(update={"endpoint": "http://192.0.2.1:9"})

    outcome = pull(desk, manifest, token=token)

    assert outcome.code == "source_denied"
    assert "over TLS only" in outcome.operation.failure.message


def test_no_record_and_no_event_has_the_token(desk, origin, token, redis):
    origin.publish(REPOSITORY, FILES, gated_for="another")

    outcome = pull(desk, manifest_of(origin), token=token)

    assert outcome.code == "source_denied"
    assert TOKEN not in outcome.operation.model_dump_json() + "".join(map(str, outcome.events))


def test_wrong_bytes_of_the_right_length_and_etag_are_never_published(desk, origin):
    wrong = bytearray(FILES[WEIGHTS])
    wrong[20 << 20] ^= 1
    origin.faults[WEIGHTS] = Faults(content=bytes(wrong))
    manifest = manifest_of(origin)

    outcome = pull(desk, manifest)

    assert outcome.code == "wrong_bytes"
    assert WEIGHTS in outcome.operation.failure.message
    assert desk.host.models.find(manifest) is None


@pytest.mark.parametrize("path", ["../outside", "/etc/cron.d/x", "a/../../outside", "sub/./x", "line\nend"])
def test_a_manifest_with_a_path_that_leads_elsewhere_is_refused_although_it_is_signed(desk, origin, path, tmp_path):
    good = manifest_of(origin)
    hostile = good.files[0].model_copy(update={"path": path})
    manifest = Manifest.model_construct(**{**dict(good), "files": (*good.files, hostile)})

    outcome = desk.run_command(PullModel.model_construct(kind="pull-model", manifest=manifest, token=None))

    assert outcome.code == "invalid_request"
    assert origin.requests.total() == 0
    assert not (tmp_path / "outside").exists()


def test_a_file_that_is_also_a_directory_is_refused():
    with pytest.raises(ValueError, match="as a file and as a directory"):
        Manifest(
            model="small",
            source="hf:a/b",
            revision="1",
            files=(
                ManifestFile(path="a", size=1, sha256="0" * 64),
                ManifestFile(path="a/b", size=1, sha256="0" * 64),
            ),
        )


@pytest.mark.parametrize("forged", ["sha256", "endpoint"])
def test_a_manifest_that_a_writer_in_redis_has_changed_is_not_fetched(desk, origin, redis, forged):
    manifest = manifest_of(origin)
    id = enqueue_signed(desk.host.operations, PullModel(manifest=manifest)).id
    changed = {
        "sha256": manifest.model_copy(
            update={"files": tuple(each.model_copy(update={"sha256": "0" * 64}) for each in manifest.files)}
        ),
        "endpoint": manifest.model_copy(update={"endpoint": "http://127.0.0.1:9"}),
    }[forged]
    redis.hset(f"aima:operation:{id}", "command", PullModel(manifest=changed).model_dump_json())

    outcome = desk.finish(id)

    assert outcome.code == "order_refused"
    assert origin.requests.total() == 0


def test_an_order_for_one_model_fetches_no_other(desk, origin, redis):
    id = enqueue_signed(desk.host.operations, PullModel(manifest=manifest_of(origin))).id
    redis.hset(f"aima:operation:{id}", "model", "another")

    assert desk.finish(id).code == "order_refused"
    assert origin.requests.total() == 0


def test_a_store_that_others_can_write_is_refused(desk, origin):
    desk.host.models.root.mkdir()
    desk.host.models.root.chmod(0o777)

    outcome = pull(desk, manifest_of(origin))

    assert outcome.code == "model_store_unusable"
    assert origin.requests.total() == 0


def test_a_link_in_the_store_is_not_mounted(desk, origin, tmp_path):
    manifest = manifest_of(origin)
    pull(desk, manifest)
    place = desk.host.models.root / (desk.host.models.find(manifest) or "")
    moved = tmp_path / "moved"
    place.rename(moved)
    place.symlink_to(moved)

    start: StartService = a_start_of(model_mount="/models").model_copy(update={"manifest": manifest})
    outcome = desk.run_command(start)

    assert outcome.code == "model_path_unsafe"
    assert desk.containers() == []


def test_the_files_of_a_failed_fetch_are_not_below_what_engines_read(desk, origin):
    origin.faults[TOKENIZER] = Faults(status=404)

    pull(desk, manifest_of(origin))

    below = [path for path in desk.host.models.root.iterdir() if not path.name.startswith(".")]
    assert below == []
    assert CONFIG in files_of(desk)


# A directory as a source: what a catalog's author could have a worker read -------------------------------------------

SECRET = {"huggingface": TOKEN.encode()}


def named_instead(manifest: Manifest, path) -> Manifest:
    return manifest.model_copy(update={"source": f"file:{path}@alpha"})


def refusal(desk, manifest) -> str | None:
    """Nothing of it, such as a journalled piece, is left that other hosts could be sent."""
    outcome = pull(desk, manifest)
    partial = desk.host.models.root / ".fetching"
    assert TOKEN.encode() not in b"".join(path.read_bytes() for path in partial.rglob("*") if path.is_file())
    assert desk.host.models.find(manifest) is None
    return outcome.code


def test_no_directory_outside_of_the_model_roots_is_read_although_its_digests_are_right(desk, token, tmp_path):
    manifest = in_directory(tmp_path / "elsewhere", "mine", SECRET)
    secrets = named_instead(manifest, desk.host.secrets.directory)

    assert refusal(desk, manifest) == "model_path_outside"
    assert refusal(desk, secrets) == "model_path_outside"
    assert refusal(desk, named_instead(manifest, "/etc")) == "model_path_outside"


@pytest.mark.parametrize("link", ["directory", "parent", "file", "file below"])
def test_no_symbolic_link_in_a_directory_leads_to_secrets(desk, token, tmp_path, link):
    root, secrets = tmp_path / "models", desk.host.secrets.directory
    path = "huggingface" if link != "file below" else "sub/huggingface"
    manifest = in_directory(tmp_path / "elsewhere", "mine", {path: TOKEN.encode()})
    (root / "mine").mkdir()
    match link:
        case "directory":
            (root / "mine").rmdir()
            (root / "mine").symlink_to(secrets)
        case "parent":
            (root / "team").symlink_to(secrets.parent)
        case "file":
            (root / "mine/huggingface").symlink_to(secrets / "huggingface")
        case "file below":
            (root / "mine/sub").symlink_to(secrets)
    named = root / ("team/secrets" if link == "parent" else "mine")

    assert refusal(desk, named_instead(manifest, named)) in ("model_path_unsafe", "source_files_changed")


@pytest.mark.parametrize("where", ["state/secrets", "state", "."])
def test_secrets_below_a_model_root_are_not_read(redis, tmp_path, where):
    """As an owner may arrange it by mistake, with a model root above the state directory."""
    host = {"name": "alpha", "model_stall": "30s", "disk_reserve": "1kB"}
    host |= {"model_roots": [tmp_path], "trusted_model_roots": [tmp_path]}
    root = tmp_path / "below"
    settings = Settings.model_validate(
        {"state_dir": root / "state", "installation": "test", "signing_key": SIGNING_KEY, "host": host}
    )
    runtime = FakeRuntime(host="alpha", arch=arch(), images=["tiny:1"])
    with desk_of(settings, redis, runtime, probe=runtime.probe) as desk:
        path = {"state/secrets": "huggingface", "state": "secrets/huggingface", ".": "state/secrets/huggingface"}[where]
        manifest = in_directory(root, where, {path: TOKEN.encode()})

        assert refusal(desk, manifest) == "model_path_unsafe"


def test_a_named_pipe_in_a_directory_does_not_block_a_fetch(desk, tmp_path):
    manifest = in_directory(tmp_path / "models", "mine", SECRET)
    (tmp_path / "models/mine/huggingface").unlink()
    os.mkfifo(tmp_path / "models/mine/huggingface")

    assert refusal(desk, manifest) == "model_path_unsafe"


def test_a_directory_without_links_is_read(desk, tmp_path):
    """Else the refusals above would prove nothing."""
    manifest = in_directory(tmp_path / "models", "mine", SECRET)

    assert pull(desk, manifest).operation.state is State.SUCCEEDED
    assert desk.host.models.find(manifest)
