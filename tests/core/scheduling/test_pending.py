"""The reason of a pending operation: one readable sentence for any number of hosts."""

from __future__ import annotations

from aima_core.domain.ids import HostName
from aima_core.domain.resources import ObstacleKind
from aima_core.scheduling.feasibility import Obstacle
from aima_core.scheduling.pending import Against, explain

DRAINED = Obstacle(ObstacleKind.DRAINED, "drained", True)
OFFLINE = Obstacle(ObstacleKind.OFFLINE, "not live", True)
ARCH = Obstacle(ObstacleKind.ARCH, "needs arm64 (host: amd64)", False)


def short_of(memory: int) -> Obstacle:
    return Obstacle(ObstacleKind.MEMORY, f"needs 92 GB memory (host: {memory} GB free)", True)


def against(**hosts: list[Obstacle]) -> Against:
    return {HostName(name.replace("_", "-")): reasons for name, reasons in hosts.items()}


def test_each_host_is_listed_with_all_its_obstaclees() -> None:
    reported = explain(against(spark_01=[short_of(20)], spark_02=[DRAINED, OFFLINE]))

    assert reported == "spark-01: needs 92 GB memory (host: 20 GB free); spark-02: drained; not live"


def test_an_eligible_host_is_not_listed() -> None:
    assert explain(against(spark_01=[], spark_02=[DRAINED])) == "spark-02: drained"


def test_hosts_with_the_same_reasons_are_listed_together() -> None:
    reported = explain(against(a=[DRAINED], b=[short_of(3)], c=[DRAINED], d=[DRAINED]))

    assert reported == "b: needs 92 GB memory (host: 3 GB free); a, c and d: drained"


def test_the_hosts_closest_to_eligible_come_first() -> None:
    reported = explain(against(a=[ARCH], b=[DRAINED, OFFLINE], c=[OFFLINE]))

    assert reported == "c: not live; b: drained; not live; a: needs arm64 (host: amd64)"


def test_of_two_hundred_hosts_five_are_named_and_the_others_counted() -> None:
    short = {f"m{number:03d}": [short_of(number)] for number in range(5)}
    drained = {f"d{number:03d}": [DRAINED] for number in range(120)}
    wrong = {f"w{number:03d}": [ARCH] for number in range(75)}

    reported = explain(against(**wrong, **drained, **short))

    assert reported.count("GB free") == 5
    assert reported.endswith("; and 195 more (drained: 120, arch: 75)")


def test_a_single_remaining_host_is_named_rather_than_counted() -> None:
    reported = explain(against(**{f"d{number}": [DRAINED] for number in range(6)}))

    assert reported == "d0, d1, d2, d3, d4 and d5: drained"
