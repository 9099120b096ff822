"""A process that fetches the model of a manifest into a store, to be killed: `fetching.py STORE STATE MANIFEST`.

With `NAME REDIS URL` as well, it shares the fetch as that host, whose data plane has that URL. It writes a line when it
is ready, and begins once its input has a line or ends. A directory that is the source lies beside the manifest; with
KILLED_AT in its environment, the process kills itself once it has read that many bytes of it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

from aima_core.domain.ids import HostName
from aima_core.domain.models import Manifest
from aima_core.redis.connection import command_link
from aima_core.settings import Settings
from aima_worker.models.directory import DirectoryClient
from aima_worker.models.fetch import FetchOrder, ModelFetch
from aima_worker.models.sharing import Neighbours
from aima_worker.models.store import ModelStore
from aima_worker.operations.model_paths import opened_model


def main(store: str, state: str, manifest: str, name: str = "alpha", redis: str = "", url: str = "") -> None:
    if "KILLED_AT" in os.environ:
        kill_at(int(os.environ["KILLED_AT"]))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    with closing(command_link(redis or "redis://127.0.0.1:1")) as link:  # which connects at its first command
        settings = settings_of(store, state, manifest, name)
        neighbours = Neighbours(link, settings) if redis else None
        if neighbours is not None:
            neighbours.url = url
        for _ in a_fetch(settings, manifest, neighbours):
            pass


def settings_of(store: str, state: str, manifest: str, name: str = "alpha") -> Settings:
    host = {"name": name, "disk_reserve": "1kB", "model_store": store, "model_roots": [str(Path(manifest).parent)]}
    return Settings.model_validate({"state_dir": state, "host": host})


def a_fetch(settings: Settings, manifest: str, neighbours: Neighbours | None = None) -> ModelFetch:
    order = FetchOrder(Manifest.model_validate_json(Path(manifest).read_text()), None)
    assert settings.host.name and settings.host.model_store
    store = ModelStore(settings.host.model_store, host=HostName(settings.host.name))
    return ModelFetch(store, order, settings, neighbours, open_directory=partial(opened_model, settings))


def kill_at(limit: int) -> None:
    read = DirectoryClient.read
    total = 0

    def killed(*arguments) -> Iterator[memoryview]:
        nonlocal total
        for chunk in read(*arguments):
            total += len(chunk)
            if total >= limit:
                os.kill(os.getpid(), signal.SIGKILL)
            yield chunk

    DirectoryClient.read = killed


if __name__ == "__main__":
    main(*sys.argv[1:])
