"""The adversary with write access to Redis: replays and mutates captured orders, forges records, poisons channels.

It never deletes: a writer in Redis can always do that. It starts from valid orders, so that a good part of its
forgeries passes the first checks.
"""

from __future__ import annotations

import json
import re
import uuid
import zlib
from base64 import b64decode, b64encode
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import httpx2
from attacks.adversary import Act, Adversary
from attacks.stage import ALIAS, HOSTS, SERVICES, TARGETS, AttackStage
from lab.commands import PUBLIC_KEY, order_of
from lab.dataplane import GATEWAY, INSTANCE, RecordingEngine, signer
from lab.parts import eventually
from pydantic import SecretStr

from aima_api.access.keys import digest_of
from aima_core.domain.ids import HostName, InstanceId, OperationId, ServiceId
from aima_core.domain.operations import COMMAND, StartService
from aima_core.redis import keys
from aima_core.store.operation_records import operation_from
from aima_core.trust.keys import SigningKey
from aima_core.trust.orders import clock_ms

MOST_CAPTURED = 300
FIRST_ATTEMPT = 100_000
"""Beyond all attempts of the owner's operations."""
FORGER = SecretStr("the forger's own seed, 0123456789abcdef")
OF_AN_ATTEMPT = ("cancel", "ended_at", "failure", "host")
CHANNELS = (keys.EVENTS, "aima:/0.celery.pidbox", "aima:/0.celeryev/worker.heartbeat")
POISON = (
    "[" * 100_000,
    '{"a":' * 50_000,
    "\x00\xff",
    "null",
    "{}",
    '"text"',
    "[1,2]",
    "9" * 400,
    "{" + '"k":1,' * 50_000,
)
JUNK: tuple[Any, ...] = ("", "x", -1, 0, 2**53, 2**63, None, True, [], {}, "../../etc", "\x1b[31m", "a" * 5000, 1e308)


class RedisWriter(Adversary):
    name = "redis"
    passes = 0.3

    def __init__(self, stage: AttackStage, seed: int) -> None:
        super().__init__(stage, seed)
        self._redis = stage.server.client()
        self._captured: list[dict[str, str]] = []
        self._messages: list[tuple[str, str]] = []
        self._forged: list[str] = []
        """The ids of its operations. The attempt of each tells in the hosts' logs which one a host has claimed."""
        self._trap = RecordingEngine()

    def actions(self) -> Sequence[tuple[int, Act]]:
        return (
            (6, self.capture),
            (6, self.replay_record),
            (8, self.forge_operation),
            (3, self.forge_order),
            (4, self.replay_on_another_host),
            (4, self.replay_message),
            (3, self.mutate_message),
            (3, self.poison_channel),
            (2, self.poison_queue),
            (4, self.forge_service),
            (3, self.forge_host),
            (3, self.forge_instance),
            (2, self.forge_lease),
            (2, self.forge_fence),
            (2, self.cancel_something),
            (2, self.forge_session),
            (2, self.forge_key_record),
            (3, self.forge_alias),
            (3, self.forge_endpoint),
            (2, self.forge_usage),
            (2, self.send_a_captured_token),
        )

    def withdraw(self) -> None:
        """Leaves its forgeries where they are, but for what only a person can tell from the truth."""
        self._redis.close()
        self._trap.close()

    def accepted(self) -> tuple[int, int]:
        """Of its operations, those that a host has claimed and whose signature it has verified."""
        logs = "".join(each.log() for each in self.stage.fleet.processes)
        claimed = {int(attempt) for attempt in re.findall(r"operation started .*attempt=(\d+)", logs)}
        unsigned = re.findall(r"operation failed .*code=bad_signature", logs)
        tried = len(self._forged)
        return len(claimed & {*range(FIRST_ATTEMPT + 1, FIRST_ATTEMPT + tried + 1)}) - len(unsigned), tried

    # Orders -----------------------------------------------------------------------------------------------------

    def capture(self) -> str:
        entries = self._redis.zrange(keys.OPERATIONS, -60, -1)
        for entry in entries:
            id = OperationId(entry.split()[-1])
            record = {} if id in self._forged else self._redis.hgetall(keys.operation(id))
            if "order" in record:
                self._captured.append({**record, "id": id})
        del self._captured[:-MOST_CAPTURED]
        for host in HOSTS:
            for queue in (f"host.{host}", f"host.{host}.stop"):
                self._messages += [(queue, text) for text in self._redis.lrange(keys.queue(queue), 0, 5)]
        del self._messages[:-MOST_CAPTURED]
        return f"{len(self._captured)} records, {len(self._messages)} messages"

    def replay_record(self) -> str:
        """An ended operation becomes queued again, under its own id and with its own signature."""
        record = dict(self._record())
        record |= {"state": "queued", "phase": "queued"}
        return self._put(record["id"], record)

    def replay_on_another_host(self) -> str:
        record = dict(self._record())
        route = f"host.{self.pick(HOSTS)}"
        record |= {"state": "queued", "route": route, "routes": json.dumps([route]), "queue": route}
        record.pop("host", None)
        return self._put(self.pick([record["id"], str(uuid.uuid4())]), record)

    def forge_operation(self) -> str:
        """Some fields of one captured record, some of another, some mutated."""
        record, other = dict(self._record()), self._record()
        for name in self.random.sample(sorted(record), k=min(len(record), self.random.randrange(1, 4))):
            if name == "id":
                continue
            value = self.pick([other.get(name, ""), other.get(name, ""), self._mutated(record[name])])
            record[name] = value
        record["state"] = "queued"
        return self._put(self.pick([record["id"], str(uuid.uuid4())]), record)

    def forge_order(self) -> str:
        """Arguments of its own in an order that fits its operation, signed by itself as if by the trusted key."""
        starts = [each for each in self._captured or [self._record()] if each.get("kind") == "start"]
        if not starts:
            return "no start was captured"
        record, id = dict(self.pick(starts)), str(uuid.uuid4())
        command = COMMAND.validate_json(record["command"])
        assert isinstance(command, StartService)
        size = {"size": 10_000 + self.random.randrange(1000)}  # beyond what the owner asks for
        command = command.model_copy(update={"engine": command.engine.model_copy(update={"arguments": size})})
        record |= {"state": "queued", "command": command.model_dump_json(), "fence": str(clock_ms() + 1000)}
        operation = operation_from(OperationId(id), {k: v for k, v in record.items() if k != "id"})
        order = order_of(operation, command, key=FORGER)
        record |= {"order": order.text, "signature": f"{PUBLIC_KEY.key_id}.{order.signature.partition('.')[2]}"}
        return self._put(id, record)

    def replay_message(self) -> str:
        queue, text = self._message()
        self._redis.lpush(keys.queue(self.pick([queue, f"host.{self.pick(HOSTS)}"])), text)
        return queue

    def mutate_message(self) -> str:
        queue, text = self._message()
        message = json.loads(text)
        how = self.pick(["compression", "eta", "expires", "kwargs", "headers", "task", "leaf"])
        if how == "compression":
            message["headers"]["compression"] = "application/x-gzip"
            message["body"] = b64encode(zlib.compress(b"[" * 2_000_000)).decode()
        elif how in ("eta", "expires"):
            message["headers"][how] = "2999-01-01T00:00:00+00:00"
        elif how == "kwargs":
            message["body"] = b64encode(b"[" * self.pick([10, 100_000])).decode()
        elif how == "headers":
            message["headers"] = self.pick([None, [], "x", {}])
        elif how == "task":
            message["headers"]["task"] = self.pick(["celery.backend_cleanup", "aima.start", "os.system", None])
        else:
            message = self._mutate(message)
        self._redis.lpush(keys.queue(queue), json.dumps(message))
        return how

    # Channels ---------------------------------------------------------------------------------------------------

    def poison_channel(self) -> str:
        channel = self.pick(CHANNELS)
        text = self.pick([*POISON, json.dumps({"method": "shutdown", "arguments": {}, "destination": None})])
        self._redis.publish(channel, text)
        return channel

    def poison_queue(self) -> str:
        queue = f"host.{self.pick(HOSTS)}{self.pick(['', '.stop'])}"
        self._redis.lpush(keys.queue(queue), self.pick(POISON))
        return queue

    # Records ----------------------------------------------------------------------------------------------------

    def forge_service(self) -> str:
        """The attacker's arguments in a stored spec; or another service's record."""
        id = ServiceId(self.pick(SERVICES))
        stored = self._redis.get(keys.service(ServiceId(self.pick(SERVICES)))) or "{}"
        forged = self.pick([stored, self._mutated(stored), stored.replace('"size"', '"evil"'), self.pick(POISON)])
        self._redis.set(keys.service(id), forged)
        return id

    def forge_host(self) -> str:
        """Host facts mutated, or a host that seems silent."""
        name = self.pick(HOSTS)
        if self.random.random() < 0.3:
            self._redis.zadd(keys.HOSTS_SEEN, {name: 1})
            return f"{name} seems silent"
        facts = self._redis.hget(keys.HOSTS, name) or "{}"
        self._redis.hset(
            keys.HOSTS, self.pick([name, "evil-host"]), self.pick([self._mutated(facts), self.pick(POISON)])
        )
        return name

    def forge_instance(self) -> str:
        id = InstanceId(f"{self.pick(SERVICES)}@{self.pick(HOSTS)}")
        record = self._redis.hgetall(keys.instance(id))
        changes = {"desired": self.pick(["running", "stopped", "x"])}
        if record:
            name = self.pick(sorted(record))
            changes[name] = self._mutated(record[name])
        self._redis.hset(keys.instance(id), mapping=changes)
        return id

    def forge_lease(self) -> str:
        host = HostName(self.pick(HOSTS))
        port = 8000 + self.random.randrange(20)
        self._redis.set(
            f"{keys.port_prefix(host)}{port}", self.pick(["x", "{}", "svc-owned-0@fake-00", "[" * 1000]), ex=60
        )
        if self.random.random() < 0.5:
            self._redis.hset(keys.held(host), self.pick(SERVICES), self.pick(["x", "{}", "9 9 9", "[" * 1000]))
        return f"{host}:{port}"

    def forge_fence(self) -> str:
        value = self.pick([2**53, -1, "x", 1, 2**62])
        self._redis.set(keys.FENCE, value)
        return str(value)

    def forge_session(self) -> str:
        name = self.pick(HOSTS)
        self._redis.hset(self.pick([keys.HOSTS_SESSIONS, keys.HOSTS_IDENTITIES]), name, self.pick(["evil", "x 1", ""]))
        return name

    def forge_key_record(self) -> str:
        """A captured record, or one with wider scopes, under the digest of a key of its own, which it then uses."""
        key = f"aima_{self.random.getrandbits(250):064x}"
        captured = [*self._redis.hvals(keys.API_KEYS), json.dumps({"text": "{}", "signature": "0" * 80})]
        record = self.pick(captured)
        scope = self.pick(["admin", "gateway", "infer"])
        forged = self.pick([record, self._mutated(record), record.replace("gateway", scope).replace("infer", scope)])
        self._redis.hset(keys.API_KEYS, digest_of(key), forged)
        headers = {"Authorization": f"Bearer {key}"}
        answers = [
            httpx2.post(f"{self.stage.api.url}/v1/gateways", json={"public_key": GATEWAY.public}, headers=headers),
            httpx2.get(f"{self.stage.api.url}/v1/hosts", headers=headers),
            httpx2.get(f"{self.stage.gateway.url}/v1/models", headers=headers),
        ]
        for answer in answers:
            self.stage.note_answer(answer, of="a forged API key")
            if answer.is_success:
                self.stage.mishaps.append(f"a forged API key was answered {answer.status_code}: {answer.request.url}")
        return str([each.status_code for each in answers])

    # Ways to engines --------------------------------------------------------------------------------------------

    def forge_alias(self) -> str:
        """The owner's alias under another name, or changed: no alias but the owner's may be read."""
        record = self._redis.hget(keys.ALIASES, ALIAS) or "{}"
        elsewhere = record.replace(SERVICES[0], SERVICES[1])
        name = self.pick([ALIAS, "evil", *SERVICES])
        self._redis.hset(keys.ALIASES, name, self.pick([record, elsewhere, self._mutated(record), *POISON]))
        answer = self.stage.owner.get("/v1/aliases")
        for alias in answer.json()["items"]:
            if (alias["name"], alias["targets"]) != (ALIAS, TARGETS):
                self.stage.mishaps.append(f"a forged alias was read: {alias}")
        return name

    def forge_endpoint(self) -> str:
        """Leads gateways to an address that no worker reports, directly or as a data plane: no key may follow."""
        service = self.pick(SERVICES)
        id = InstanceId(f"{service}@{self.stage.asked.hosts[service]}")
        url = f"http://127.0.0.1:{self._trap.port}"
        way = self.pick(
            [
                {"endpoint": self.pick([url, "http://127.0.0.1:1", "file:///etc/passwd", "http://[", "x" * 5000])},
                {"endpoint": "http://10.255.255.1:1", "dataplane": url, "loopback": "0123456789abcdef"},
            ]
        )
        stored = self._redis.hget(keys.instance(id), "record")
        try:
            record = {**json.loads(stored or ""), **way, "state": "ready", "serves": ["chat"]}
        except (ValueError, TypeError, RecursionError):
            return f"{id} has no record"
        self._redis.hset(keys.instance(id), mapping={"record": json.dumps(record), "desired": "running"})
        self._redis.publish(keys.EVENTS, f'{uuid.uuid4()} 1 1-1 {{"phase":"ready"}}')  # gateways read at once
        before = len(self._trap.heads)

        def lured() -> bool:
            self.stage.infer(service)
            return len(self._trap.heads) > before

        eventually(lured, within=timedelta(seconds=1))
        told = [head for head in self._trap.heads if any(secret.encode() in head for secret in self.stage.secrets)]
        self.stage.mishaps += [f"a forged endpoint was sent a key: {head[:300]!r}" for head in told[:1]]
        return f"{len(self._trap.heads)} requests trapped, {id}: {way}"[:120]

    def send_a_captured_token(self) -> str:
        """Tokens that a gateway has sent to a forged data plane open no engine of another host."""
        tokens = {token for head in self._trap.heads for token in re.findall(rb"(?i)authorization: Bearer (\S+)", head)}
        tokens |= {signer(SigningKey(FORGER)).token(INSTANCE).encode()}
        token = self.pick(sorted(tokens)).decode()
        status, _, _ = self.stage.plane.request(f"/i/{INSTANCE}/echo", headers={"Authorization": f"Bearer {token}"})
        if status != 401:
            self.stage.mishaps.append(f"a data plane answered {status} to a token that is not for its instance")
        return f"{len(tokens) - 1} captured: {status}"

    def forge_usage(self) -> str:
        name = keys.usage(HostName(self.pick(HOSTS)))
        forged = self.pick([self._mutated(self._redis.get(name) or "{}"), *POISON])
        self._redis.set(name, forged, ex=60)
        return name

    def cancel_something(self) -> str:
        record = self._record()
        self._redis.hset(keys.operation(OperationId(record["id"])), "cancel", self.pick(["1", "x", ""]))
        return record["id"]

    # Pieces -----------------------------------------------------------------------------------------------------

    def _record(self) -> dict[str, str]:
        if not self._captured:
            self.capture()
        return self.pick(self._captured)

    def _message(self) -> tuple[str, str]:
        """A captured one; or one made from a captured record as the submission makes it."""
        if self._messages and self.random.random() < 0.5:
            return self.pick(self._messages)
        from aima_core.queue.notifier import encode_message

        record = self._record()
        operation = operation_from(OperationId(record["id"]), {k: v for k, v in record.items() if k != "id"})
        queue = record["queue"]
        return queue, encode_message(operation, queue)

    def _put(self, id: str, record: dict[str, str]) -> str:
        """As an operation that nobody has claimed yet: without an end, and without the expiry of an ended one."""
        fields = {name: value for name, value in record.items() if name not in ("id", *OF_AN_ATTEMPT)}
        fields["attempt"] = str(FIRST_ATTEMPT + len(self._forged))
        self._forged.append(id)
        stored = keys.operation(OperationId(id))
        self._redis.hdel(stored, *OF_AN_ATTEMPT)
        self._redis.hset(stored, mapping=fields)
        self._redis.persist(stored)
        self._redis.zadd(keys.ACTIVE, {id: 0})
        queue = fields.get("queue", "")
        try:
            from aima_core.queue.notifier import encode_message

            text = encode_message(operation_from(OperationId(id), fields), queue)
        except Exception as unreadable:  # noqa: BLE001 the record alone is the forgery then
            return f"{id}, without a message: {unreadable}"[:200]
        self._redis.lpush(keys.queue(queue), text)
        return f"{id} on {queue}"

    def _mutated(self, text: str) -> str:
        try:
            return json.dumps(self._mutate(json.loads(text)))
        except (ValueError, RecursionError):
            return self.pick([text + "x", text[:-1], "", str(self.pick(JUNK)), text.swapcase()])

    def _mutate(self, value: Any) -> Any:
        """One leaf replaced."""
        if isinstance(value, dict) and value:
            name = self.pick(sorted(value))
            return {**value, name: self._mutate(value[name])}
        if isinstance(value, list) and value:
            at = self.random.randrange(len(value))
            return [*value[:at], self._mutate(value[at]), *value[at + 1 :]]
        return self.pick([*JUNK, b64decode(b"ZXZpbA==").decode()])
