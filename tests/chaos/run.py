"""One run of chaos: executes a plan on a stage, undoes every fault, then checks the invariants at rest."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from threading import Lock

from chaos.at_rest import offences, scene_of
from chaos.client import Answer, Asking
from chaos.following import Follower
from chaos.plan import SHARES, Step, plan
from chaos.stage import Stage
from redis.exceptions import RedisError

from aima_core.errors import AimaError

CLIENTS = 16
REST_WITHIN = timedelta(seconds=100)
"""The time to converge. Claims expire in 15 s, ports are reconciled every 15 s, a third restart waits 30 s."""
LOOKS_EVERY_SECONDS = 1.0
MOST_FOLLOWERS = 60
REFUSALS = {404: {"unknown_service"}, 409: {"service_running"}, 422: {"invalid_request", "requirements_not_met"}}
"""Expected: a stop of a service that was never started, or more replicas than live hosts."""


@dataclass
class Report:
    seed: int
    wished: int = 0
    accepted: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    followers: int = 0
    lines: int = 0
    """Connections of followers."""
    rested_after: float = 0.0
    offences: dict[str, list[str]] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    """The steps, with their times."""

    def __str__(self) -> str:
        return "\n".join(
            [
                f"seed {self.seed}: {len(self.accepted)} operations of {self.wished} wishes; ended {dict(self.ended)}",
                f"  refused {dict(self.refused)}",
                f"  faults {sum(self.faults.values())}: {dict(self.faults)}",
                f"  {self.followers} followers over {self.lines} lines",
                f"  at rest {self.rested_after:.0f} s after mending",
                *(f"  {name}:\n    " + "\n    ".join(reported[:8]) for name, reported in self.offences.items()),
            ]
        )


class Run:
    def __init__(
        self, stage: Stage, *, seed: int, operations: int, installation: str, say: Callable[[str], None] | None = None
    ) -> None:
        self.report = Report(seed)
        self._stage = stage
        self._installation = installation
        self._steps = plan(seed, stage.shape, operations=operations)
        self._asking = Asking(stage.nodes())
        self._followers: list[Follower] = []
        self._lock = Lock()
        self._begun = time.monotonic()
        self._late = 0.0
        self._say_aloud = say

    def play(self) -> Report:
        before = self._stage.held()
        self._begun = time.monotonic()
        try:
            clients = ThreadPoolExecutor(CLIENTS, thread_name_prefix="client")
            try:
                self._act(clients)
                clients.shutdown()
            finally:
                clients.shutdown(cancel_futures=True)
            self._stage.make_whole()
            self._say("whole again")
            self._rest(before)
        finally:
            for follower in self._followers:
                follower.give_up()
            for follower in self._followers:
                follower.wait()
            self._asking.close()
        return self.report

    # Steps -----------------------------------------------------------------------------------------------

    def _act(self, clients: ThreadPoolExecutor) -> None:
        mends = [(step.at + step.lasts, step) for step in self._steps if step.lasts]
        moments = [*((step.at, step) for step in self._steps), *mends]
        for at, step in sorted(moments, key=lambda moment: moment[0]):
            self._wait_until(at)
            if step.what in SHARES:
                clients.submit(self._request_start, step)
            elif at == step.at:
                self._hurt(step)
            else:
                self._say(f"mend {step.what} {step.target}")
                self._stage.undo(step)

    def _hurt(self, step: Step) -> None:
        self.report.faults[step.what] += 1
        try:
            what = self._stage.make(step)
        except (AimaError, OSError, RedisError) as cannot:
            what = f"could not be done: {cannot}"
        self._say(f"{step}{f': {what}' if what else ''}")

    def _request_start(self, step: Step) -> None:
        try:
            answer = self._ask(step)
        except Exception as bug:  # noqa: BLE001 the boundary of the thread: a client that fell silent would hide it
            self._note(step, f"the client failed: {bug!r}")
            return
        if answer is not None:
            self._hear(step, answer)

    def _ask(self, step: Step) -> Answer | None:
        first = int(step.pick * 2)
        if step.what == "cancel":
            with self._lock:
                recent = self.report.accepted[-20:]
            return self._asking.post(f"/v1/operations/{step.one_of(recent)}:cancel", first=first) if recent else None
        path = "/v1/images:pull" if step.what == "pull" else f"/v1/services/{step.target}:{step.what}"
        return self._asking.post(path, step.body, first=first)

    def _hear(self, step: Step, answer: Answer) -> None:
        tried = f", at the {answer.tries}th try" if answer.tries > 1 else ""
        if answer.status == 202 and step.what == "cancel":
            self._say(f"cancel {answer.body['id']}, {answer.body['state']}{tried}")
        elif answer.status == 202:
            self._say(f"{step} {dict(step.body)} → {' '.join(answer.operations) or 'nothing'}{tried}")
            with self._lock:
                self.report.accepted += answer.operations
            if step.followed:
                self._follow(answer.operations, step)
        elif answer.code in REFUSALS.get(answer.status, ()):
            self._say(f"{step}: {answer.code}")
            with self._lock:
                self.report.refused[str(answer.code)] += 1
        else:
            self._note(step, f"was answered {answer.status} {answer.body!r}{tried}")
        with self._lock:
            self.report.wished += 1

    def _follow(self, operations: Sequence[str], step: Step) -> None:
        for id in operations:
            with self._lock:
                following = sum(each.ended_with is None for each in self._followers)
                if following >= MOST_FOLLOWERS:
                    return
                follower = Follower(id, self._stage.nodes(), first=int(step.pick * 2), seed=int(step.pick * 1e6))
                self._followers.append(follower)
            follower.start()

    def _note(self, step: Step, mishap: str) -> None:
        self._say(f"{step}: {mishap}")
        with self._lock:
            self.report.offences.setdefault("every_request_is_answered", []).append(f"{step}: {mishap}")

    # Rest -------------------------------------------------------------------------------------------------------

    def _rest(self, before: object) -> None:
        mended = time.monotonic()
        deadline = mended + REST_WITHIN.total_seconds()
        while True:
            scene = scene_of(
                self._stage,
                self._installation,
                accepted=self.report.accepted,
                followers=self._followers,
                before=before,  # type: ignore[arg-type]
            )
            found = offences(scene)
            if not found or time.monotonic() > deadline:
                break
            time.sleep(LOOKS_EVERY_SECONDS)
        self.report.rested_after = time.monotonic() - mended
        self.report.offences |= found
        self.report.ended = Counter(
            f"{each.kind} {each.failure.code if each.failure else each.state}" for each in scene.operations.values()
        )
        self.report.followers, self.report.lines = len(self._followers), sum(each.lines for each in self._followers)

    def _now(self) -> float:
        return time.monotonic() - self._begun

    def _wait_until(self, at: float) -> None:
        """A late step delays all later ones, so that each fault lasts as long as planned."""
        early = at - (self._now() - self._late)
        if early > 0:
            time.sleep(early)
        else:
            self._late -= early

    def _say(self, what: str) -> None:
        line = f"{self._now():7.2f}  {what}"
        with self._lock:
            self.report.log.append(line)
        if self._say_aloud:
            self._say_aloud(line)


def played(
    stage: Stage, *, seed: int, operations: int, installation: str, say: Callable[[str], None] | None = None
) -> Report:
    return Run(stage, seed=seed, operations=operations, installation=installation, say=say).play()


def written_to(report: Report, directory: Path) -> Path:
    file = directory / f"chaos-{report.seed}.log"
    file.write_text("\n".join([*report.log, str(report), ""]))
    return file
