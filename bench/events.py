"""Event latency from a worker to an HTTP follower, against a bare publish to a bare subscriber; and to many followers.

Measured from the worker's call, which records the event, to the arrival of its bytes. One operation is
followed, which this process claims.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from statistics import median, quantiles

import redis

from aima_core.domain.ids import HostName, OperationId
from aima_core.domain.operations import Event, Phase
from aima_core.redis.connection import command_link
from aima_core.store.claims import Claimed, ClaimStore
from aima_core.store.operations import OperationStore, now
from bench.comparison import Bounded, Comparison, RatioAtMost, Result, Turn, size, take_turns
from bench.elsewhere import Elsewhere, elsewhere, follow, subscribe
from bench.followers import Arrivals, followers
from bench.installation import Installation, cpu_seconds, installation

ROUNDS = 11
NEEDS = ("redis",)
EVENTS = size(100)
"""Events to one follower, one at a time."""
CROWD = size(1000)
EVENTS_TO_CROWD = 10
"""Events per round."""
PACE_SECONDS = 0.1
"""A worker reports progress at most ten times a second."""
LINE = "INFO: loading safetensors checkpoint shards"


def measure(rounds: int) -> list[Result]:
    with installation(hosts=1) as aima:
        return [_to_one(rounds, aima), *_to_crowd(rounds, aima)]


_numbers = count()


class _Worker:
    """A worker of one operation that only records events."""

    SAYS_FIRST = 3
    """Events of the operation, `queued` included."""

    def __init__(self, aima: Installation) -> None:
        link = command_link(aima.redis_url)
        self._operations = OperationStore(link)
        # A service of its own: an equal start would join the one in progress.
        service = f"svc-tiny-{next(_numbers)}"
        body = {"engine": "dial-cpu", "model": "Dial"}
        self.id = OperationId(aima.submit(f"/v1/services/{service}:start", body))
        claimed = ClaimStore(link).claim(self.id, HostName("host-0"))
        if not isinstance(claimed, Claimed):
            raise RuntimeError(f"it is not to be carried out: {claimed}")
        self.say(Phase.STARTING)
        self.say(Phase.LOADING)

    def say(self, phase: Phase, **more: tuple[str, ...]) -> int:
        return self._operations.append_event(Event(operation=self.id, at=now(), phase=phase, **more))


# One follower ------------------------------------------------------------------------------------------------------


def _to_one(rounds: int, aima: Installation) -> Result:
    worker = _Worker(aima)
    text = Event(operation=worker.id, at=now(), phase=Phase.LOADING, lines=(LINE,)).model_dump_json()
    with (
        redis.Redis.from_url(aima.redis_url) as bare,
        elsewhere(follow, aima.events_of(worker.id), _Worker.SAYS_FIRST) as follower,
        elsewhere(subscribe, aima.redis_url, "bare") as subscriber,
    ):
        seconds = take_turns(
            rounds,
            {
                "aima": _median_of(lambda: worker.say(Phase.LOADING, lines=(LINE,)), follower),
                "publish": _median_of(lambda: bare.publish("bare", text), subscriber),
            },
        )
    what = "event from worker to follower over HTTP, against publish to subscriber"
    return Comparison(what, seconds["aima"], seconds["publish"], RatioAtMost(3))


def _median_of(say: Callable[[], object], listener: Elsewhere) -> Turn:
    def took() -> float:
        began = time.perf_counter()
        say()
        return float(listener.received()) - began

    return lambda: median(took() for _ in range(EVENTS))


# Many followers ----------------------------------------------------------------------------------------------------


def _to_crowd(rounds: int, aima: Installation) -> list[Result]:
    worker = _Worker(aima)
    with followers(aima.events_of(worker.id), CROWD) as reported:
        began = cpu_seconds(aima.api_pid)
        said = [_say_to_crowd(worker) for _ in range(rounds)]
        worker.say(Phase.READY)
        received: Arrivals = reported.received()
        used = cpu_seconds(aima.api_pid) - began
    delays = [_delays(each, received) for each in said]
    astray = sum(abs(CROWD - len(received.get(seq, ()))) for each in said for seq in each)
    last = [quantiles(each, n=100)[98] * 1000 for each in delays]
    return [
        Bounded(f"event to {CROWD} followers of one operation, p99", last, "ms", most=250),
        Bounded("the API node's CPU for each of these", [used * 1000 / (rounds * EVENTS_TO_CROWD)], "ms"),
        Bounded("events of these that a follower missed, or had twice", [astray], "", most=0),
    ]


def _say_to_crowd(worker: _Worker) -> dict[int, float]:
    """The number and publication time of each event."""
    said = {}
    for _ in range(EVENTS_TO_CROWD):
        began = time.perf_counter()
        said[worker.say(Phase.LOADING, lines=(LINE,))] = began
        time.sleep(max(0.0, began + PACE_SECONDS - time.perf_counter()))
    return said


def _delays(said: dict[int, float], received: Arrivals) -> list[float]:
    return [at - began for seq, began in said.items() for at in received.get(seq, ())]
