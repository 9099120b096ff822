"""The source of a model is resolved once, by an API node, to a signed manifest; what is wrong with it is told apart."""

from __future__ import annotations

import hashlib
import json

import pytest
from api.models.conftest import FILES, REPOSITORY
from api.node import ScriptedWorker, api_node
from lab.commands import KEYS
from lab.model_origin import COMMIT, LATER_COMMIT, Faults, git_id

from aima_core.domain.operations import PullModel
from aima_core.redis import keys
from aima_core.trust.keys import Purpose
from aima_core.trust.records import SignedRecord

pytestmark = pytest.mark.redis

STORE = {"stored": []}


@pytest.fixture(autouse=True)
def host(redis) -> ScriptedWorker:
    """A live host that can fetch."""
    return ScriptedWorker(redis, "alpha", **STORE)


def pulled(node, redis, **body) -> PullModel:
    """The command of an accepted pull."""
    answer = node.post("/v1/models/polly:pull", body)
    assert answer.status_code == 202, answer.text
    [operation] = answer.json()["operations"]
    assert (operation["kind"], operation["model"]) == ("pull-model", "polly")
    return PullModel.model_validate_json(redis.hget(keys.operation(operation["id"]), "command"))


def refusal(node, **body) -> tuple[int, str]:
    answer = node.post("/v1/models/polly:pull", body)
    return answer.status_code, answer.json()["code"]


def use(node, overlay, source: str | None, **more: str) -> None:
    overlay.names(source, **more)
    assert node.post("/v1/catalog:reload").json()["mistakes"] == ""


def digests(command: PullModel) -> dict[str, str]:
    return {file.path: file.digest for file in command.manifest.files}


def test_a_branch_is_resolved_to_a_commit_with_the_digest_of_every_file(node, redis, origin):
    command = pulled(node, redis)

    assert command.manifest.revision == COMMIT
    assert command.manifest.endpoint == origin.url
    assert digests(command) == {
        path: hashlib.sha256(content).hexdigest() for path, content in FILES.items() if not path.startswith(".")
    }


def test_patterns_choose_the_files(node, redis, origin, overlay):
    use(node, overlay, f"hf:{REPOSITORY}@main", more="files: ['*.safetensors', config.json]\n")

    assert {*digests(pulled(node, redis))} == {"model.safetensors", "config.json"}


def test_a_later_pull_resolves_a_branch_again_and_a_commit_not(node, redis, origin, overlay):
    pulled(node, redis)
    origin.publish(REPOSITORY, FILES, commit=LATER_COMMIT)
    assert pulled(node, redis).manifest.revision == LATER_COMMIT

    use(node, overlay, f"hf:{REPOSITORY}@{LATER_COMMIT}")
    pulled(node, redis)
    before = origin.requests.total()
    pulled(node, redis)

    assert origin.requests.total() == before


def test_the_manifest_is_stored_signed_for_its_model(node, redis, origin):
    pulled(node, redis)

    record = SignedRecord.model_validate_json(redis.hget(keys.MANIFESTS, "polly"))
    manifest = json.loads(record.verified(KEYS, id="polly", purpose=Purpose.MANIFEST))

    assert manifest["revision"] == COMMIT


def test_small_files_of_a_gated_repository_are_pinned_by_their_git_ids(node, redis, origin):
    origin.publish(REPOSITORY, FILES, gated_for="hf_secret")

    command = pulled(node, redis)

    assert digests(command)["config.json"] == f"git-{git_id(FILES['config.json'])}"
    assert digests(command)["model.safetensors"] == hashlib.sha256(FILES["model.safetensors"]).hexdigest()
    assert {token for _, token in origin.tokens} == {None}


def test_the_name_of_the_secret_goes_to_the_host_and_its_value_to_nobody(node, redis, origin, overlay):
    use(node, overlay, f"hf:{REPOSITORY}", more="token: huggingface\n")

    assert pulled(node, redis).token == "huggingface"


def test_modelscope_is_resolved_to_a_commit_with_its_digests(node, redis, origin, overlay):
    use(node, overlay, f"modelscope:{REPOSITORY}@master", more="files: ['model.*']\n")

    command = pulled(node, redis)

    assert (command.manifest.revision, {*digests(command)}) == (COMMIT, {"model.bin", "model.safetensors"})
    url = command.manifest.url_of(command.manifest.files[0])
    assert url == f"{origin.url}/models/{REPOSITORY}/resolve/{COMMIT}/model.bin"


@pytest.mark.parametrize(
    ("source", "refused"),
    [
        (None, (422, "model_has_no_source")),
        ("hf:maker/none", (404, "source_unknown")),
        (f"hf:{REPOSITORY}@v9", (404, "source_unknown")),
        ("modelscope:maker/none", (404, "source_unknown")),
        ("https://127.0.0.1:9/polly.gguf#sha256=" + "a" * 64, (502, "origin_unreachable")),
    ],
)
def test_a_source_that_is_missing_is_refused(node, origin, overlay, source, refused):
    use(node, overlay, source)

    assert refusal(node) == refused


def test_an_origin_that_is_away_is_named(node, redis, origin, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")

    answer = node.post("/v1/models/polly:pull")

    assert (answer.status_code, answer.json()["code"]) == (502, "origin_unreachable")
    assert "HF_ENDPOINT" in answer.json()["hint"]
    assert redis.zcard(keys.ACTIVE) == 0


def test_patterns_that_choose_nothing_are_refused(node, origin, overlay):
    use(node, overlay, f"hf:{REPOSITORY}", more="files: ['*.gguf']\n")

    assert refusal(node) == (422, "source_unusable")


@pytest.mark.parametrize("path", ["../../etc/cron.d/x", "/etc/passwd", "a/../b", "line\nend", "a//b", "a\\b"])
def test_a_repository_with_a_path_that_leads_elsewhere_is_refused_as_a_whole(node, redis, origin, path):
    origin.publish(REPOSITORY, FILES | {path: b"x" * 200_000})

    assert refusal(node) == (422, "source_unusable")
    assert redis.zcard(keys.ACTIVE) == 0


def test_a_small_file_that_cannot_be_read_fails_the_resolution(node, origin):
    origin.faults["config.json"] = Faults(status=500)

    assert refusal(node) == (502, "origin_unreachable")


# Where it is pulled to ------------------------------------------------------------------------------------------------


def test_a_model_is_pulled_to_the_named_hosts_or_to_every_live_host_of_the_route(node, redis, origin):
    ScriptedWorker(redis, "beta", **STORE)
    ScriptedWorker(redis, "gone", **STORE).leave()

    named = node.post("/v1/models/Polly:pull", {"hosts": ["beta"]}).json()["operations"]
    routed = node.post("/v1/models/Polly:pull", {"route": "cpu.amd64"}).json()["operations"]

    assert [each["route"] for each in named] == ["host.beta"]
    assert [each["route"] for each in routed] == ["host.alpha", "host.beta"]
    assert refusal(node) == (422, "invalid_request")


def test_a_host_whose_worker_is_too_old_is_refused_with_the_reason(node, redis, origin):
    ScriptedWorker(redis, "older")

    answer = node.post("/v1/models/polly:pull", {"hosts": ["older"]})

    assert (answer.status_code, answer.json()["code"]) == (422, "requirements_not_met")
    assert "older cannot run model Polly: fetches no models (its worker is too old)." in answer.json()["detail"]


def test_a_removal_goes_to_every_live_host_that_has_the_model(node, redis, origin):
    has_it = {"model": "polly", "revision": COMMIT, "name": "x", "size": 5, "received": 5, "published": True}
    ScriptedWorker(redis, "beta", stored=[{**has_it, "verified": True}])

    removed = node.post("/v1/models/Polly:remove").json()["operations"]
    absent = node.post("/v1/models/other:remove")

    assert [(each["kind"], each["model"], each["route"]) for each in removed] == [
        ("remove-model", "polly", "host.beta")
    ]
    assert absent.json()["code"] == "model_absent"


@pytest.mark.parametrize("scope", ["read", "operate"])
def test_a_model_is_removed_by_an_admin_only(redis_url, redis, overlay, scope):
    has_it = {"model": "polly", "revision": COMMIT, "name": "x", "size": 5, "received": 5, "published": True}
    ScriptedWorker(redis, "beta", stored=[{**has_it, "verified": True}])
    admin = "an-owner-holds-this-key-7f3a"
    with api_node(redis_url, catalog=overlay.root, keys=[admin]) as node:
        made = node.post("/v1/keys", {"name": "k", "scopes": [scope]}, headers={"Authorization": f"Bearer {admin}"})
        headers = {"Authorization": f"Bearer {made.json()['key']}"}

        answer = node.post("/v1/models/polly:remove", headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope")
    assert redis.zcard(keys.ACTIVE) == 0


# Pins and collections -------------------------------------------------------------------------------------------------

HAS_IT = {"model": "polly", "revision": COMMIT, "name": "x", "size": 5, "received": 5, "published": True}


@pytest.mark.parametrize("verb", ["pin", "unpin"])
def test_a_pin_goes_to_every_live_host_that_has_the_model_or_to_those_named(node, redis, origin, verb):
    ScriptedWorker(redis, "beta", stored=[{**HAS_IT, "verified": True}])

    everywhere = node.post(f"/v1/models/Polly:{verb}").json()["operations"]
    named = node.post(f"/v1/models/polly:{verb}", {"hosts": ["alpha"]}).json()["operations"]
    absent = node.post(f"/v1/models/other:{verb}")

    found = [(each["kind"], each["model"], each["route"]) for each in (*everywhere, *named)]
    assert found == [(f"{verb}-model", "polly", "host.beta"), (f"{verb}-model", "polly", "host.alpha")]
    assert absent.json()["code"] == "model_absent"


def test_a_collection_goes_to_every_live_host_with_fetched_models(node, redis, origin):
    ScriptedWorker(redis, "beta", stored=[{**HAS_IT, "verified": True}])

    submitted = node.post("/v1/models:prune", {"all": True, "dry_run": True}).json()["operations"]

    assert [(each["kind"], each["route"]) for each in submitted] == [("prune-models", "host.beta")]
    command = json.loads(redis.hget(keys.operation(submitted[0]["id"]), "command"))
    assert command == {"kind": "prune-models", "all": True, "dry_run": True}


def test_the_listing_of_hosts_has_pins_and_the_last_use(node, redis, origin):
    used = {"pinned": True, "used_at": "2026-11-28T12:00:00Z"}
    ScriptedWorker(
        redis, "beta", stored=[{**HAS_IT, "verified": True, **used}, {**HAS_IT, "name": "y", "verified": True}]
    )

    items = node.get("/v1/models:stored").json()["items"]

    found = [(each["name"], each["pinned"], each["used_at"]) for each in items]
    assert found == [("x", True, "2026-11-28T12:00:00Z"), ("y", False, None)]


@pytest.mark.parametrize(
    ("scope", "path", "allowed"),
    [
        ("read", "/v1/models/polly:pin", False),
        ("read", "/v1/models/polly:unpin", False),
        ("operate", "/v1/models/polly:pin", True),
        ("operate", "/v1/models/polly:unpin", True),
        ("operate", "/v1/models:prune", False),
    ],
)
def test_an_operator_pins_models_and_an_admin_collects_them(redis_url, redis, overlay, scope, path, allowed):
    ScriptedWorker(redis, "beta", stored=[{**HAS_IT, "verified": True}])
    admin = "an-owner-holds-this-key-7f3a"
    with api_node(redis_url, catalog=overlay.root, keys=[admin]) as node:
        made = node.post("/v1/keys", {"name": "k", "scopes": [scope]}, headers={"Authorization": f"Bearer {admin}"})
        answer = node.post(path, headers={"Authorization": f"Bearer {made.json()['key']}"})

    assert answer.status_code == (202 if allowed else 403)
    assert redis.zcard(keys.ACTIVE) == int(allowed)


# Starts ---------------------------------------------------------------------------------------------------------------

SERVICE = "svc-parrot-polly"


def test_a_start_resolves_the_source_first_and_carries_the_manifest(node, redis, origin):
    [operation] = node.start(SERVICE)

    command = json.loads(redis.hget(keys.operation(operation["id"]), "command"))

    assert command["manifest"]["revision"] == COMMIT
    assert json.loads(redis.hget(keys.MANIFESTS, "polly"))


def test_a_start_asks_no_origin_where_people_put_the_files(node, redis, overlay):
    ScriptedWorker(redis, "has-it", models=["polly-dir"], **STORE)
    use(node, overlay, f"hf:{REPOSITORY}", more="path: polly-dir\n")

    [operation] = node.start(SERVICE, hosts=["has-it"])

    assert json.loads(redis.hget(keys.operation(operation["id"]), "command"))["manifest"] is None


def test_a_start_whose_source_cannot_be_resolved_is_refused_and_nothing_is_stored(node, redis, origin, overlay):
    use(node, overlay, "hf:maker/none")

    answer = node.post(f"/v1/services/{SERVICE}:start")

    assert answer.json()["code"] == "source_unknown"
    assert node.get(f"/v1/services/{SERVICE}").status_code == 404


def test_a_newer_manifest_of_the_same_source_replaces_no_running_instance(node, redis, origin, host):
    [first] = node.start(SERVICE)
    before = json.loads(redis.hget(keys.operation(first["id"]), "command"))
    origin.publish(REPOSITORY, FILES, commit=LATER_COMMIT)
    pulled(node, redis)

    [joined] = node.start(SERVICE)

    assert before["manifest"]["revision"] == COMMIT
    assert joined["id"] == first["id"]


def test_a_forged_manifest_in_redis_is_not_used(node, redis, origin):
    pulled(node, redis)
    record = json.loads(redis.hget(keys.MANIFESTS, "polly"))
    record["text"] = record["text"].replace(COMMIT, LATER_COMMIT)
    redis.hset(keys.MANIFESTS, "polly", json.dumps(record))

    [operation] = node.start(SERVICE)

    command = json.loads(redis.hget(keys.operation(operation["id"]), "command"))
    assert command["manifest"]["revision"] == COMMIT


# Listings -------------------------------------------------------------------------------------------------------------


def test_the_models_of_hosts_are_listed_with_how_far_they_are(node, redis):
    partial = {"model": "polly", "revision": COMMIT, "name": "x", "size": 100, "received": 40}
    ScriptedWorker(
        redis, "beta", stored=[{**partial, "published": False, "verified": False}], models=["GLM-4.7-Flash", "mine"]
    )

    items = node.get("/v1/models:stored", params={"host": "beta"}).json()["items"]

    assert [(each["model"], each["where"], each["received"], each["verified"]) for each in items] == [
        ("polly", "store", 40, False),
        (None, "path", None, False),
        ("glm-4.7-flash", "path", None, False),
    ]


# A directory of one host ----------------------------------------------------------------------------------------------

DIRECTORY = "file:/srv/models/polly@alpha"
CONTENTS = {"config.json": {"size": 2, "sha256": "a" * 64}, "model.bin": {"size": 9, "sha256": "b" * 64}}


def use_directory(node, overlay, contents=CONTENTS, more: str = "") -> None:
    use(node, overlay, DIRECTORY, more=f"contents: {json.dumps(contents)}\n{more}")


def submitted(redis) -> list[tuple[str, str]]:
    """Kinds and routes of all operations that have not ended."""
    records = [redis.hmget(keys.operation(id), ["kind", "route"]) for id in redis.zrange(keys.ACTIVE, 0, -1)]
    return sorted((kind, route) for kind, route in records)


def complete_on(redis, name: str, manifest) -> ScriptedWorker:
    has = {"model": "polly", "revision": manifest.revision, "name": manifest.name, "size": 11, "received": 11}
    return ScriptedWorker(redis, name, stored=[{**has, "published": True, "verified": True}])


def test_the_files_of_a_directory_are_pinned_by_the_catalog(node, redis, overlay):
    use_directory(node, overlay)

    manifest = pulled(node, redis, hosts=["alpha"]).manifest

    assert {file.path: (file.size, file.sha256) for file in manifest.files} == {
        path: (each["size"], each["sha256"]) for path, each in CONTENTS.items()
    }
    assert (manifest.source, manifest.size) == (DIRECTORY, 11)


def test_an_edit_of_the_contents_counts_at_once(node, redis, overlay):
    use_directory(node, overlay)
    before = pulled(node, redis, hosts=["alpha"]).manifest
    use_directory(node, overlay, {"config.json": {"size": 3, "sha256": "c" * 64}})

    after = pulled(node, redis, hosts=["alpha"]).manifest

    assert (after.size, after.name == before.name) == (3, False)


def test_a_pull_elsewhere_has_the_directorys_host_fetch_it_too(node, redis, overlay):
    ScriptedWorker(redis, "beta", **STORE)
    use_directory(node, overlay)

    operations = node.post("/v1/models/polly:pull", {"hosts": ["beta"]}).json()["operations"]

    assert [(each["kind"], each["route"]) for each in operations] == [
        ("pull-model", "host.beta"),
        ("pull-model", "host.alpha"),
    ]


@pytest.mark.parametrize("there", ["alpha", "beta"])
def test_where_the_directorys_host_or_every_target_has_it_one_pull_is_enough(node, redis, overlay, there):
    use_directory(node, overlay)
    manifest = pulled(node, redis, hosts=["alpha"]).manifest
    redis.flushdb()
    for name in ("alpha", "beta"):
        complete_on(redis, name, manifest) if name == there else ScriptedWorker(redis, name, **STORE)

    pulled(node, redis, hosts=["beta"])

    assert submitted(redis) == [("pull-model", "host.beta")]


def test_a_pull_is_not_sent_to_a_directorys_host_that_is_away_or_unknown(node, redis, overlay, host):
    ScriptedWorker(redis, "beta", **STORE)
    use_directory(node, overlay)
    host.leave()

    pulled(node, redis, hosts=["beta"])

    assert submitted(redis) == [("pull-model", "host.beta")]


def test_a_start_elsewhere_has_the_directorys_host_fetch_it_too(node, redis, overlay):
    ScriptedWorker(redis, "beta", **STORE)
    use_directory(node, overlay)

    started = node.start(SERVICE, hosts=["beta"])

    assert [(each["kind"], each["route"]) for each in started] == [("start", "host.beta")]
    assert submitted(redis) == [("pull-model", "host.alpha"), ("start", "host.beta")]


def test_a_start_on_the_directorys_host_alone_sends_no_pull(node, redis, overlay):
    use_directory(node, overlay)

    node.start(SERVICE, hosts=["alpha"])

    assert submitted(redis) == [("start", "host.alpha")]


@pytest.mark.parametrize(
    ("source", "more"),
    [
        (DIRECTORY, ""),
        (DIRECTORY, f"contents: {json.dumps(CONTENTS)}\nfiles: ['*']\n"),
        (DIRECTORY, f"contents: {json.dumps(CONTENTS)}\ntoken: huggingface\n"),
        (DIRECTORY, 'contents: {"../x": {size: 1, sha256: ' + "a" * 64 + "}}\n"),
        (
            DIRECTORY,
            'contents: {"x": {size: 1, sha256: ' + "a" * 64 + '}, "x/y": {size: 1, sha256: ' + "a" * 64 + "}}\n",
        ),
        (f"hf:{REPOSITORY}", f"contents: {json.dumps(CONTENTS)}\n"),
        (None, f"contents: {json.dumps(CONTENTS)}\n"),
    ],
    ids=["no contents", "patterns", "a token", "a path outside", "a file as a directory", "of a repository", "alone"],
)
def test_an_entry_of_a_directory_without_exact_contents_is_a_mistake(node, overlay, source, more):
    overlay.names(source, more=more)

    assert "Polly.yaml" in node.post("/v1/catalog:reload").json()["mistakes"]
