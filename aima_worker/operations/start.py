"""Starts a service on this host, step by step; every step can be repeated."""

from aima_core.domain.operations import Phase, StartService
from aima_worker.attempt import Attempt
from aima_worker.context import HostContext
from aima_worker.models.steps import fetch_model
from aima_worker.operations.container_spec import Granted, container_spec
from aima_worker.operations.instance_start import starting_instance
from aima_worker.operations.model_paths import model_directory, must_be_fetched
from aima_worker.operations.ports import run_on_leased_port
from aima_worker.operations.pull import NO_IMAGE, WantedImage, ensure_image
from aima_worker.operations.readiness import wait_until_ready
from aima_worker.operations.stop import ROLLBACK_TIMEOUT


def start(host: HostContext, attempt: Attempt, command: StartService) -> None:
    host.claims.cancel_starts_of(command.service, below=attempt.operation.fence, within=ROLLBACK_TIMEOUT)
    using = host.using_model(command.fetches, f"operation {attempt.operation.id}")
    with using, starting_instance(host, attempt, command) as instance:
        engine = command.engine
        if command.manifest and must_be_fetched(host, command):
            fetch_model(host, attempt, command.manifest, token=command.model.token if command.model else None)
        directory = model_directory(host, command)  # before a pull that may be in vain
        host.secrets.check(command)
        image = NO_IMAGE if host.native else ensure_image(host, attempt, WantedImage.of(engine))

        granted = Granted(attempt.claimed.order, attempt.claimed.command_text, attempt.claimed.gpus)

        def run(port: int) -> None:
            checked = model_directory(host, command)  # again, since a pull may have taken an hour
            spec = container_spec(host, command, image=image.reference, directory=checked, port=port, granted=granted)
            instance.run(spec)
            if checked and command.fetches:
                host.models.uses.record(command.fetches)

        attempt.enter_phase(Phase.STARTING)
        if command.replace:
            instance.remove_container()
        port = run_on_leased_port(
            host, attempt, instance.id, requested=command.port, address=host.address_of(command), run=run
        )

        attempt.enter_phase(Phase.LOADING, instance.loading_message(directory))
        endpoint = host.endpoint(command, port)
        guarded = host.memory_guard.guarding(
            instance.id, kill=instance.kill, inspect=instance.inspect, priority=command.priority
        )
        with host.violations.raised(instance.id), guarded:
            wait_until_ready(host, attempt, command, endpoint=endpoint)

        instance.mark_ready(image=image, port=port, endpoint=endpoint)
        instance.finish(endpoint)
