"""Redis users with least privilege: a whole life without a denial, and what each user is denied."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from api.catalog.entries import write
from lab.api_process import ApiProcess
from lab.fleet import IMAGE, FakeHost, Fleet, fleet_engine, fleet_on
from lab.parts import eventually, free_port
from lab.redis_server import RedisServer, redis_program
from lab.running import AIMA
from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError

from aima_api.doctor.checks import check_hosts
from aima_core.redis.acl import Role, commands, users
from aima_core.settings import Settings

pytestmark = pytest.mark.redis

ONE, OTHER = "spark-01", "spark-010"
"""The name of one is the beginning of the other's."""
USERS = ("aima-api", f"aima-worker-{ONE}", f"aima-worker-{OTHER}", "aima-gateway", "aima-flower")
WITHIN = timedelta(seconds=90)
LOST_WITHIN = timedelta(seconds=120)
MOST_DENIALS = 1000


class Guarded:
    """A Redis whose ACL file `aima redis-acl` has printed; its default user is the administrator."""

    def __init__(self, directory: Path) -> None:
        program = redis_program()
        assert program is not None
        self.directory = directory
        self.file = directory / "users.acl"
        self.file.touch()
        self.server = RedisServer(program, directory, aclfile=str(self.file))
        self.server.start()
        with self.server.client() as client:
            version = tuple(map(int, client.info("server")["redis_version"].split(".")[:2]))
        printed = redis_acl(
            "--generate", "--host", ONE, "--host", OTHER, "--redis", "7.2" if version >= (7, 2) else "7.0"
        )
        self.file.write_text(printed)
        self.passwords = {line.split()[1]: line.split(">")[1].split()[0] for line in printed.splitlines()}
        with self.server.client() as client:
            client.execute_command("ACL", "LOAD")
            client.config_set("acllog-max-len", MOST_DENIALS)

    def url(self, user: str) -> str:
        return f"redis://{user}:{self.passwords[user]}@127.0.0.1:{self.server.port}/0"

    def client(self, user: str) -> Redis:
        return Redis(port=self.server.port, username=user, password=self.passwords[user], decode_responses=True)

    def denials(self) -> set[tuple[str, str, str]]:
        """User, reason and object of each denial so far."""
        with self.server.client() as client:
            entries = client.execute_command("ACL", "LOG", MOST_DENIALS)
        found = [
            entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True)) for entry in entries
        ]
        return {(entry["username"], entry["reason"], entry["object"]) for entry in found}


def redis_acl(*words: str) -> str:
    done = subprocess.run([AIMA, "redis-acl", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    guarded = Guarded(tmp_path_factory.mktemp("redis"))
    yield guarded
    guarded.server.kill()


class Life:
    """An API node, two hosts and Flower, each with its own user."""

    def __init__(self, guarded: Guarded, stack: ExitStack, directory: Path) -> None:
        self.guarded = guarded
        catalog = directory / "catalog"
        write(catalog / "engines/fleet/fleet-cpu.yaml", fleet_engine("fleet", image=IMAGE))
        self.api = ApiProcess(guarded.url("aima-api"), directory, catalog=catalog, AIMA_API__MOVE_AFTER="16s")
        stack.callback(self.api.client.close)
        stack.callback(self.api.kill)
        self.hosts = {name: self._host(name, stack, directory) for name in (ONE, OTHER)}
        self.flower = httpx2.Client(base_url=f"http://127.0.0.1:{free_port()}", auth=("aima", "x" * 20), timeout=20)
        stack.callback(self.flower.close)
        process = subprocess.Popen(
            [sys.executable, "-m", "aima_api.flower"],
            env={
                **os.environ,
                "AIMA_CONFIG": os.devnull,
                "AIMA_REDIS__URL": guarded.url("aima-flower"),
                "AIMA_FLOWER__PORT": str(self.flower.base_url.port),
                "AIMA_FLOWER__PASSWORD": "x" * 20,
            },
            stderr=subprocess.DEVNULL,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        self.api.up()
        for host in self.hosts.values():
            host.until_ready()

    def _host(self, name: str, stack: ExitStack, directory: Path) -> Fleet:
        home = directory / name
        home.mkdir()
        fleet = stack.enter_context(fleet_on(self.guarded.url(f"aima-worker-{name}"), home, kept=True))
        fleet.add([FakeHost(name)])
        return fleet

    def until_idle(self) -> None:
        def is_idle() -> bool:
            return not [each for each in self.api.all("operations") if each["state"] in ("queued", "running")]

        assert eventually(is_idle, within=WITHIN), list(self.api.all("operations"))

    def states(self) -> dict[str, str]:
        services = list(self.api.all("services"))
        return {each["id"]: each["state"] for service in services for each in service["instances"]}

    def post(self, path: str, body: Mapping[str, Any] | None = None, **headers: str) -> httpx2.Response:
        reply = self.api.client.post(path, json=dict(body or {}), headers=headers)
        assert reply.is_success, reply.text
        return reply

    def seen_by_flower(self, path: str) -> Any:
        try:
            reply = self.flower.get(path)
        except httpx2.TransportError:
            return None
        return reply.json() if reply.is_success else None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_whole_life_under_these_users_has_no_denial(guarded: Guarded, tmp_path: Path) -> None:
    with ExitStack() as stack:
        life = Life(guarded, stack, tmp_path)
        api = life.api
        assert eventually(lambda: len(life.seen_by_flower("/api/workers?refresh=1") or ()) == 2, within=WITHIN)

        start_pull_follow_and_stop(life)
        assert life.seen_by_flower("/api/queues/length") is not None
        drain_and_resume(life)
        crash_an_engine_and_restart_a_worker(life)
        lose_scripts_and_data(life)
        lose_a_host(life)
        assert life.seen_by_flower("/api/tasks")
        for user in ("aima-api", f"aima-worker-{ONE}"):
            list(check_hosts(Settings.model_validate({"redis": {"url": guarded.url(user)}})))
        life.hosts[ONE].processes[0].stop()
        assert eventually(lambda: not any(host["live"] for host in api.all("hosts")), within=WITHIN)

    assert guarded.denials() == set()


def start_pull_follow_and_stop(life: Life) -> None:
    api = life.api
    life.post("/v1/images:pull", {"image": IMAGE, "hosts": [ONE]})
    api.start("svc-fleet-any")
    api.start("svc-fleet-both", hosts=[ONE, OTHER])
    life.post("/v1/services/svc-fleet-keyed:start", {"hosts": [ONE]}, **{"Idempotency-Key": "one"})
    life.post("/v1/services/svc-fleet-keyed:start", {"hosts": [ONE]}, **{"Idempotency-Key": "one"})
    with api.client.stream("GET", "/v1/events", timeout=60) as events:
        [operation] = api.start("svc-fleet-seen", hosts=[ONE])
        assert any(operation["id"] in line for line in events.iter_lines())
    life.until_idle()
    assert set(life.states().values()) == {"ready"}
    assert api.client.get("/v1/services/svc-fleet-seen/logs").is_success
    for path in (
        "/v1/hosts",
        "/v1/ports",
        "/metrics",
        f"/v1/operations/{operation['id']}",
        "/v1/services/svc-fleet-seen",
    ):
        assert api.client.get(path).is_success, path
    [cancelled] = api.start("svc-fleet-cancelled", hosts=[ONE])
    api.client.post(f"/v1/operations/{cancelled['id']}:cancel")
    api.stop("svc-fleet-any")
    life.until_idle()


def drain_and_resume(life: Life) -> None:
    life.post(f"/v1/hosts/{ONE}:drain", {"stop": True})
    life.until_idle()
    life.post(f"/v1/hosts/{ONE}:resume")
    life.api.start("svc-fleet-both", hosts=[ONE, OTHER])
    life.until_idle()


def crash_an_engine_and_restart_a_worker(life: Life) -> None:
    process = life.hosts[ONE].processes[0]
    logs = "/v1/services/svc-fleet-both/logs"
    with life.api.client.stream("GET", logs, params={"follow": "true", "host": ONE}, timeout=60) as followed:
        process.crash(ONE, f"fleet.svc-fleet-both.{ONE}")
        assert any("asked to crash" in line for line in followed.iter_lines())
    assert eventually(lambda: life.states()[f"svc-fleet-both@{ONE}"] == "ready", within=WITHIN)
    life.api.start("svc-fleet-taken-over", hosts=[ONE])
    process.kill()
    process.start()
    life.hosts[ONE].until_ready()
    life.until_idle()


def lose_scripts_and_data(life: Life) -> None:
    """The users stay: they are in the ACL file."""
    before = {id: state for id, state in life.states().items() if state == "ready"}
    with life.guarded.server.client() as client:
        client.script_flush()
        client.flushall()
    assert eventually(lambda: before.items() <= life.states().items(), within=WITHIN), life.states()


def lose_a_host(life: Life) -> None:
    """It is killed: a service that any host may run fails over, and the host is forgotten."""
    life.post(f"/v1/hosts/{ONE}:drain")
    life.api.start("svc-fleet-moves")
    life.until_idle()
    life.post(f"/v1/hosts/{ONE}:resume")
    life.hosts[OTHER].processes[0].kill()
    assert eventually(lambda: life.states().get(f"svc-fleet-moves@{ONE}") == "ready", within=LOST_WITHIN)
    assert life.api.client.delete(f"/v1/hosts/{OTHER}").status_code == 204


# What each user is denied -------------------------------------------------------------------------------------------

DANGEROUS = (
    *(
        "FLUSHALL",
        "FLUSHDB",
        "KEYS *",
        "SCAN 0",
        "RANDOMKEY",
        "CONFIG GET *",
        "CONFIG SET maxmemory 1",
        "DEBUG SLEEP 0",
    ),
    *(
        "ACL LIST",
        "ACL WHOAMI",
        "MONITOR",
        "CLIENT LIST",
        "CLIENT KILL TYPE normal",
        "SCRIPT FLUSH",
        "SHUTDOWN",
        "SAVE",
    ),
    *("REPLICAOF NO ONE", "MODULE LIST", "FUNCTION LIST", "EVAL return 0", "SWAPDB 0 1", "SORT aima:hosts", "INFO"),
)
FOREIGN = ("GET another", "SET another x", "DEL another", "LPUSH celery x", "SUBSCRIBE another", "PSUBSCRIBE *")
OF_A_WORKER = (
    *(
        "DEL aima:service:svc-a-b",
        "EXPIRE aima:service:svc-a-b 1",
        "DEL aima:service:svc-a-b.arm64",
        "DEL aima:services",
    ),
    f"HSET aima:instance:svc-a-b@{OTHER} desired stopped",
    f"DEL aima:instance:svc-a-b@{OTHER}",
    f"SADD aima:instances:{OTHER} svc-a-b@{OTHER}",
    *(f"DEL aima:{of}:{OTHER}" for of in ("slots", "held", "ports", "asked", "port")),
    f"SET aima:port:{OTHER}:20000 x",
    f"HSET aima:ports:{OTHER}:last svc-a-b@{OTHER} 20000",
    f"XADD aima:lines:svc-a-b@{OTHER} * json x",
    f"SET aima:last-lines:svc-a-b@{OTHER} x",
    *(f"BRPOP aima:host.{OTHER}{queue} 1" for queue in ("", ".stop", "\x06\x163")),
    f"DEL aima:host.{OTHER}",
    *("SET aima:idempotency:one x", "GET aima:idempotency:one", "SET aima:upkeep x", "SET aima:turn:svc-a-b x"),
    *("ZADD aima:routes 1 gb10.arm64", "HSET aima:aliases gpt-4o x"),
)
OF_A_READER = (
    *("SET aima:service:svc-a-b x", f"HSET aima:instance:svc-a-b@{ONE} desired stopped", "PUBLISH aima:events x"),
    *("HGETALL aima:operation:x", "LPUSH aima:host.spark-01 x", "GET aima:idempotency:one", "DEL aima:hosts"),
)
OF_FLOWER = ("GET aima:service:svc-a-b", "HGETALL aima:operation:x", f"DEL aima:host.{ONE}", f"BRPOP aima:host.{ONE} 1")
DENIED = {
    f"aima-worker-{ONE}": OF_A_WORKER,
    "aima-gateway": (*OF_A_READER, "XADD aima:log * event x", "HSET aima:aliases gpt-4o x"),
    "aima-flower": (*OF_FLOWER, "PUBLISH aima:events x"),
    "aima-api": ("PUBLISH aima:/0.celery.pidbox x", "PSUBSCRIBE aima:/0.celeryev/*"),
}
ALLOWED = {
    "aima-api": ("SET aima:service:svc-a-b x", "SUBSCRIBE aima:events"),
    f"aima-worker-{ONE}": (
        f"HSET aima:instance:svc-a-b@{ONE} desired running",
        f"HGETALL aima:instance:svc-a-b@{OTHER}",
        f"LPUSH aima:host.{OTHER} doorbell",
        "PSUBSCRIBE aima:/0.celery.pidbox",
    ),
    "aima-gateway": (
        "HGETALL aima:aliases",
        "HGET aima:keys x",
        "HSET aima:traffic box {}",
        f"HGETALL aima:instance:svc-a-b@{ONE}",
        "SUBSCRIBE aima:events",
    ),
    "aima-flower": (f"LLEN aima:host.{ONE}", "PUBLISH aima:/0.celery.pidbox {}"),
}


def denial(guarded: Guarded, user: str, command: str) -> str | None:
    """Why Redis would deny the command; None if it would not."""
    with guarded.server.client() as client:
        answer = client.execute_command("ACL", "DRYRUN", user, *command.split(" "))
    return None if answer == "OK" else str(answer)


@pytest.mark.parametrize("user", USERS)
def test_no_user_may_administer_redis_or_reach_beyond_the_keys_and_channels_of_aima(
    user: str, guarded: Guarded
) -> None:
    granted = [command for command in (*DANGEROUS, *FOREIGN) if denial(guarded, user, command) is None]

    assert granted == []


@pytest.mark.parametrize("user", DENIED)
def test_each_user_is_denied_what_it_does_not_need(user: str, guarded: Guarded) -> None:
    granted = [command for command in DENIED[user] if denial(guarded, user, command) is None]

    assert granted == []


@pytest.mark.parametrize("user", ALLOWED)
def test_each_user_is_granted_what_it_needs(user: str, guarded: Guarded) -> None:
    denied = {command: denial(guarded, user, command) for command in ALLOWED[user]}

    assert not any(denied.values()), denied


def test_a_worker_cannot_write_the_records_of_another_host_even_by_a_script_of_its_own(guarded: Guarded) -> None:
    other_s = f"aima:instance:svc-a-b@{OTHER}"
    with guarded.client(f"aima-worker-{ONE}") as client:
        sha = client.script_load("return redis.call('HSET', ARGV[1], 'desired', 'stopped')")

        with pytest.raises(NoPermissionError):
            client.hset(other_s, "desired", "stopped")
        with pytest.raises(ResponseError, match="key"):
            client.evalsha(sha, 0, other_s)
        assert client.evalsha(sha, 0, f"aima:instance:svc-a-b@{ONE}") == 1

    with guarded.server.client() as administrator:
        assert not administrator.exists(other_s)
        administrator.flushall()
        administrator.acl_log_reset()


def test_a_worker_of_any_host_may_not_delete_specs_or_take_locks_of_api_nodes(guarded: Guarded) -> None:
    [user] = users([Role.WORKER])
    with guarded.server.client() as client:
        client.execute_command("ACL", "SETUSER", user.name, *user.rules(">x", client_info=False).split())

    denied = ("DEL aima:service:a", "SET aima:upkeep x", "GET aima:idempotency:one", *DANGEROUS)
    granted = [command for command in denied if denial(guarded, user.name, command) is None]

    assert granted == []
    assert denial(guarded, user.name, f"HSET aima:instance:svc-a-b@{OTHER} desired running") is None


def test_no_command_of_the_product_is_dangerous(guarded: Guarded) -> None:
    with guarded.server.client() as client:
        dangerous = {name for group in ("dangerous", "admin") for name in client.acl_cat(group)}

    assert set(commands()) & dangerous == set()


# What it prints -----------------------------------------------------------------------------------------------------


def test_without_a_password_redis_refuses_the_file(guarded: Guarded) -> None:
    line = redis_acl("--role", "api", "--redis", "7.0").split()

    with guarded.server.client() as client, pytest.raises(ResponseError, match="password hash must be exactly 64"):
        client.execute_command("ACL", "SETUSER", "tried", *line[2:])


def test_passwords_are_variables_on_request_and_never_generated_unasked() -> None:
    named = redis_acl("--role", "worker", "--host", "spark-01.lab", "--variables")

    assert "user aima-worker-spark-01.lab on >$REDIS_AIMA_WORKER_SPARK_01_LAB_PASSWORD " in named
    assert ">" not in redis_acl()
    assert redis_acl("--generate") != redis_acl("--generate")


def test_commands_for_redis_cli_make_the_same_users(guarded: Guarded) -> None:
    printed = redis_acl("--role", "gateway", "--setuser", "--generate", "--redis", "7.0")

    with guarded.server.client() as client:
        before = client.acl_getuser("aima-gateway")
        for line in printed.splitlines():
            client.execute_command(*line.split())
        after = client.acl_getuser("aima-gateway")

    for part in ("keys", "channels", "selectors"):
        assert before[part] == after[part]
    assert before["passwords"] != after["passwords"]
