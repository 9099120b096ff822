"""Which ways lead to the engines of a fleet: a gateway's, over TLS, and none from an engine of another host."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
from hosts.conftest import offer_dials
from hosts.requests import ended, ready, start_one, stop
from lab.certificates import Certificate, certificate_in
from lab.fleet_of_hosts import SIGNING_KEY, FleetOfHosts
from lab.host import HostPlan, a_cpu_host
from lab.hostile_engine import ATTACKS, GO, LIMITS, SERVES
from lab.parts import eventually
from lab.program import Program
from lab.running import AIMA
from pydantic import SecretStr

from aima_core.trust.keys import SigningKey

pytestmark = [pytest.mark.docker, pytest.mark.redis, pytest.mark.registry, pytest.mark.slow, pytest.mark.timeout(300)]
HOSTILE, OTHER = "cpu-01", "cpu-02"
GATEWAY_PORT = 7090
DATAPLANE_PORT = 7091
CERTIFIED_WITHIN = timedelta(seconds=60)
"""A gateway on a busy machine."""
TALKER = "svc-talker-1"
HOSTILE_SERVICE = "svc-light-hostile"
ANSWER = '{"id":"1","object":"chat.completion","model":"1","choices":[{"index":0,"message":{"role":"assistant","content":"Paris"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}'  # noqa: E501
_TALKS = rf"""
cat > /tmp/answer <<'END'
length=0
read -r request
while read -r name value && [ -n "${{name%?}}" ]; do
    case "$name" in [Cc]ontent-[Ll]ength:) length=${{value%?}};; esac
done
busybox head -c "$length" > /dev/null
say='{ANSWER}'
printf 'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n'
printf 'Content-Length: %d\r\n\r\n%s' ${{#say}} "$say"
END
exec busybox nc -ll -p 8000 -e sh /tmp/answer
"""
"""Answers every request as a chat."""


@pytest.fixture(scope="module")
def plans() -> tuple[HostPlan, ...]:
    return a_cpu_host(HOSTILE), a_cpu_host(OTHER)


@pytest.fixture(scope="module")
def fleet_of_this_file(own_fleet: FleetOfHosts) -> FleetOfHosts:
    talks = {"command": ["sh", "-c", _TALKS], "arguments": {}, "tmpfs": {"/tmp": "1MB"}, "serves": ["chat"]}
    hostile = {"command": ["sh", "-c", ATTACKS + SERVES], "arguments": {}, "tmpfs": {"/tmp": "32MB"}, "limits": LIMITS}
    offer_dials(own_fleet, talker=talks, hostile=hostile)
    return own_fleet


# A hostile engine ---------------------------------------------------------------------------------------------------


class HostileEngine:
    """Commands in the container of an engine, with its network."""

    def __init__(self, fleet: FleetOfHosts, service: str, host: str = HOSTILE) -> None:
        self._engine = fleet[host].engine
        self._container = f"aima.{service}.{host}"

    def does(self, *words: str) -> tuple[int, str]:
        """The exit code and the output."""
        with self._engine.client() as client:
            code, said = client.containers.get(self._container).exec_run(list(words))
        return code, said.decode(errors="replace")

    def log_size(self) -> int:
        return self._engine.log_size(self._container)

    def connects(self, address: str, port: int) -> bool:
        return self.does("sh", "-c", f"busybox nc -w 2 {address} {port} < /dev/null")[0] == 0

    def gets(self, url: str) -> str:
        return self.does("busybox", "wget", "-qO-", url)[1]

    def says(self, address: str, port: int, text: str) -> str:
        return self.does("sh", "-c", f"printf '{text}' | busybox nc -w 3 {address} {port}")[1]


def test_a_hostile_engine_reaches_no_engine_of_two_hosts_nor_redis_nor_an_api_node(fleet: FleetOfHosts) -> None:
    ready(fleet, start_one(fleet, HOSTILE_SERVICE, hosts=[HOSTILE]))
    ready(fleet, *(start_one(fleet, f"svc-light-{host}", hosts=[host]) for host in (HOSTILE, OTHER)))
    hostile = HostileEngine(fleet, HOSTILE_SERVICE)
    node, servers = fleet.node(), str(urlsplit(fleet.node().url).hostname)
    published = {host: int(node.instance(f"svc-light-{host}")["port"]) for host in (HOSTILE, OTHER)}
    plane = f"http://{fleet[OTHER].address}:{DATAPLANE_PORT}/i/svc-light-{OTHER}@{OTHER}/health"
    engines = [(fleet[OTHER].address, published[OTHER])]
    engines += [(address, published[HOSTILE]) for address in (fleet[HOSTILE].address, "172.30.0.1", "127.0.0.1")]
    with fleet[HOSTILE].engine.client() as client:
        networks = client.api.inspect_container(f"aima.svc-light-{HOSTILE}.{HOSTILE}")["NetworkSettings"]["Networks"]
    engines += [(str(network["IPAddress"]), 8000) for network in networks.values()]
    engines += [(str(network["Gateway"]), published[HOSTILE]) for network in networks.values()]

    assert hostile.connects("127.0.0.1", 8000), "its own engine"
    reached = [engine for engine in engines if hostile.connects(*engine)]
    refusals = [hostile.gets(plane), *(hostile.gets(f"{node.url}/v1/{path}") for path in ("keys", "hosts"))]
    redis = hostile.says(servers, fleet.redis.PORT, r"KEYS *\r\nGET x\r\n")
    carried = hostile.does("env")[1] + hostile.does("sh", "-c", "cat /proc/[0-9]*/environ")[1]

    assert reached == []
    assert ["401" in refusal for refusal in refusals] == [True] * 3, refusals
    assert redis.splitlines() == ["-NOAUTH Authentication required."] * 2
    assert not any(secret in carried for secret in ("AIMA_", SIGNING_KEY, fleet.redis.url, servers))


def test_a_hostile_engine_on_each_of_two_hosts_harms_nothing_but_itself(fleet: FleetOfHosts) -> None:
    hosts, node = (HOSTILE, OTHER), fleet.node()
    attacks = [start_one(fleet, f"svc-hostile-{host}", hosts=[host]) for host in hosts]
    ready(fleet, *attacks, *(start_one(fleet, f"svc-light-{host}", hosts=[host]) for host in hosts))
    hostile = [HostileEngine(fleet, f"svc-hostile-{host}", host) for host in hosts]
    neighbours = [HostileEngine(fleet, f"svc-light-{host}", host) for host in hosts]
    ready_since = [node.instance(f"svc-light-{host}")["since"] for host in hosts]
    states: list[dict[str, str]] = []

    def attacked() -> bool:
        states.append(fleet.states())
        return all(each.log_size() > 1 << 20 for each in hostile) and len(states) > 10

    for each in hostile:
        assert each.does(*GO)[0] == 0
    fleet.wait_until(attacked, within=timedelta(minutes=1))
    served = [each.connects("127.0.0.1", 8000) for each in neighbours]
    stopped = ended(fleet, *(stop(fleet, f"svc-hostile-{host}") for host in hosts))

    assert served == [True, True]
    assert [state for state in states if state != dict.fromkeys(hosts, "live")] == []
    assert [each["phase"] for each in stopped] == ["stopped", "stopped"]
    assert [fleet[host].engine.containers() for host in hosts] == [[f"aima.svc-light-{host}.{host}"] for host in hosts]
    kept = [node.instance(f"svc-light-{host}") for host in hosts]
    assert [(each["state"], each["since"]) for each in kept] == [("ready", since) for since in ready_since]


# A gateway over TLS -------------------------------------------------------------------------------------------------


class Gateway(Program):
    def __init__(self, fleet: FleetOfHosts, served: Certificate, authority: Path) -> None:
        address = str(urlsplit(fleet.node().url).hostname)
        created = fleet.node().record("key", "create", "gateway", "--scope", "gateway")
        self.url = f"https://{address}:{GATEWAY_PORT}"
        self._trusted = ssl.create_default_context(cafile=str(served.authority))
        settings = {
            "AIMA_CONFIG": os.devnull,
            "AIMA_REDIS__URL": fleet.redis.url,
            "AIMA_TRUSTED_KEYS": json.dumps([SigningKey(SecretStr(SIGNING_KEY)).public]),
            "AIMA_STATE_DIR": "/run/gateway",
            "AIMA_GATEWAY__BIND": address,
            "AIMA_GATEWAY__TLS__CERTIFICATE": str(served.certificate),
            "AIMA_GATEWAY__TLS__KEY": str(served.key),
            "AIMA_GATEWAY__API": json.dumps([node.url for node in fleet.nodes]),
            "AIMA_GATEWAY__KEY": created["key"],
            "AIMA_GATEWAY__CA": str(authority),
        }
        super().__init__(fleet.inside, str(AIMA), "gateway", log=fleet.logs / "gateway.log", environment=settings)

    def answers(self) -> bool:
        try:
            return self._request(Request(f"{self.url}/healthz"))[0] == 200
        except OSError:
            return False

    def close(self) -> None:
        self.kill()

    def trust(self, authority: Path) -> None:
        """Restarts it with the certificates of hosts of this authority."""
        self._start_anew({**(self._settings or {}), "AIMA_GATEWAY__CA": str(authority)})

    def chat(self, model: str, key: str) -> tuple[int, Any]:
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "The capital of France?"}]})
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        return self._request(Request(f"{self.url}/v1/chat/completions", body.encode(), headers))

    def _request(self, request: Request) -> tuple[int, Any]:
        try:
            with urlopen(request, timeout=60, context=self._trusted) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()


@pytest.fixture
def authority(fleet: FleetOfHosts, tmp_path: Path) -> Iterator[Path]:
    """That of the data plane of the other host, which has TLS until the test ends."""
    made = certificate_in(tmp_path / "plane", name=f"IP:{fleet[OTHER].address}")
    files = {"AIMA_DATAPLANE__TLS__CERTIFICATE": str(made.certificate), "AIMA_DATAPLANE__TLS__KEY": str(made.key)}
    with fleet[OTHER].worker.reported(**files):
        fleet.wait_live(OTHER)
        yield made.authority


def test_a_gateway_that_an_api_node_certified_reaches_an_engine_of_another_host_over_tls(
    fleet: FleetOfHosts, authority: Path, tmp_path: Path
) -> None:
    address = urlsplit(fleet.node().url).hostname
    served = certificate_in(tmp_path / "gateway", name=f"IP:{address}")
    ready(fleet, start_one(fleet, TALKER, hosts=[OTHER]))
    key = fleet.node().record("key", "create", "app", "--scope", "infer")["key"]
    dataplane = fleet.node().instance(TALKER)["dataplane"]
    gateway = Gateway(fleet, served, served.authority)

    def has_refused() -> bool:
        return "its certificate is not trusted" in gateway.chat(TALKER, key)[1]

    with closing(gateway):
        gateway.start()
        assert eventually(has_refused, within=CERTIFIED_WITHIN), gateway.said()

        gateway.trust(authority)
        answered = eventually(lambda: gateway.chat(TALKER, key)[0] == 200, within=CERTIFIED_WITHIN)
        assert answered, gateway.chat(TALKER, key)
        said = json.loads(gateway.chat(TALKER, key)[1])
        for node in fleet.nodes:
            node.kill()
        without_api_nodes = gateway.chat(TALKER, key)
        stranger = gateway.chat(TALKER, "aima_stranger")

    assert dataplane == f"https://{fleet[OTHER].address}:{DATAPLANE_PORT}"
    assert said["choices"][0]["message"]["content"] == "Paris"
    assert without_api_nodes[0] == 200, without_api_nodes
    assert stranger[0] == 401
    assert fleet[OTHER].address not in str(said)
