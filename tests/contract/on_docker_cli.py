"""The bench of the `docker` program: the same containers on the same engine, by another way."""

from __future__ import annotations

from contract.on_docker import DockerBench

from aima_worker.runtimes.docker.cli.runtime import DockerCli


class DockerCliBench(DockerBench):
    def __init__(self) -> None:
        super().__init__()
        self.runtime = DockerCli(host="bench-01")
