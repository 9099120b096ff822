"""Hosts of one site in this process: they fetch models by the code of the worker, and serve them by data planes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

from lab.certificates import Certificate
from lab.commands import SIGNING_KEY
from lab.forked import Process, launch
from lab.parts import eventually, free_port

from aima_api.controllers.certification import HostCertifier
from aima_core.domain.ids import HostName
from aima_core.domain.models import FetchProgress, Manifest
from aima_core.errors import AimaError
from aima_core.redis.interface import TextRedis
from aima_core.settings import Settings
from aima_core.store.hosts import HostStore
from aima_core.trust.keys import SigningKey
from aima_worker.dataplane.files import Config
from aima_worker.models.fetch import FetchOrder, ModelFetch
from aima_worker.models.sharing import Neighbours
from aima_worker.models.store import ModelStore
from aima_worker.node.facts import host_facts
from aima_worker.operations.model_paths import opened_model
from aima_worker.runtimes.fake.runtime import FakeRuntime

API_NODE = SigningKey(SIGNING_KEY)


class Fetching:
    """A fetch in a thread of its own."""

    def __init__(self, fetch: ModelFetch) -> None:
        self.fetch = fetch
        self.last: FetchProgress | None = None
        self.notices: list[str] = []
        self.failure: AimaError | None = None
        self._thread = Thread(target=self._run, name="fetch")
        self._thread.start()

    def wait(self, within: float = 60) -> FetchProgress | None:
        """Its last progress. Raises what it raised."""
        self._thread.join(within)
        assert not self._thread.is_alive(), f"it still runs: {self.last}"
        if self.failure is not None:
            raise self.failure
        return self.last

    def close(self) -> None:
        self.fetch.close()
        self._thread.join(30)

    def _run(self) -> None:
        try:
            for progress in self.fetch:
                self.last = progress
                if progress.notice and progress.notice not in self.notices:
                    self.notices.append(progress.notice)
        except AimaError as failed:
            self.failure = failed


class SharingHost:
    def __init__(
        self, redis: TextRedis, directory: Path, name: str, *, tls: Certificate | None = None, **host: Any
    ) -> None:
        self.port = free_port()
        reported = {"name": name, "disk_reserve": "1kB", "model_stall": "5s", "model_store": str(directory / "store")}
        self.settings = Settings.model_validate(
            {
                "state_dir": directory / "state",
                "installation": "test",
                "signing_key": SIGNING_KEY,
                "host": {**reported, **host},
                "dataplane": {"ca": tls.authority} if tls else {},
            }
        )
        self.name = HostName(name)
        self.directory = directory
        self.store = ModelStore(directory / "store", host=self.name)
        self.hosts = HostStore(redis)
        self.neighbours = Neighbours(redis, self.settings)
        self.tls = tls
        self.neighbours.url = self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"
        self._runtime = FakeRuntime(host=name, arch="arm64", images=[])
        self._plane: Process | None = None

    def join(self) -> None:
        """Announces the host and what is in its store, as live for the next 15 seconds."""
        self.hosts.join(self.name, identity=self.name, session="test")
        facts = host_facts(self.settings, self._runtime, stored=self.store.listing())
        self.hosts.announce(facts.model_copy(update={"dataplane": self.neighbours.url}))

    def serve(self, **config: Any) -> None:
        """Starts its data plane."""
        base = Config.of(self.settings)
        if self.tls:
            config |= {"certificate": self.tls.certificate, "certificate_key": self.tls.key}
        more = {"bind": "127.0.0.1", "port": self.port, "keys": (API_NODE.public,), **config}
        base.model_copy(update=more).save(self.directory / "dataplane")
        self._plane = launch("aima_worker.dataplane", self.directory / "dataplane")

    def serves(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def die(self) -> None:
        """Its data plane, by SIGKILL."""
        if self._plane is not None and self._plane.poll() is None:
            self._plane.kill()
            self._plane.wait(10)

    def fetch(self, manifest: Manifest, *, token: str | None = None) -> Fetching:
        return Fetching(self.new_fetch(manifest, token=token))

    def new_fetch(self, manifest: Manifest, *, token: str | None = None) -> ModelFetch:
        order, opening = FetchOrder(manifest, token), partial(opened_model, self.settings)
        return ModelFetch(self.store, order, self.settings, self.neighbours, open_directory=opening)

    def content(self, manifest: Manifest) -> dict[str, bytes]:
        """Of the published files, by path."""
        found = self.store.find(manifest)
        assert found is not None
        place = self.store.root / found
        return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


@contextmanager
def site(
    redis: TextRedis,
    directory: Path,
    *names: str,
    serving: bool = True,
    tls: Certificate | None = None,
    upload_rate: int | None = None,
    **host: Any,
) -> Iterator[list[SharingHost]]:
    """Hosts that are live and certified, each with a data plane of its own."""
    made = [SharingHost(redis, directory / name, name, tls=tls, **host) for name in names]
    try:
        for each in made:
            each.join()
            if serving:
                each.serve(upload_rate=upload_rate)
        HostCertifier(HostStore(redis), API_NODE).certify(HostStore(redis).all())
        if serving:
            for each in made:
                assert eventually(each.serves, within=timedelta(seconds=60))
                each.join()  # race: an interpreter of a busy machine takes seconds of those for which it is live
        yield made
    finally:
        for each in made:
            each.die()
