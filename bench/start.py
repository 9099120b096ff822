"""From the submission of a start to its running container, against `docker run -d` and the two calls of the Docker API.

Ours begins with the POST and ends when a follower of the operation receives `loading`: request, record, queue,
worker, lease, engine, record, event. Theirs create the same container: AIMA's of the first round is inspected
and created again with every setting. Its removal is not counted. What signatures cost is the difference to another
installation, which neither signs nor verifies nor writes fences.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import docker
from lab.parts import free_port
from lab.sharing import building

from bench.comparison import AddedAtMost, Comparison, RatioAtMost, take_turns
from bench.installation import Installation, installation

ROUNDS = 21
SERVICE = "svc-tiny-dial"
NEEDS = ("docker", "redis")
_LABEL = "aima.installation"
_BUILD = Path(__file__).resolve().parent.parent / "deploy/engines/build"


def measure(rounds: int) -> list[Comparison]:
    with building("dial"):
        subprocess.run([sys.executable, _BUILD, "dial"], check=True, stdout=subprocess.DEVNULL)
    with (
        installation() as aima,
        installation(signed=False) as unsigned,
        closing(docker.APIClient()) as engine,
        _nothing_left(engine, aima.name, unsigned.name),
    ):
        same = _container_made_by(aima, engine)
        seconds = take_turns(
            rounds,
            {
                "aima": lambda: _start(aima),
                "aima without signatures": lambda: _start(unsigned),
                "docker run -d": lambda: _docker_run(same),
                "two SDK calls": lambda: _two_calls(engine, same),
            },
        )
    ours = seconds["aima"]
    return [
        Comparison("start, against docker run -d", ours, seconds["docker run -d"], RatioAtMost(0.95)),
        Comparison(
            "start, against two SDK calls", ours, seconds["two SDK calls"], AddedAtMost(timedelta(milliseconds=15))
        ),
        Comparison(
            "start, against one without signatures", ours, seconds["aima without signatures"], RatioAtMost(1.02)
        ),
    ]


def _start(aima: Installation) -> float:
    try:
        return aima.seconds_until("loading", f"/v1/services/{SERVICE}:start")
    finally:
        aima.wait_for_end()
        _stop(aima)


def _docker_run(same: Mapping[str, Any]) -> float:
    command = ["docker", "run", "--detach", *_options(same), same["Config"]["Image"], *same["Config"]["Cmd"]]
    began = time.perf_counter()
    made = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    took = time.perf_counter() - began
    subprocess.run(["docker", "rm", "--force", made], check=True, stdout=subprocess.DEVNULL)
    return took


def _two_calls(engine: docker.APIClient, same: Mapping[str, Any]) -> float:
    config, host_config = same["Config"], {**same["HostConfig"], "PortBindings": _bindings(same, free_port())}
    wanted = {name: config[name] for name in ("Image", "Cmd", "Env", "Labels", "ExposedPorts")}
    began = time.perf_counter()
    made = engine.create_container_from_config({**wanted, "HostConfig": host_config})  # type: ignore[no-untyped-call]  # the stubs stop here
    engine.start(made["Id"])
    took = time.perf_counter() - began
    engine.remove_container(made["Id"], force=True)
    return took


def _container_made_by(aima: Installation, engine: docker.APIClient) -> dict[str, Any]:
    """The inspection of a start's container, with labels that exclude it from this installation."""
    aima.seconds_until("ready", f"/v1/services/{SERVICE}:start")
    (listed,) = engine.containers(filters={"label": f"{_LABEL}={aima.name}"})
    made: dict[str, Any] = engine.inspect_container(listed["Id"])
    made["Config"]["Labels"] |= {_LABEL: _rivals_of(aima.name)}
    _stop(aima)
    return made


def _stop(aima: Installation) -> None:
    aima.submit(f"/v1/services/{SERVICE}:stop", {"grace": "2s"})
    aima.wait_for_end()


@contextmanager
def _nothing_left(engine: docker.APIClient, *names: str) -> Iterator[None]:
    """Removes the containers of an interrupted turn at the end."""
    try:
        yield
    finally:
        for owner in (*names, *map(_rivals_of, names)):
            for left in engine.containers(all=True, filters={"label": f"{_LABEL}={owner}"}):
                engine.remove_container(left["Id"], force=True)


def _rivals_of(name: str) -> str:
    return f"{name}-rivals"


# The same container for each contender ---------------------------------------------------------------------------


def _bindings(same: Mapping[str, Any], port: int) -> dict[str, list[dict[str, str]]]:
    """The same container ports on another host port."""
    bound: dict[str, list[dict[str, str]]] = same["HostConfig"]["PortBindings"]
    return {inside: [{**outside[0], "HostPort": str(port)}] for inside, outside in bound.items()}


def _options(same: Mapping[str, Any]) -> list[str]:
    config, host = same["Config"], same["HostConfig"]
    log = host["LogConfig"]
    publish = (
        f"{outside[0]['HostIp']}:{outside[0]['HostPort']}:{inside}"
        for inside, outside in _bindings(same, free_port()).items()
    )
    options = {
        "env": config["Env"],
        "label": [f"{name}={value}" for name, value in config["Labels"].items()],
        "publish": list(publish),
        "log-driver": [log["Type"]],
        "log-opt": [f"{name}={value}" for name, value in log["Config"].items()],
        "cap-drop": host["CapDrop"],
        "security-opt": host["SecurityOpt"],
        "pids-limit": [host["PidsLimit"]],
        "memory": [host["Memory"]],
        "memory-swap": [host["MemorySwap"]],
        "init": ["true"] if host["Init"] else [],
        "network": [host["NetworkMode"]],
        "read-only": ["true"] if host["ReadonlyRootfs"] else [],
        "tmpfs": [f"{target}:{mounted}" for target, mounted in (host["Tmpfs"] or {}).items()],
        "oom-score-adj": [host["OomScoreAdj"]],
    }
    return [f"--{name}={value}" for name, values in options.items() for value in values or ()]
