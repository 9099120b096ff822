"""`aima apply` of a file with 100 services that all run as it says: the whole command, with the start of Python."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from aima_api.client import Api, path_of
from aima_core.domain.ids import HostName, OperationId, ServiceId
from aima_core.domain.operations import StartService
from aima_core.domain.services import Desired, Instance, InstanceState
from aima_core.redis import keys
from aima_core.redis.connection import command_link
from aima_core.store.operations import now
from aima_core.store.services import ServiceStore
from bench.comparison import Bounded, Result, size
from bench.installation import Installation, installation

ROUNDS = 15
NEEDS = ("redis",)
SERVICES, HOSTS = size(100), 10
AT_MOST_SECONDS = 1
UNCHANGED = f"{SERVICES} documents: {SERVICES} unchanged."


def measure(rounds: int) -> list[Result]:
    documents = [_document(number) for number in range(SERVICES)]
    with installation(hosts=HOSTS) as aima, TemporaryDirectory(prefix="aima-bench-") as directory:
        _run(aima, documents)
        file = Path(directory) / "services.yaml"
        file.write_text(yaml.safe_dump_all(documents))
        _apply(aima, file)  # fills the caches, as each round then finds them
        took = [_apply(aima, file) for _ in range(rounds)]
    return [Bounded(f"aima apply of {SERVICES} unchanged services", took, "s", most=AT_MOST_SECONDS)]


def _document(number: int) -> dict[str, object]:
    id, host = f"svc-tiny-{number:03d}", f"host-{number % HOSTS}"
    return {"kind": "service", "id": id, "engine": "dial-cpu", "model": "Dial", "hosts": [host]}


def _run(aima: Installation, documents: list[dict[str, object]]) -> None:
    """Applies them, and records every instance as ready in place of a worker."""
    redis = command_link(aima.redis_url)
    services = ServiceStore(redis)
    with Api(aima.url) as api:
        for operation in api.post("/v1/apply", {"documents": documents})["operations"]:
            id, service = OperationId(operation["id"]), ServiceId(operation["service"])
            command = StartService.model_validate_json(redis.hget(keys.operation(id), "command") or "")
            api.post(path_of("operations", id) + ":cancel")
            instance = Instance(
                id=service.on(HostName(operation["host"] or operation["route"].removeprefix("host."))),
                desired=Desired.RUNNING,
                fence=operation["fence"],
                state=InstanceState.READY,
                revision=1,
                runs=command.digest,
                since=now(),
            )
            services.replace_desired(instance)


def _apply(aima: Installation, file: Path) -> float:
    """Raises RuntimeError unless everything was unchanged."""
    began = time.perf_counter()
    command = [str(Path(sys.executable).with_name("aima")), "--url", aima.url, "apply", "-f", str(file)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    took = time.perf_counter() - began
    if ran.stdout.strip() != UNCHANGED:
        raise RuntimeError(f"apply did something else: {ran.stdout[-500:]}{ran.stderr[-500:]}")
    return took
