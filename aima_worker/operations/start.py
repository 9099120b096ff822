"""Bringing a service up on this host, step by step; every step can be repeated."""

from __future__ import annotations

from aima_core.domain.operations import Phase, StartService
from aima_worker.context import Host
from aima_worker.execution.attempt import Undertaking
from aima_worker.operations.container_spec import Granted, container_spec
from aima_worker.operations.images import NO_IMAGE, have_image
from aima_worker.operations.instance_start import bringing_up
from aima_worker.operations.model_paths import model_directory
from aima_worker.operations.ports import run_on_leased_port
from aima_worker.operations.readiness import wait_until_ready


def start(host: Host, undertaking: Undertaking, command: StartService) -> None:
    with bringing_up(host, undertaking, command) as attempt:
        engine = command.engine
        directory = model_directory(host, command)
        image = NO_IMAGE if host.native else have_image(host, undertaking, engine.images, size=engine.image_size)

        def run(port: int) -> None:
            granted = Granted.by(undertaking.claimed)
            attempt.run(
                container_spec(host, command, image=image.reference, directory=directory, port=port, granted=granted)
            )

        undertaking.enter(Phase.STARTING)
        if command.replace:
            attempt.take_down()
        port = run_on_leased_port(host, undertaking, attempt.id, wanted=command.port, run=run)

        undertaking.enter(Phase.LOADING)
        endpoint = f"http://{host.settings.host.address}:{port}"
        with host.floor.kept(attempt.id, attempt.kill):
            wait_until_ready(host, undertaking, command, endpoint=endpoint)

        attempt.is_ready(image=image, port=port, endpoint=endpoint)
        undertaking.end(Phase.READY, endpoint=endpoint)
