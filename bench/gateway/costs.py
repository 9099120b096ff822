"""What each way to an engine adds and costs: time, CPU time, memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from statistics import median, quantiles

import psutil

from bench.comparison import AddedAtMost, Bounded, Comparison, RateAtLeast, RatioAtMost, Result
from bench.gateway.clients import Answer, Load, answers_to, held

ONE_BY_ONE = 200
REQUESTS = 2000
AT_ONCE = 16
STREAMS = 100
TOKENS = 100
"""Of a stream."""
SHORT_PACE, LONG_PACE = 0.001, 0.02
"""Seconds between two tokens of a stream alone, and of one of many."""
OPEN_STREAMS = 1000
MOST_ADDED, MOST_P99 = timedelta(milliseconds=0.8), timedelta(milliseconds=3)
MOST_DATAPLANE = timedelta(milliseconds=0.5)
MOST_PER_REQUEST, MOST_PER_CHUNK, MOST_MEMORY = 0.35, 30, 200
OF_VLLM_ROUTER, CHUNKS_OF_VLLM_ROUTER, OF_LITELLM, OF_BARE = 0.4, 0.6, 8, 1.5


@dataclass
class Way:
    """A way to the engine; one figure of each list per round."""

    url: str
    model: str
    key: str
    pid: int | None
    """Of its process, with children; None has none that counts."""
    share: float = 1.0
    """Of the requests that others get; fewer for a slow one."""
    plain: list[float] = field(default_factory=list)
    stream: list[float] = field(default_factory=list)
    """Seconds that the engine did not need itself, of a stream alone."""
    crowd: list[float] = field(default_factory=list)
    """The same at p99 of many streams at once."""
    per_request: list[float] = field(default_factory=list)
    """CPU seconds."""
    per_chunk: list[float] = field(default_factory=list)

    def measure(self) -> None:
        """One round. Raises RuntimeError if an answer is not complete."""
        self.plain.append(median(each.seconds for each in self._answers(ONE_BY_ONE)))
        self.per_request.append(self._cpu_of(round(REQUESTS * self.share), at_once=AT_ONCE)[0])
        alone = self._answers(10, tokens=TOKENS, streamed=True, pace=SHORT_PACE)
        self.stream.append(median(each.added for each in alone))
        streams = {"streamed": True, "tokens": TOKENS, "pace": LONG_PACE, "spread": LONG_PACE * TOKENS / 2}
        cpu, crowd = self._cpu_of(STREAMS, at_once=STREAMS, **streams)
        self.per_chunk.append(cpu / TOKENS)
        self.crowd.append(quantiles([each.added for each in crowd], n=100)[98])

    def _cpu_of(self, number: int, **load: float) -> tuple[float, Sequence[Answer]]:
        """CPU seconds of its process for each of the requests, and their answers."""
        before = cpu_of(self.pid)
        answers = self._answers(number, **load)
        return (cpu_of(self.pid) - before) / number, answers

    def _answers(self, number: int, **load: float) -> Sequence[Answer]:
        answers = answers_to(Load(self.url, self.model, self.key, number=number, **load))  # type: ignore[arg-type]  # as named
        if lost := [each for each in answers if not each.complete]:
            raise RuntimeError(f"{len(lost)} of {number} answers of {self.url} are incomplete, such as {lost[0]}")
        return answers


def cpu_of(pid: int | None) -> float:
    """CPU seconds of a process and its children, to a nanosecond as the kernel's scheduler counts them."""
    if pid is None:
        return 0.0
    process = psutil.Process(pid)
    threads = [
        thread
        for each in (process, *process.children(recursive=True))
        for thread in Path(f"/proc/{each.pid}/task").glob("*/schedstat")
    ]
    return sum(int(each.read_text().split()[0]) for each in threads) / 1e9


def judged(ways: dict[str, Way]) -> Iterator[Result]:
    ours, direct, far = ways["aima"], ways["direct"], ways["dataplane"]
    yield Comparison("plain, p50, against a direct call", ours.plain, direct.plain, AddedAtMost(MOST_ADDED))
    what = f"a stream of {TOKENS} chunks, p50, against a direct one"
    yield Comparison(what, ours.stream, direct.stream, AddedAtMost(MOST_ADDED))
    what = f"{STREAMS} such streams at once, p99, against direct ones"
    yield Comparison(what, ours.crowd, direct.crowd, AddedAtMost(MOST_P99))
    yield Comparison("plain, p50, through the data plane", far.plain, ours.plain, AddedAtMost(MOST_DATAPLANE))
    yield Bounded("CPU per request", _times(ours.per_request, 1e3), "ms", most=MOST_PER_REQUEST)
    yield Bounded("CPU per chunk", _times(ours.per_chunk, 1e6), "µs", most=MOST_PER_CHUNK)
    bare = ways["bare proxy"]
    what = "against a proxy of a few lines with the same libraries"
    for each, its, alone in (
        ("plain", "plain", (ours, direct)),
        (f"a stream of {TOKENS} chunks", "stream", (ours, direct)),
        (f"p99 of {STREAMS} streams at once", "crowd", (ours, direct)),
        ("plain, by the data plane", "plain", (far, ours)),
    ):
        theirs = _added(its, bare, direct)
        yield Comparison(f"time added, {each}, {what}", _added(its, *alone), theirs, RatioAtMost(OF_BARE))
    yield Comparison(f"CPU per request, {what}", ours.per_request, bare.per_request, RatioAtMost(OF_BARE))
    yield Comparison(f"CPU per chunk, {what}", ours.per_chunk, bare.per_chunk, RatioAtMost(OF_BARE))
    for name, goal in (("vllm-router", RateAtLeast(OF_VLLM_ROUTER)), ("LiteLLM", RateAtLeast(OF_LITELLM))):
        if name in ways:
            yield Comparison(f"requests per core, against {name}", ours.per_request, ways[name].per_request, goal)
    if router := ways.get("vllm-router"):
        goal = RateAtLeast(CHUNKS_OF_VLLM_ROUTER)
        yield Comparison("chunks per core, against vllm-router", ours.per_chunk, router.per_chunk, goal)
    for name, way in ways.items():
        if way is not ours and way is not direct and way is not far:
            yield from _reported(name, way, direct)


def _reported(name: str, way: Way, direct: Way) -> Iterator[Result]:
    """A rival's figures."""
    for what, its in (("plain", "plain"), ("stream", "stream"), ("streams at once, p99", "crowd")):
        yield Bounded(f"{name}: {what}, added", _times(_added(its, way, direct), 1e3), "ms")
    yield Bounded(f"{name}: CPU per request", _times(way.per_request, 1e3), "ms")
    yield Bounded(f"{name}: CPU per chunk", _times(way.per_chunk, 1e6), "µs")


def _added(figure: str, way: Way, before: Way) -> list[float]:
    """Seconds in each round."""
    return [one - other for one, other in zip(getattr(way, figure), getattr(before, figure), strict=True)]


def memory_of_open_streams(way: Way) -> Bounded:
    """Of the process with all of them open; without pages that it shares with others."""
    load = Load(way.url, way.model, way.key, at_once=OPEN_STREAMS, tokens=TOKENS * 100, streamed=True, pace=1.0)
    resident = held(load, lambda: psutil.Process(way.pid).memory_info().rss / 1e6)
    return Bounded(f"memory with {OPEN_STREAMS} open streams", [resident], "MB", most=MOST_MEMORY)


def _times(figures: Sequence[float], factor: float) -> list[float]:
    return [each * factor for each in figures]
