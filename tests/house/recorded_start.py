"""One start from the HTTP request to the ready instance, with every call between two files of the product recorded.

The API node is real and runs in a thread; the worker executes the operation as Celery calls its task, on the fake
runtime. Calls of background loops are left out: they belong to no start.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from api.node import SERVICE, ScriptedWorker, api_node
from celery import Celery
from lab.commands import SIGNING_KEY, a_start_of
from lab.desk import desk_of, host_of
from lab.images import busybox_image

from aima_core.domain.operations import Kind
from aima_core.queue.notifier import task_name
from aima_core.redis.interface import TextRedis
from aima_core.settings import HostSettings, Settings
from aima_worker.execution.celery_worker import add_tasks
from aima_worker.execution.executor import execute
from aima_worker.node.hardware import arch
from aima_worker.runtime_selection import choose_runtime
from aima_worker.runtimes.fake.runtime import FakeRuntime

ROOT = Path(__file__).parents[2]
PACKAGES = tuple(f"{ROOT}/{package}/" for package in ("aima_core", "aima_worker", "aima_api"))
IMAGE = "aima/dial:1"
MIDDLEWARE = "aima_api/http/metrics.py"


@dataclass
class Calls:
    """A profile function for the threads started after it: the files entered, and who calls into whom."""

    roots: tuple[str, ...]
    """The files whose calls begin a recording; what other files begin in these threads is background work."""
    entered: set[str] = field(default_factory=set)
    pairs: set[tuple[str, str]] = field(default_factory=set)
    recording: bool = False

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if not self.recording or event != "call" or (callee := _file(frame)) is None:
            return
        callers = [file for each in _callers(frame) if (file := _file(each))]
        if (callers or [callee])[-1] in self.roots:
            self.entered.add(callee)
            self.pairs.add((callers[0] if callers else "", callee))


def documented_calls() -> list[tuple[str, str]]:
    """The rows of the table of calls in the architecture page: caller and callee."""
    page = (ROOT / "docs/architecture.md").read_text()
    return re.findall(r"^\| `(aima_\S+\.py)` \| `(aima_\S+\.py)` \|", page, re.MULTILINE)


def into_a_runtime(call: tuple[str, str]) -> bool:
    return call[1].startswith("aima_worker/runtimes/")


def record_start(redis_url: str, redis: TextRedis, state_dir: Path) -> Calls:
    """The calls of the second start of a service that was stopped in between: the first one fills caches."""
    calls = Calls((MIDDLEWARE, "aima_api/submission/starts.py", "aima_worker/execution/celery_worker.py"))
    runtime = FakeRuntime(host="alpha", arch=arch(), images=[IMAGE])
    with _recorded_by(calls), api_node(redis_url) as node:
        ScriptedWorker(redis, arch=arch(), routes=(f"cpu.{arch()}",))
        with host_of(_settings(state_dir), redis, runtime, probe=runtime.probe) as host:
            add_tasks(app := Celery(), host)
            for recording, action in ((False, "start"), (False, "stop"), (True, "start")):
                calls.recording = recording
                [operation] = node.post(f"/v1/services/{SERVICE}:{action}").json()["operations"]
                app.tasks[task_name(Kind(operation["kind"]))](operation["id"])
                calls.recording = False
                assert node.operation(operation["id"])["state"] == "succeeded"
    return calls


def record_container_start(redis: TextRedis, state_dir: Path) -> Calls:
    """The calls of the worker's steps on the real Docker Engine; the container exits at once, and the start fails."""
    settings = _settings(state_dir)
    calls = Calls(("aima_worker/execution/executor.py",))
    runtime = choose_runtime(settings.model_copy(update={"runtime": "docker"})).runtime
    with desk_of(settings, redis, runtime) as desk, _recorded_by(calls):
        calls.recording = True
        id = desk.ask(a_start_of(image=busybox_image(), command=["false"]))
        execute(desk.host, id)
        calls.recording = False
    return calls


@contextmanager
def _recorded_by(calls: Calls) -> Iterator[None]:
    before = sys.getprofile()
    threading.setprofile(calls)
    sys.setprofile(calls)
    try:
        yield
    finally:
        sys.setprofile(before)
        threading.setprofile(None)  # type: ignore[arg-type]  # which is how it is removed


def _file(frame: FrameType) -> str | None:
    path = frame.f_code.co_filename
    return str(Path(path).relative_to(ROOT)) if path.startswith(PACKAGES) else None


def _callers(frame: FrameType) -> Iterator[FrameType]:
    while (caller := frame.f_back) is not None:
        frame = caller
        yield frame


def _settings(state_dir: Path) -> Settings:
    return Settings(
        state_dir=state_dir,
        installation="test",
        signing_key=SIGNING_KEY,
        host=HostSettings.model_validate({"name": "alpha", "ports": "20000-20999"}),
    )
