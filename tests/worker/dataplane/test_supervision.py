"""The worker keeps its data plane running; without its worker, the data plane serves its open streams and ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from lab.dataplane import API_NODE, HOST, INSTANCE, DataplaneUnderTest
from lab.parts import eventually, free_port, runs

from aima_core.settings import Settings
from aima_worker.dataplane.files import directory_of

STARTED = timedelta(seconds=60)  # an interpreter on a busy machine
WORKER = """
import json, sys, threading
from aima_core.settings import Settings
from aima_worker.dataplane.process import DataplaneProcess
DataplaneProcess(Settings(**json.loads(sys.argv[1]))).start()
threading.Event().wait()
"""


class Supervised(DataplaneUnderTest):
    """Started by a process that has of a worker only its data plane."""

    def __init__(self, directory: Path, settings: dict[str, Any]) -> None:
        super().__init__(directory, settings["dataplane"]["port"])
        self.worker = subprocess.Popen([sys.executable, "-c", WORKER, json.dumps(settings)])

    def wait_until_it_listens(self) -> None:
        assert eventually(self.listens, within=STARTED)
        [self.first] = psutil.Process(self.worker.pid).children()


@pytest.fixture
def supervised(tmp_path) -> Iterator[Supervised]:
    own = {"name": HOST, "address": "192.0.2.1"}
    plane = {"bind": "0.0.0.0", "port": free_port()}
    settings = {"state_dir": str(tmp_path), "trusted_keys": [API_NODE.public], "host": own, "dataplane": plane}
    supervised = Supervised(directory_of(Settings(**settings)), settings)
    try:
        supervised.wait_until_it_listens()
        yield supervised
    finally:
        supervised.worker.kill()
        supervised.worker.wait()
        supervised.engine.close()


def test_a_killed_data_plane_is_started_again(supervised):
    supervised.first.kill()

    assert eventually(lambda: not runs(supervised.first) and supervised.listens(), within=STARTED)  # in this order
    assert supervised.request(f"/i/{INSTANCE}/echo")[0] == 200


def test_the_data_plane_of_a_killed_worker_serves_its_streams_to_their_end_and_ends(supervised):
    carried = supervised.connect()
    carried.request("GET", f"/i/{INSTANCE}/stream", headers=supervised.headers())
    stream = carried.getresponse()
    stream.read(9)

    supervised.worker.kill()

    assert eventually(lambda: not supervised.listens())
    assert stream.read(9) == b"data: x\n\n"
    stream.close()
    carried.close()
    assert eventually(lambda: not runs(supervised.first))
