"""A network in a cell: a bridge, a veth pair to each host, and one to the test process.

A host is a network namespace. All have addresses in one /24, which the test process reaches too:
`http://10.77.<n>.11:20000` works from everywhere. The test's end of its veth pair is removed with the cell.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from lab.cell import Cell

SWITCH = "lab"
_TEST_CABLE = "test"
_SERVERS, _FIRST_HOST, _TEST = 1, 11, 254
"""The last numbers of addresses."""


class Link:
    """A host's veth pair to the bridge."""

    def __init__(self, inside: Cell, name: str, address: str) -> None:
        self.address = address
        self._cell = inside
        self._name = name

    def cut(self) -> None:
        """Partition the host: no packet passes, and no connection is reset."""
        self._cell.do("ip", "link", "set", self._name, "down")

    def mend(self) -> None:
        self._cell.do("ip", "link", "set", self._name, "up")

    def inside(self, *command: str) -> tuple[str, ...]:
        """The prefix that runs a command on this host, within the cell."""
        # Not `ip netns exec`: it would hide the control groups from a Docker Engine.
        return ("nsenter", f"--net=/run/netns/{self._name}", "--", *command)


class Network:
    def __init__(self, inside: Cell, number: int) -> None:
        self.subnet = f"10.77.{number}.0/24"
        self.servers = self._address(_SERVERS)
        """The address of programs in the cell that run on no host."""
        self._cell = inside
        self._hosts = 0

    def connect(self, host: str) -> Link:
        """Adds a host."""
        address = self._address(_FIRST_HOST + self._hosts)
        self._hosts += 1
        for command in (
            f"ip netns add {host}",
            f"ip link add {host} type veth peer name eth0 netns {host}",
            f"ip link set {host} master {SWITCH} up",
            f"ip -n {host} address add {address}/24 dev eth0",
            f"ip -n {host} link set eth0 up",
            f"ip -n {host} link set lo up",
        ):
            self._cell.do(*command.split())
        return Link(self._cell, host, address)

    def lay(self, cable: str) -> None:
        """Creates the bridge, with the veth pair from the test's network."""
        for command in (
            f"ip link add {SWITCH} type bridge",
            f"ip address add {self.servers}/24 dev {SWITCH}",
            f"ip link set {SWITCH} up",
            f"ip link set {_TEST_CABLE} master {SWITCH} up",
        ):
            self._cell.do(*command.split())
        _here(f"ip address add {self._address(_TEST)}/24 dev {cable}")
        _here(f"ip link set {cable} up")

    def _address(self, last: int) -> str:
        return self.subnet.replace(".0/24", f".{last}")


@contextmanager
def network(inside: Cell) -> Iterator[Network]:
    """A network unused by other cells of this machine, until the block ends."""
    number = _free_number(inside)
    try:
        made = Network(inside, number)
        made.lay(_cable(number))
        yield made
    finally:
        _here(f"ip link delete {_cable(number)}")


def _free_number(inside: Cell) -> int:
    """A number, reserved by the name of the new interface."""
    for number in random.sample(range(1, 255), 254):
        command = f"ip link add {_cable(number)} type veth peer name {_TEST_CABLE} netns {inside.pid}"
        if subprocess.run(command.split(), stderr=subprocess.DEVNULL).returncode == 0:
            return number
    raise AssertionError("no cable could be laid to the cell; `ip link add … type veth` by hand tells why")


def _cable(number: int) -> str:
    return f"aimalab{number}"


def _here(command: str) -> None:
    subprocess.run(command.split(), check=True)
