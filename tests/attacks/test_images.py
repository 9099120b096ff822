"""Images as an attacker's way in or out: the owner of a name in a public registry, and keys that may not remove."""

from __future__ import annotations

import pytest
from api.catalog.entries import ENGINE, write
from api.node import ScriptedWorker
from lab.commands import SERVICE, a_pull, a_start_of, enqueue_signed
from lab.desk import desk_of
from pydantic import SecretStr

from aima_api.catalog.loader import find_mistakes
from aima_core.domain.operations import RemoveImage
from aima_core.settings import Settings
from aima_worker.node.hardware import arch
from aima_worker.runtimes.fake.runtime import FakeRuntime
from aima_worker.runtimes.fake.streams import Published

pytestmark = pytest.mark.redis

BUILT = "aima/dial:1"
PULLED = "ollama/ollama:latest"


@pytest.fixture
def squatted() -> FakeRuntime:
    """A host whose public registry has an image of somebody else under AIMA's name."""
    runtime = FakeRuntime(host="alpha", arch=arch(), images=["tiny:1"])
    runtime.published[BUILT] = Published()
    return runtime


@pytest.fixture
def desk(tmp_path, redis, squatted):
    settings = Settings.model_validate(
        {
            "state_dir": tmp_path / "state",
            "installation": "test",
            "signing_key": "the seed of the tests' own signing key",
            "host": {"name": "alpha", "ports": "18500-18599"},
        }
    )
    with desk_of(settings, redis, squatted, probe=squatted.probe) as desk:
        yield desk


def test_an_image_that_is_built_on_hosts_is_not_taken_from_the_owner_of_its_name(desk, squatted):
    outcome = desk.run_command(a_start_of(image=BUILT, pull="never"))

    assert outcome.code == "image_never_pulled"
    assert squatted.image(BUILT) is None
    assert desk.containers() == []


def test_an_order_with_another_pull_policy_than_its_command_is_refused(desk, squatted):
    loosened = a_start_of(image=BUILT)
    id = enqueue_signed(desk.host.operations, a_start_of(image=BUILT, pull="never")).id
    desk.host.operations._redis.hset(f"aima:operation:{id}", "command", loosened.model_dump_json())

    outcome = desk.finish(id)

    assert outcome.code == "order_refused"
    assert squatted.image(BUILT) is None


def test_an_operator_cannot_have_an_image_pulled_that_is_built_on_hosts(guarded, redis):
    ScriptedWorker(redis)
    key = guarded.create("operator", "operate")

    pulled = guarded.ask("POST", "/v1/images:pull", key, json={"engine": "dial-cpu"})
    spelled = guarded.ask("POST", "/v1/images:pull", json={"image": f"docker.io/{BUILT}"})
    started = guarded.ask("POST", f"/v1/services/{SERVICE}:start", key, json={"pull": "missing"})

    assert [each.json()["code"] for each in (pulled, spelled)] == ["image_never_pulled"] * 2
    assert started.json()["code"] == "invalid_request"


def test_an_image_is_removed_by_an_admin_only(guarded, redis):
    images = [{"reference": PULLED, "digest": None}]
    ScriptedWorker(redis, images=images)
    keys = [guarded.create(scope, scope) for scope in ("read", "operate")]

    answers = [guarded.ask("POST", "/v1/images:remove", key, json={"images": [PULLED]}) for key in keys]

    assert [answer.json()["code"] for answer in answers] == ["insufficient_scope"] * 2
    assert guarded.ask("POST", "/v1/images:remove", json={"images": [PULLED]}).status_code == 202


def test_a_removal_that_an_unknown_key_has_signed_is_refused(desk, squatted):
    forger = SecretStr("a seed that only the forger knows, and no API node")
    id = enqueue_signed(desk.host.operations, RemoveImage(image="tiny:1"), key=forger).id

    outcome = desk.finish(id)

    assert outcome.code == "bad_signature"
    assert squatted.image("tiny:1") is not None


def test_a_signed_pull_is_no_removal(desk, squatted):
    id = enqueue_signed(desk.host.operations, a_pull("tiny:1")).id
    redis = desk.host.operations._redis
    redis.hset(f"aima:operation:{id}", "command", RemoveImage(image="tiny:1").model_dump_json())
    redis.hset(f"aima:operation:{id}", "kind", "remove")

    outcome = desk.finish(id)

    assert outcome.code == "order_refused"
    assert squatted.image("tiny:1") is not None


def test_an_admin_cannot_remove_an_image_in_use_behind_the_back_of_the_records(desk, squatted, redis):
    desk.run_command(a_start_of())
    redis.delete(f"aima:instance:{SERVICE}@alpha")

    outcome = desk.run_command(RemoveImage(image="tiny:1"))

    assert outcome.code == "image_in_use"
    assert squatted.image("tiny:1") is not None


def test_an_engine_file_that_would_ask_a_public_registry_for_an_image_of_the_hosts_is_a_mistake(tmp_path):
    file = write(tmp_path / "engines/parrot/parrot-cpu.yaml", ENGINE.replace("example.org/parrot:1.0", BUILT))

    [mistake] = find_mistakes(tmp_path)

    assert mistake.file == file
    assert "is built on the hosts" in mistake.problem
    write(file, file.read_text().replace("port: 8000", "port: 8000\npull: never"))
    assert find_mistakes(tmp_path) == []
