"""What happens to containers, as `docker events` tells it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from aima_worker.runtimes.docker.cli.process_stream import ProgramStream
from aima_worker.runtimes.docker.cli.program import DockerProgram
from aima_worker.runtimes.docker.errors import EngineError, engine_refused
from aima_worker.runtimes.docker.parsing import container_changed


class ProgramChanges:
    """A ChangeStream. Iterated by one thread, closed by any."""

    def __init__(self, docker: DockerProgram, labels: Mapping[str, str]) -> None:
        wanted = [f"--filter=label={name}={value}" for name, value in labels.items()]
        self._docker = docker
        self._stream = ProgramStream(docker, "events", "--format={{json .}}", "--filter=type=container", *wanted)

    def __iter__(self) -> Iterator[str]:
        try:
            self._stream.open()
            yield from self._names()
        except EngineError as refused:
            raise engine_refused(refused.words) from refused
        finally:
            self._stream.close()

    def close(self) -> None:
        self._stream.close()

    def _names(self) -> Iterator[str]:
        rest = complaint = b""
        while (said := self._stream.next(within=None)) is not None:
            if said.stream == "stdout":
                *events, rest = (rest + said.data).split(b"\n")
                yield from map(container_changed, filter(None, events))
            else:
                complaint += said.data
        if self._stream.exit_code and not self._stream.closed:
            raise self._docker.failure(complaint.decode("utf-8", "replace"))
