"""A process that fetches the model of a manifest into a store, to be killed: `fetching.py STORE STATE MANIFEST`.

With `NAME REDIS URL` as well, it shares the fetch as that host, whose data plane has that URL. It writes a line when it
is ready, and begins once its input has a line or ends.
"""

from __future__ import annotations

import sys
from contextlib import closing
from functools import partial
from pathlib import Path

from aima_core.domain.ids import HostName
from aima_core.domain.models import Manifest
from aima_core.redis.connection import command_link
from aima_core.settings import Settings
from aima_worker.models.fetch import FetchOrder, ModelFetch
from aima_worker.models.sharing import Neighbours
from aima_worker.models.store import ModelStore
from aima_worker.operations.model_paths import opened_model


def main(store: str, state: str, manifest: str, name: str = "alpha", redis: str = "", url: str = "") -> None:
    host = {"name": name, "disk_reserve": "1kB", "model_store": store}
    settings = Settings.model_validate({"state_dir": state, "host": host})
    order = FetchOrder(Manifest.model_validate_json(Path(manifest).read_text()), None)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    with closing(command_link(redis or "redis://127.0.0.1:1")) as link:  # which connects at its first command
        neighbours = Neighbours(link, settings) if redis else None
        if neighbours is not None:
            neighbours.url = url
        opening = partial(opened_model, settings)
        for _ in ModelFetch(
            ModelStore(Path(store), host=HostName(name)), order, settings, neighbours, open_directory=opening
        ):
            pass


if __name__ == "__main__":
    main(*sys.argv[1:])
