"""The steps of a run, drawn from `random.Random(seed)` in advance, so that a run is reproducible."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

SHARES = {"start": 45, "stop": 25, "restart": 10, "pull": 10, "cancel": 10}
SERVICES_PER_HOST = 2
TRIES = 5
"""Attempts to find a target without a fault."""
FIXED_PORT = 20_005
FOLLOWED = 0.3
IMAGES = 4
"""Images that no engine uses, which are only pulled."""


@dataclass(frozen=True)
class Step:
    at: float
    """Due time in seconds after the start of the run; later on a slow machine."""
    what: str
    """A key of SHARES, or a fault."""
    target: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    """The fields of a request."""
    lasts: float = 0.0
    """Seconds until a fault is undone."""
    pick: float = 0.0
    """From 0 to 1: selects one of the targets that exist at that time."""
    followed: bool = False

    def one_of(self, several: Any) -> Any:
        return several[int(self.pick * len(several))]

    def __str__(self) -> str:
        said = f"{self.what} {self.target}".strip()
        return f"{said} for {self.lasts:.1f} s" if self.lasts else said


@dataclass(frozen=True)
class Fault:
    what: str
    targets: tuple[str, ...]
    lasts: tuple[float, ...]
    """One of these; 0 needs no undoing. While it lasts, its target gets no other fault."""
    weight: int = 1


@dataclass(frozen=True)
class Shape:
    """The faults and requests of a stage, and their rates."""

    hosts: tuple[str, ...]
    prefix: str
    """The prefix of its services' ids."""
    body: Mapping[str, Any]
    """Fields of every start request."""
    image: str
    """References of images to pull, formatted with a number."""
    faults: tuple[Fault, ...]
    requests_per_second: float
    seconds_between_faults: float


def plan(seed: int, shape: Shape, *, operations: int) -> list[Step]:
    dice = random.Random(seed)
    requests = list(_requests(dice, shape, operations))
    return sorted([*requests, *_faults(dice, shape, until=requests[-1].at)], key=lambda step: step.at)


def _requests(dice: random.Random, shape: Shape, operations: int) -> Iterator[Step]:
    bodies, begun = dict(_services(dice, shape)), set[str]()
    at = 0.0
    for _ in range(operations):
        at += dice.expovariate(shape.requests_per_second)
        what, service = dice.choices(list(SHARES), list(SHARES.values()))[0], dice.choice(list(bodies))
        if what in ("stop", "restart") and service not in begun:
            what = "start"
        begun |= {service} if what == "start" else set()
        target, body = _request(dice, shape, what, service)
        body |= bodies[service] if what == "start" else {}
        yield Step(at, what, target, body, pick=dice.random(), followed=dice.random() < FOLLOWED)


def _request(dice: random.Random, shape: Shape, what: str, service: str) -> tuple[str, dict[str, Any]]:
    if what == "pull":
        return "", {"image": shape.image.format(dice.randrange(IMAGES)), "hosts": [dice.choice(shape.hosts)]}
    if what == "cancel":
        return "", {}
    return service, {"start": dict(shape.body), "stop": {"grace": "1s"}}.get(what, {})


def _services(dice: random.Random, shape: Shape) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each is requested in one way: anywhere, twice, on a host, or on a port there that another requests too."""
    for number in range(SERVICES_PER_HOST * len(shape.hosts)):
        kind, host = (
            dice.choices(["anywhere", "twice", "pinned", "on a port"], [45, 15, 30, 10])[0],
            dice.choice(shape.hosts),
        )
        body: dict[str, Any] = {
            "anywhere": {},
            "twice": {"replicas": 2},
            "pinned": {"hosts": [host]},
            "on a port": {"hosts": [host], "port": FIXED_PORT},
        }[kind]
        yield f"{shape.prefix}-{number:03d}", body


def _faults(dice: random.Random, shape: Shape, *, until: float) -> Iterator[Step]:
    busy: dict[str, float] = {}
    at = 0.0
    while (at := at + dice.expovariate(1 / shape.seconds_between_faults)) < until:
        for _ in range(TRIES):
            fault = dice.choices(shape.faults, [each.weight for each in shape.faults])[0]
            target, lasts, pick = dice.choice(fault.targets), dice.choice(fault.lasts), dice.random()
            if busy.get(target, 0.0) <= at:
                break
        else:
            continue
        busy[target] = at + lasts + 1
        yield Step(at, fault.what, target, lasts=lasts, pick=pick)
