"""Images of hosts over HTTP: the listing with its users, pulls that are refused, and removals."""

from __future__ import annotations

import pytest
from api.node import SERVICE, ScriptedWorker

from aima_core.domain.ids import InstanceId
from aima_core.domain.services import Desired, Instance, InstanceState
from aima_core.store.operations import now
from aima_core.store.services import ServiceStore

pytestmark = pytest.mark.redis

DIGEST = f"sha256:{'1' * 64}"
OLLAMA, DIAL, FOREIGN = "ollama/ollama:latest", "aima/dial:1", "somebody/else:1"
IMAGES = [
    {"reference": OLLAMA, "digest": DIGEST, "id": "sha256:ollama", "size": 5_000},
    {"reference": DIAL, "digest": None, "id": "sha256:dial", "size": 2_000},
    {"reference": FOREIGN, "digest": None, "id": "sha256:else", "size": 1_000},
]


def runs(redis, image: str, image_id: str | None, *, host: str = "alpha", service: str = SERVICE) -> None:
    """A ready instance of that image."""
    instance = Instance(
        id=InstanceId(f"{service}@{host}"),
        desired=Desired.RUNNING,
        fence=1,
        state=InstanceState.READY,
        image=image,
        image_id=image_id,
        since=now(),
    )
    ServiceStore(redis).set_desired(instance)
    ServiceStore(redis).update_status(instance)


def refusal(reply) -> tuple[int, str]:
    return reply.status_code, reply.json()["code"]


def removed(reply) -> list[tuple[str, str]]:
    assert reply.status_code == 202, reply.text
    return [(each["image"], each["route"]) for each in reply.json()["operations"]]


def test_images_are_listed_with_their_digests_and_users(node, redis):
    ScriptedWorker(redis, "alpha", images=IMAGES)
    ScriptedWorker(redis, "beta", images=IMAGES[:1])
    runs(redis, DIAL, "sha256:dial")

    listed = node.get("/v1/images").json()["items"]

    assert [(each["host"], each["reference"], each["digest"]) for each in listed] == [
        ("alpha", DIAL, None),
        ("alpha", OLLAMA, DIGEST),
        ("alpha", FOREIGN, None),
        ("beta", OLLAMA, DIGEST),
    ]
    assert listed[0]["used_by"] == [f"{SERVICE}@alpha"]
    assert listed[0]["engines"] == ["dial-cpu"]
    assert listed[1]["used_by"] == listed[0]["outdated"] == []


def test_images_are_paged_and_filtered_by_host(node, redis):
    ScriptedWorker(redis, "alpha", images=IMAGES)
    ScriptedWorker(redis, "beta", images=IMAGES[:1])

    first = node.get("/v1/images", params={"limit": 3}).json()
    second = node.get("/v1/images", params={"limit": 3, "cursor": first["next"]}).json()
    of_beta = node.get("/v1/images", params={"host": "beta"}).json()["items"]

    assert [len(first["items"]), len(second["items"]), second["next"]] == [3, 1, None]
    assert [each["host"] for each in of_beta] == ["beta"]
    assert refusal(node.get("/v1/images", params={"host": "gamma"})) == (404, "unknown_host")


def test_an_instance_of_a_reference_that_has_moved_is_outdated_and_uses_the_earlier_image(node, redis):
    earlier = {"reference": f"ollama/ollama@sha256:{'2' * 64}", "digest": f"sha256:{'2' * 64}", "id": "sha256:earlier"}
    ScriptedWorker(redis, "alpha", images=[*IMAGES, earlier])
    runs(redis, OLLAMA, "sha256:earlier")

    listed = {each["reference"]: each for each in node.get("/v1/images").json()["items"]}

    assert (listed[OLLAMA]["used_by"], listed[OLLAMA]["outdated"]) == ([], [f"{SERVICE}@alpha"])
    assert listed[earlier["reference"]]["used_by"] == [f"{SERVICE}@alpha"]


def test_an_engine_is_shown_with_its_digests_or_without_a_claim_to_one(node):
    shown = node.get("/v1/engines/ollama-cpu").json()

    assert shown["digests"] == {OLLAMA: "unresolved"}


# Pulls --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", [DIAL, "docker.io/aima/dial:1", "index.docker.io/aima/dial", "aima/dial:2"])
def test_an_image_that_is_built_on_the_hosts_is_never_pulled_under_any_spelling(node, worker, image):
    assert refusal(node.post("/v1/images:pull", {"image": image})) == (422, "image_never_pulled")


def test_the_refusal_of_a_pull_names_the_command_that_builds_the_image(node, worker):
    refused = node.post("/v1/images:pull", {"engine": "dial-cpu"}).json()

    assert refused["code"] == "image_never_pulled"
    assert refused["hint"] == "Build it on each host: `aima engine build dial-cpu`."


def test_a_service_cannot_have_an_image_pulled_that_its_engine_never_pulls(node, worker):
    for pull in ("missing", "always"):
        assert refusal(node.post(f"/v1/services/{SERVICE}:start", {"pull": pull})) == (422, "invalid_request")

    assert node.get(f"/v1/services/{SERVICE}").status_code == 404


def test_the_pull_policy_of_a_service_is_stored_and_ordered(node, redis):
    ScriptedWorker(redis, "alpha")

    node.post("/v1/services/svc-ollama-x:start", {"engine": "ollama-cpu", "model_path": "store", "pull": "always"})

    assert node.get("/v1/services/svc-ollama-x").json()["pull"] == "always"
    [record] = [redis.hgetall(key) for key in redis.scan_iter("aima:operation:*")]
    assert '"pull":"always"' in record["order"]


def test_hosts_of_native_processes_are_refused_or_left_out(node, redis):
    ScriptedWorker(redis, "alpha")
    ScriptedWorker(redis, "native", runtime="process")

    named = node.post("/v1/images:pull", {"engine": "ollama-cpu", "hosts": ["native"]})
    everywhere = node.post("/v1/images:pull", {"engine": "ollama-cpu"}).json()["operations"]
    removal = node.post("/v1/images:remove", {"images": [OLLAMA], "hosts": ["native"]})

    assert refusal(named) == refusal(removal) == (422, "no_images_here")
    assert [each["route"] for each in everywhere] == ["host.alpha"]


def test_an_engine_cannot_be_pulled_where_all_hosts_run_native_processes(node, redis):
    ScriptedWorker(redis, "native", runtime="process")

    assert refusal(node.post("/v1/images:pull", {"engine": "ollama-cpu"})) == (422, "no_images_here")


# Removals -----------------------------------------------------------------------------------------------------------


def test_an_image_is_removed_from_every_live_host_that_has_it(node, redis):
    ScriptedWorker(redis, "alpha", images=IMAGES)
    ScriptedWorker(redis, "beta", images=IMAGES)
    ScriptedWorker(redis, "empty")
    ScriptedWorker(redis, "gone", images=IMAGES).leave()

    operations = removed(node.post("/v1/images:remove", {"images": [OLLAMA]}))

    assert operations == [(OLLAMA, "host.alpha"), (OLLAMA, "host.beta")]


def test_unused_images_are_those_of_the_catalog_that_can_be_pulled_again(node, redis):
    ScriptedWorker(redis, "alpha", images=IMAGES)
    ScriptedWorker(redis, "beta", images=IMAGES)
    runs(redis, OLLAMA, "sha256:ollama", host="beta")

    operations = removed(node.post("/v1/images:remove", {"unused": True}))

    assert operations == [(OLLAMA, "host.alpha")]


def test_an_image_that_the_catalog_does_not_name_is_removed_if_it_is_named(node, redis):
    ScriptedWorker(redis, "alpha", images=IMAGES)

    assert removed(node.post("/v1/images:remove", {"images": [FOREIGN, DIAL]})) == [
        (FOREIGN, "host.alpha"),
        (DIAL, "host.alpha"),
    ]


def test_nothing_is_removed_if_one_of_the_images_is_in_use(node, redis):
    ScriptedWorker(redis, "alpha", images=IMAGES)
    runs(redis, DIAL, "sha256:dial")

    refused = node.post("/v1/images:remove", {"images": [OLLAMA, DIAL]})

    assert refusal(refused) == (409, "image_in_use")
    assert f"{SERVICE}@alpha" in refused.json()["detail"]
    assert node.get("/v1/operations").json()["items"] == []


def test_an_image_that_no_live_host_has_is_absent(node, redis):
    ScriptedWorker(redis, "alpha", images=IMAGES)

    assert refusal(node.post("/v1/images:remove", {"images": ["no/such:1"]})) == (404, "image_absent")


@pytest.mark.parametrize("body", [{}, {"images": [OLLAMA], "unused": True}])
def test_a_removal_names_images_or_the_unused_ones(node, body):
    assert refusal(node.post("/v1/images:remove", body)) == (422, "invalid_request")


# Placement ----------------------------------------------------------------------------------------------------------


def test_a_start_goes_to_a_host_that_has_what_is_never_pulled(node, redis):
    ScriptedWorker(redis, "alpha")
    ScriptedWorker(redis, "beta", images=IMAGES)

    [start] = node.start(SERVICE)

    assert start["route"] == "host.beta"


def test_a_start_goes_to_any_host_of_its_route_if_none_has_announced_what_is_never_pulled(node, redis):
    ScriptedWorker(redis, "alpha")
    ScriptedWorker(redis, "beta")

    [start] = node.start(SERVICE)

    assert start["route"] == "cpu.amd64"


def test_a_plan_names_what_a_host_lacks_and_how_it_is_built(node, redis):
    ScriptedWorker(redis, "alpha")

    planned = node.post(f"/v1/services/{SERVICE}:plan", {"hosts": ["alpha"]}).json()

    assert planned["verdict"] == "waits"
    assert planned["operations"][0]["reason"] == (
        "alpha lacks aima/dial:1, which is never pulled; `aima engine build dial-cpu` builds it."
    )
