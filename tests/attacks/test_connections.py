"""A network client without a key: endless heads, slow and silent connections, and many of them.

Descriptors and memory are those of an API node in a process of its own; deadlines are shortened in a node of this one.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from threading import Thread

import pytest
from api.node import SERVICE, Node, ScriptedWorker, api_node
from lab.api_process import ApiProcess
from lab.parts import eventually, received

from aima_api.http import connections
from aima_api.http.server import LimitedServer
from aima_core.domain.operations import Phase
from aima_core.redis.interface import TextRedis

pytestmark = pytest.mark.redis

SHORT = timedelta(milliseconds=400)
SOON = timedelta(seconds=10)
ENDLESS = 64 << 20
"""What an attacker sends unless the node disconnects."""
PARALLEL = 12
MEMORY = 40 << 20
"""The growth that a dozen attacks may cause: buffers of connections, not what was sent."""
CHUNK = b"x" * 65536

HEADS: dict[str, tuple[bytes, Callable[[], Iterator[bytes]]]] = {
    "one header": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ", lambda: endlessly(CHUNK)),
    "many headers": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", lambda: endlessly(b"a: b\r\n" * 8192)),
    "request line": (b"GET /", lambda: endlessly(CHUNK)),
    "empty lines": (b"", lambda: endlessly(b"\r\n" * 32768)),
    "trailers": (
        b"POST /v1/images:pull HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: ",
        lambda: endlessly(CHUNK),
    ),
    "pipelined requests": (b"", lambda: endlessly(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1500)),
}


@pytest.fixture
def apart(redis_url: str, tmp_path: Path) -> Iterator[ApiProcess]:
    """A node in its own process, which admits few connections."""
    limits = {"AIMA_API__CONNECTIONS_PER_ADDRESS": "30", "AIMA_API__CONNECTIONS": "60"}
    api = ApiProcess(redis_url, tmp_path, **limits)
    try:
        api.up()
        yield api
    finally:
        api.client.close()
        api.kill()


@pytest.fixture
def worker(redis: TextRedis) -> ScriptedWorker:
    return ScriptedWorker(redis)


@pytest.fixture
def impatient(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A node with short deadlines."""
    for name in ("RECEIVE_TIMEOUT", "SEND_TIMEOUT", "SWEEP_INTERVAL"):
        monkeypatch.setattr(connections, name, SHORT)
    with api_node(redis_url) as node:
        yield node


# Size --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HEADS)
def test_an_endless_head_is_cut_before_it_takes_memory(apart: ApiProcess, kind: str) -> None:
    before = peak_memory(apart.pid)
    sent: list[int] = []
    attackers = [Thread(target=lambda: sent.append(attack(apart.url, *HEADS[kind]))) for _ in range(PARALLEL)]
    for attacker in attackers:
        attacker.start()
    for attacker in attackers:
        attacker.join()

    assert len(sent) == PARALLEL
    assert max(sent) < ENDLESS, "the node read all of it"
    assert peak_memory(apart.pid) - before < MEMORY
    assert apart.client.get("/healthz").status_code == 200


@pytest.mark.parametrize("headers", [{"X-Long": "x" * 40_000}, {f"X-{number}": "" for number in range(101)}])
def test_a_head_over_the_limit_is_answered_with_the_limit(redis_url: str, headers: dict[str, str]) -> None:
    with api_node(redis_url) as node:
        answer = node.get("/healthz", headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (431, "headers_too_large")
    assert answer.headers["connection"] == "close"


def test_a_long_body_in_one_piece_is_no_head(redis_url: str) -> None:
    with api_node(redis_url) as node:
        answer = node.post(f"/v1/services/{SERVICE}:start", {"model": "x" * 500_000})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


# Time --------------------------------------------------------------------------------------------------------------


def test_slow_and_silent_connections_are_cut_and_event_streams_stay(impatient: Node, worker: ScriptedWorker) -> None:
    [operation] = impatient.start()
    worker.claim_start(operation["id"])
    with ExitStack() as open_ones, impatient.following(operation["id"]) as stream:
        next(stream)
        silent = [open_ones.enter_context(connected(impatient.url)) for _ in range(5)]
        half = []
        for _ in range(5):
            half.append(open_ones.enter_context(connected(impatient.url)))
            half[-1].sendall(b"GET /healthz HTTP/1.1\r\nHost: local")
        trickling = open_ones.enter_context(connected(impatient.url))

        assert trickled_until_cut(trickling, b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 10_000)
        assert all(is_cut(line) for line in (*silent, *half))
        worker.says(operation["id"], Phase.READY, endpoint="http://127.0.0.1:20000")

        assert [each.event for each in stream][-1] == "end"


def test_a_request_whose_body_never_arrives_is_answered_with_408_and_not_executed(
    impatient: Node, worker: ScriptedWorker
) -> None:
    path = f"/v1/services/{SERVICE}:start"
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with ExitStack() as open_ones:
        lines = []
        for body in ("", "{}"):
            lines.append(open_ones.enter_context(connected(impatient.url)))
            lines[-1].sendall(f"{head}Content-Length: 20\r\n\r\n{body}".encode())
        answers = [received(line) for line in lines]

    for answer in answers:
        answered, _, content = answer.partition(b"\r\n\r\n")
        problem = json.loads(content)
        assert answered.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in answered
        assert (problem["status"], problem["code"], problem["instance"]) == (408, "request_timeout", path)
        assert "400ms" in problem["detail"]
        assert "again" in problem["hint"]
    assert eventually(lambda: not impatient.server.server_state.tasks)
    assert impatient.get("/v1/operations").json()["items"] == []
    assert 'aima_connections_refused_total{reason="deadline exceeded"} 2.0' in impatient.get("/metrics").text


def test_only_a_request_that_has_begun_is_answered_with_408(impatient: Node) -> None:
    with ExitStack() as open_ones:
        silent = open_ones.enter_context(connected(impatient.url))
        half = open_ones.enter_context(connected(impatient.url))
        half.sendall(b"GET /healthz HTTP/1.1\r\nHost: local")
        second = open_ones.enter_context(connected(impatient.url))
        second.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /healthz HTTP/1.1\r\n")

        assert received(silent) == b""
        assert received(half).startswith(b"HTTP/1.1 408 ")
        assert statuses(received(second)) == [200, 408]


def test_an_answer_that_has_begun_is_not_followed_by_a_408(impatient: Node, worker: ScriptedWorker) -> None:
    [operation] = impatient.start()
    worker.claim_start(operation["id"])
    stream = f"GET /v1/operations/{operation['id']}/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    cut = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n\r\n"
    with ExitStack() as open_ones:
        lines = [open_ones.enter_context(connected(impatient.url)) for _ in range(2)]
        lines[0].sendall(f"{stream}GET /healthz HTTP/1.1\r\n".encode())
        lines[1].sendall(cut.encode())

        assert [statuses(received(line)) for line in lines] == [[200], [200]]


def test_an_idle_connection_is_closed(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aima_api.http.server.KEEP_ALIVE_TIMEOUT", timedelta(seconds=1))
    with api_node(redis_url) as node, connected(node.url) as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")

        assert line.recv(65536).startswith(b"HTTP/1.1 200")
        assert is_cut(line)


def test_an_upgrade_does_not_leave_the_limits(impatient: Node) -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n"
    with connected(impatient.url) as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + upgrade + b"\r\n")

        assert line.recv(65536).startswith(b"HTTP/1.1 200")
        line.sendall(b"\x81\x85" + b"x")
        assert is_cut(line)


def test_a_client_that_reads_no_response_is_disconnected(impatient: Node) -> None:
    server = impatient.server
    impatient.get("/openapi.json", headers={"Connection": "close"})  # generated once, which takes seconds when busy
    assert eventually(lambda: len(server.limits) == 0, within=SOON)
    with connected(impatient.url, buffer=4096) as deaf:
        assert eventually(lambda: len(server.limits) == 1, within=SOON)
        while len(server.limits) and not unsent_bytes(server):  # whole requests, one at a time
            before = server.server_state.total_requests
            deaf.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert eventually(lambda: server.server_state.total_requests > before or not len(server.limits))  # noqa: B023 asked now

        assert eventually(lambda: len(server.limits) == 0, within=SOON)


# Number ------------------------------------------------------------------------------------------------------------


def test_connections_beyond_the_limit_of_an_address_hold_no_descriptor(apart: ApiProcess) -> None:
    apart.client.close()
    before = descriptors(apart.pid)
    with ExitStack() as open_ones:
        lines = [open_ones.enter_context(connected(apart.url)) for _ in range(200)]
        refused = [each for line in lines[60:] if (each := received(line))]
        assert eventually(lambda: descriptors(apart.pid) - before <= 32, within=SOON)

    problem = json.loads(refused[0].partition(b"\r\n\r\n")[2])
    assert (problem["status"], problem["code"]) == (429, "too_many_connections")
    assert "127.0.0.1 has 30" in problem["detail"]
    assert eventually(lambda: descriptors(apart.pid) <= before, within=SOON)
    with connected(apart.url) as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert line.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_trusted_proxy_has_no_limit_but_that_of_the_node(redis_url: str) -> None:
    proxies = ["127.0.0.0/8"]
    with (
        api_node(redis_url, connections_per_address=3, connections=9, trusted_proxies=proxies) as node,
        ExitStack() as open_ones,
    ):
        lines = [open_ones.enter_context(connected(node.url)) for _ in range(12)]
        refused = b"".join(map(received, lines[9:]))

        assert len(node.server.limits) == 9

    assert refused.count(b"This node has 9 open connections") == 3


def test_refusals_are_counted_in_the_metrics(redis_url: str) -> None:
    with api_node(redis_url, connections_per_address=2) as node, ExitStack() as open_ones:
        text = node.get("/metrics").text
        for _ in range(5):
            open_ones.enter_context(connected(node.url))
        assert eventually(lambda: 'reason="too many of its address"} 4.0' in node.get("/metrics").text)

    assert "aima_connections 1.0" in text


# The attacker ------------------------------------------------------------------------------------------------------


def connected(url: str, *, buffer: int | None = None) -> socket.socket:
    line = socket.socket()
    line.settimeout(SOON.total_seconds())
    if buffer:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    line.connect(("127.0.0.1", int(url.rpartition(":")[2])))
    return line


def unsent_bytes(server: LimitedServer) -> int:
    """Of responses that clients have not read."""
    return sum(each.transport.get_write_buffer_size() for each in list(server.limits._open))  # type: ignore[union-attr]  # no TLS


def endlessly(piece: bytes) -> Iterator[bytes]:
    for _ in range(ENDLESS // len(piece)):
        yield piece


def attack(url: str, first: bytes, rest: Callable[[], Iterator[bytes]]) -> int:
    """The bytes sent until the node disconnected."""
    sent = 0
    with connected(url) as line, suppress(OSError):
        line.sendall(first)
        for piece in rest():
            line.sendall(piece)
            sent += len(piece)
        return ENDLESS
    return sent


def trickled_until_cut(line: socket.socket, text: bytes) -> bool:
    deadline = time.monotonic() + SOON.total_seconds()
    line.settimeout(0.02)  # between two bytes
    for byte in text:
        if time.monotonic() > deadline:
            return False
        try:
            line.sendall(bytes([byte]))
            if not line.recv(1):
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answers)]


def is_cut(line: socket.socket) -> bool:
    """Whether the node ends the connection, with or without a last response, before the line's own timeout."""
    try:
        while line.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def peak_memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
