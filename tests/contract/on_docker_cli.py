"""The bench of the `docker` program: the same containers on the same engine, through the program's connection."""

from __future__ import annotations

from contract.on_docker import DockerBench

from aima_worker.runtimes.docker.sdk.runtime import DockerSdkRuntime


class DockerCliBench(DockerBench):
    def __init__(self) -> None:
        super().__init__()
        self.runtime = DockerSdkRuntime(host="bench-01", through_program=True)
