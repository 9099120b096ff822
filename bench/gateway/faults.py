"""Requests that fail before their first byte while parts go away, and tokens that the gateway counts."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import timedelta

from lab.parts import eventually

from bench.comparison import Bounded, Result
from bench.gateway.clients import MODEL, Answer, Load, answers_to, loading
from bench.gateway.site import Site, running_site

DRAINS, KILLS, RESTARTS = 20, 20, 10
TOKENS = 20
COMPLETED, LEFT = 300, 50
"""Answers whose tokens are counted, of each kind."""
RECOVERS_WITHIN = timedelta(seconds=60)
BETWEEN = 100
"""Answers between two faults."""


def measure() -> list[Result]:
    with running_site(engines=2) as tried:
        return [
            _tokens(tried),
            _failed(tried, f"{DRAINS} drains", DRAINS, lambda number: _drain(tried, number % 2)),
            _failed(tried, f"{KILLS} killed engines", KILLS, lambda number: _kill(tried, number % 2)),
            _failed(tried, f"{RESTARTS} restarts of Redis and API nodes", RESTARTS, lambda _: _restart(tried)),
        ]


def _failed(tried: Site, what: str, times: int, fault: Callable[[int], None]) -> Result:
    """Requests that failed before their first byte."""
    kinds = Load(tried.url, MODEL, tried.key, at_once=4), Load(tried.url, MODEL, tried.key, at_once=8, streamed=True)
    with loading(*kinds) as running:
        for number in range(times):
            already = len(running.answers)
            fault(number)
            _await(lambda already=already: len(running.answers) >= already + BETWEEN, "no answers")  # type: ignore[misc]  # the default binds it
    return Bounded(
        f"failed before their first byte, {what}, of {len(running.answers)}", [_lost(running.answers)], "", 0
    )


def _lost(answers: list[Answer]) -> float:
    return float(sum(each.failed for each in answers))


def _drain(tried: Site, number: int) -> None:
    """The engine is told to end at once, and ends with its last answer."""
    tried.drain(number)
    tried.engines[number].end()
    _start(tried, number)


def _kill(tried: Site, number: int) -> None:
    tried.engines[number].end(signal.SIGKILL)
    _start(tried, number)


def _start(tried: Site, number: int) -> None:
    tried.engines[number].start()
    tried.serve(number)
    _await(lambda: tried.uses(number), "the engine is not used again")


def _restart(tried: Site) -> None:
    tried.api.end()
    tried.redis.stop()
    tried.redis.start()
    tried.api.start()
    tried.wait_for_api()


def _tokens(tried: Site) -> Result:
    """Whole answers, streams with and without usage for their clients, and streams whose clients leave."""
    engines = [each.counts()["completed"] for each in tried.engines]
    before = tried.counted_tokens()
    common = Load(tried.url, MODEL, tried.key, at_once=20, number=COMPLETED, tokens=TOKENS)
    for kind in (
        {},
        {"streamed": True},
        {"streamed": True, "asks_for_usage": True},
        {"streamed": True, "number": LEFT, "abort_after": 500},
    ):
        answers_to(Load(**{**vars(common), **kind}))
    _await(lambda: not any(each.counts()["busy"] for each in tried.engines), "an engine is still busy")
    sent = sum(each.counts()["completed"] for each in tried.engines) - sum(engines)
    if sent != 3 * COMPLETED * TOKENS:
        raise RuntimeError(f"the engines sent {sent} tokens, which is not what was asked for")
    missing = abs(tried.counted_tokens() - before - sent)
    return Bounded(f"tokens of {3 * COMPLETED} answers that were counted wrong", [float(missing)], "", most=0)


def _await(fact: Callable[[], bool], why: str) -> None:
    if not eventually(fact, within=RECOVERS_WITHIN):
        raise RuntimeError(f"{why} within {RECOVERS_WITHIN.seconds} s")
