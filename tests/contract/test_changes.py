"""The contract of `ContainerRuntime.changes`."""

from __future__ import annotations

from datetime import timedelta
from threading import Thread

from contract.bench import Bench, Program
from lab.parts import eventually

from aima_worker.runtime import ContainerRuntime


def test_a_change_of_a_container_is_reported_by_its_name(bench: Bench, runtime: ContainerRuntime) -> None:
    changes = runtime.changes(bench.labels)
    received: list[str] = []
    listener = Thread(target=lambda: received.extend(changes), daemon=True)
    listener.start()
    spec = bench.spec(Program.SERVES)

    def something_happens() -> bool:  # repeated: the subscription may begin after the first change (race)
        runtime.remove(spec.name, grace=timedelta())
        runtime.run(spec)
        return spec.name in received

    assert eventually(something_happens, within=timedelta(seconds=60))
    changes.close()
    listener.join(5)
    assert not listener.is_alive()


def test_a_silent_subscription_to_changes_can_be_closed(bench: Bench, runtime: ContainerRuntime) -> None:
    changes = runtime.changes(bench.labels)
    listener = Thread(target=lambda: list(changes), daemon=True)
    listener.start()

    changes.close()

    listener.join(5)
    assert not listener.is_alive()
