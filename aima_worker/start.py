"""Bringing a service up on this host, step by step. Every step can be repeated; failure has one home below."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from aima_core.failures import AimaError, Cancelled
from aima_core.operation_store import now
from aima_core.operations import Phase, StartService
from aima_core.services import Desired, Instance, InstanceState
from aima_worker.container_spec import container_spec
from aima_worker.host import Host
from aima_worker.images import have_image
from aima_worker.model_paths import model_directory
from aima_worker.port_lease import run_on_leased_port
from aima_worker.readiness import last_lines, wait_until_ready
from aima_worker.undertaking import Undertaking

GRACE_AFTER_FAILURE = timedelta(seconds=5)


def start(host: Host, undertaking: Undertaking, command: StartService) -> None:
    with bringing_up(host, undertaking, command) as instance:
        engine = command.engine
        directory = model_directory(host, command)
        image = "" if host.native else have_image(host, undertaking, engine.images, size=engine.image_size)
        undertaking.enter(Phase.STARTING)
        port, _ = run_on_leased_port(
            host,
            undertaking,
            instance.id,
            wanted=command.port,
            run=lambda port: host.runtime.run(
                container_spec(host, command, image=image, model_directory=directory, port=port)
            ),
        )
        undertaking.enter(Phase.LOADING)
        endpoint = f"http://{host.settings.host.address}:{port}"
        wait_until_ready(host, undertaking, command, endpoint=endpoint)
        undertaking.go_on()
        ready = {
            "state": InstanceState.READY,
            "image": image or None,
            "port": port,
            "endpoint": endpoint,
            "since": now(),
        }
        host.services.observe(instance.model_copy(update=ready))
        undertaking.end(Phase.READY, endpoint=endpoint)


@contextmanager
def bringing_up(host: Host, undertaking: Undertaking, command: StartService) -> Iterator[Instance]:
    """The instance while it is brought up. What fails leaves neither container nor lease behind, but its last lines."""
    operation = undertaking.operation
    instance = Instance(
        id=command.service.on(host.name),
        desired=Desired.RUNNING,
        fence=operation.fence,
        state=InstanceState.STARTING,
        engine=command.engine.name,
        operation=operation.id,
        since=now(),
    )
    if not (host.services.intend(instance) and host.services.observe(instance)):
        raise Cancelled  # it was stopped, or started otherwise, after this was asked for
    try:
        yield instance
    except AimaError as failed:
        failed.remember(_last_words(host, command))
        _clear_away(host, instance)
        state = InstanceState.STOPPED if isinstance(failed, Cancelled) else InstanceState.FAILED
        ended = {"state": state, "failure": failed.failure, "since": now()}
        host.services.observe(instance.model_copy(update=ended))
        raise


def _last_words(host: Host, command: StartService) -> tuple[str, ...]:
    try:
        return last_lines(host, host.container_name(command.service))
    except AimaError:
        return ()


def _clear_away(host: Host, instance: Instance) -> None:
    host.runtime.remove(host.container_name(instance.id.service), grace=GRACE_AFTER_FAILURE)
    host.ports.release(instance.id, fence=instance.fence)
