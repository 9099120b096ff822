"""The data plane passes gateways' requests to engines, streamed both ways, and ends what a client leaves."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from http.client import IncompleteRead

import pytest
from lab.dataplane import INSTANCE, DataplaneUnderTest, dataplane
from lab.parts import eventually

from aima_core.domain.ids import InstanceId
from aima_worker.dataplane.files import AddressReader, Config, EngineAddresses


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[DataplaneUnderTest]:
    with dataplane(tmp_path_factory.mktemp("dataplane")) as plane:
        yield plane


@pytest.fixture(autouse=True)
def no_idle_connections(running) -> Iterator[None]:
    yield
    running.engine.hang_up()


def test_a_request_reaches_its_engine_as_it_was_sent_without_the_token(running):
    sent = {**running.headers(), "X-Request-Id": "r-1", "Content-Type": "application/json"}

    status, headers, answer = running.request(
        f"/i/{INSTANCE}/echo/a%20b?c=%2F&d=1", method="POST", body=b'{"n": 1}', headers=sent
    )

    assert (status, json.loads(answer)) == (200, {"method": "POST", "target": "/echo/a%20b?c=%2F&d=1", "body": 8})
    head = running.engine.heads[-1].lower()
    assert b"x-request-id: r-1" in head and b"authorization" not in head
    assert "aima-error" not in headers  # only the data plane itself may send it


@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "chunked"])
def test_a_body_of_many_megabytes_is_streamed_to_the_engine(running, chunked):
    body = iter([b"x" * 1_000_000] * 8) if chunked else b"x" * 8_000_000

    status, _, answer = running.request(f"/i/{INSTANCE}/echo", method="POST", body=body, encode_chunked=chunked)

    assert (status, json.loads(answer)["body"]) == (200, 8_000_000)


def test_a_compressed_body_is_passed_on_as_it_is(running):
    sent = {**running.headers(), "Content-Encoding": "gzip"}

    _, _, answer = running.request(f"/i/{INSTANCE}/echo", method="POST", body=b"\x1f\x8bno gzip", headers=sent)

    assert json.loads(answer)["body"] == 9
    assert b"content-encoding: gzip" in running.engine.heads[-1].lower()


@pytest.mark.parametrize("path", ["/stream", "/silent"], ids=["in its answer", "before its first byte"])
def test_a_client_that_leaves_ends_the_work_of_the_engine(running, path):
    connection = running.connect()
    connection.request("POST", f"/i/{INSTANCE}{path}", b"{}", running.headers())
    assert eventually(lambda: running.engine.busy == 1)
    if path == "/stream":
        assert connection.getresponse().read(9) == b"data: x\n\n"

    connection.close()
    if connection.sock is not None:
        connection.sock.close()

    assert eventually(lambda: running.engine.busy == 0)


def test_an_answer_that_the_engine_breaks_off_does_not_look_complete(running):
    token = running.headers()["Authorization"]

    answer = running.send(f"GET /i/{INSTANCE}/cut HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n\r\n".encode())

    assert b"data: x" in answer
    assert not answer.endswith(b"0\r\n\r\n")


def test_an_engine_that_does_not_listen_is_reported_as_unreachable(running):
    other = InstanceId("svc-tiny-gone@spark-01")
    running.addresses.put(other, "127.0.0.1", 9, fence=1)

    status, headers, answer = running.request(f"/i/{other}/echo", headers=running.headers(other))

    assert (status, headers["aima-error"]) == (502, "engine_unreachable")
    assert str(other) in json.loads(answer)["detail"]


def test_an_instance_is_forwarded_to_until_its_address_is_dropped(running):
    other = InstanceId("svc-tiny-other@spark-01")
    running.addresses.put(other, "127.0.0.1", running.engine.port, fence=2)
    there, _, _ = running.request(f"/i/{other}/echo", headers=running.headers(other))

    running.addresses.drop(other, fence=2)

    gone, headers, _ = running.request(f"/i/{other}/echo", headers=running.headers(other))
    assert (there, gone, headers["aima-error"]) == (200, 404, "not_forwarded")


def test_a_killed_and_restarted_data_plane_drops_only_the_streams_that_it_carried(tmp_path):
    with dataplane(tmp_path) as plane:
        carried = plane.connect()
        carried.request("GET", f"/i/{INSTANCE}/stream", headers=plane.headers())
        stream = carried.getresponse()
        stream.read(9)

        plane.end(signal.SIGKILL)
        plane.start()

        status, _, _ = plane.request(f"/i/{INSTANCE}/echo")
        assert status == 200
        assert eventually(lambda: plane.engine.busy == 0)
        with pytest.raises((ConnectionError, IncompleteRead)):
            stream.read()


def test_a_data_plane_that_is_stopped_serves_its_streams_to_their_end_beside_its_successor(tmp_path):
    with dataplane(tmp_path) as plane:
        carried = plane.connect()
        carried.request("GET", f"/i/{INSTANCE}/stream", headers=plane.headers())
        stream = carried.getresponse()
        stream.read(9)
        first = plane.process

        first.send_signal(signal.SIGTERM)
        assert eventually(lambda: not plane.listens())
        plane.start()

        assert stream.read(9) == b"data: x\n\n"
        assert first.poll() is None
        assert plane.request(f"/i/{INSTANCE}/echo")[0] == 200
        stream.close()
        carried.close()
        assert first.wait(10) == 0


def test_keys_that_the_worker_has_changed_count_without_a_restart(tmp_path):
    with dataplane(tmp_path) as plane:
        assert plane.request(f"/i/{INSTANCE}/echo")[0] == 200
        first = plane.process

        Config.load(plane.directory).model_copy(update={"keys": ()}).save(plane.directory)

        assert eventually(lambda: plane.request(f"/i/{INSTANCE}/echo")[0] == 401)
        assert plane.process is first and first.poll() is None


def test_a_change_with_a_lower_fence_neither_moves_nor_drops_an_address(tmp_path):
    addresses = EngineAddresses(tmp_path)
    addresses.put(INSTANCE, "127.0.0.1", 20001, fence=5)

    addresses.put(INSTANCE, "127.0.0.1", 20002, fence=4)
    addresses.drop(INSTANCE, fence=4)

    assert AddressReader(tmp_path).find(INSTANCE) == ("127.0.0.1", 20001, 5)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"no instance": ["a", 1, 1]}', '{"svc-tiny-dial@spark-01": [1]}'])
def test_an_unreadable_file_of_addresses_counts_as_empty_and_is_written_again(tmp_path, text):
    (tmp_path / "engines.json").write_text(text)

    addresses = EngineAddresses(tmp_path)
    addresses.put(INSTANCE, "127.0.0.1", 20001, fence=1)

    assert EngineAddresses(tmp_path).find(INSTANCE) == ("127.0.0.1", 20001, 1)
