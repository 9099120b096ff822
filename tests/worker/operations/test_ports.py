"""Requested and leased ports that another program already uses."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from lab.commands import a_start_of
from lab.parts import own_ports

from aima_core.redis import keys
from aima_core.settings import Settings
from aima_worker.operations.ports import raise_if_in_use

pytestmark = pytest.mark.redis

PORTS = own_ports(18600)
CHECKS = 3000
"""More than enough for two that listen to meet."""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With ports that no test beside this one leases."""
    return settings.model_copy(update={"host": settings.host.model_copy(update={"ports": PORTS})})


def assert_nothing_is_left(desk) -> None:
    assert desk.containers() == []
    assert desk.leases() == []


def test_an_explicitly_requested_port_in_use_fails_the_start_and_names_its_holder(desk):
    with socket.create_server(("127.0.0.1", PORTS[5])):
        outcome = desk.run_command(a_start_of(port=PORTS[5]))

    assert outcome.code == "port_taken"
    assert f"(pid {os.getpid()})" in outcome.operation.failure.message
    assert_nothing_is_left(desk)


def test_workers_that_check_one_port_at_once_do_not_find_it_in_use_by_each_other():
    def check_often(_):
        for _ in range(CHECKS):
            raise_if_in_use("127.0.0.1", PORTS[0])

    with ThreadPoolExecutor(2) as workers:
        assert list(workers.map(check_often, range(2))) == [None, None]


def test_a_port_outside_the_range_of_the_host_is_refused(desk):
    outcome = desk.run_command(a_start_of(port=80))

    assert outcome.code == "port_out_of_range"
    assert_nothing_is_left(desk)


def test_a_port_in_use_is_replaced_by_the_next_free_one(desk):
    with socket.create_server(("127.0.0.1", PORTS[0])):
        outcome = desk.run_command(a_start_of())

    assert outcome.operation.endpoint == f"http://127.0.0.1:{PORTS[1]}"
    assert any(f"{PORTS[0]}" in (event.message or "") for event in outcome.events)


def test_a_port_in_use_is_skipped_for_a_minute_and_five_of_them_fail_the_start(desk, runtime, redis):
    runtime.taken_ports |= set(desk.host.settings.host.ports)
    began, _ = redis.time()

    outcome = desk.run_command(a_start_of())

    ended, _ = redis.time()
    set_aside = [f"{port}" for port in PORTS[:5]]
    assert outcome.code == "no_free_port"
    assert [event.message.split()[1] for event in outcome.events if event.message] == set_aside
    until = [redis.zscore(keys.ports(desk.host.name), port) / 1000 for port in set_aside[:-1]]
    assert all(began + 60 <= each <= ended + 1 + 60 for each in until)
    assert_nothing_is_left(desk)
