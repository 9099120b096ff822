"""Desired state of a lab in one file: applied, changed, broken, rolled back, exported, applied after a total loss."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from api.cli.outcome import Outcome
from lab.api_process import ApiProcess
from lab.fleet import ARCH, UP_WITHIN, Fleet, fake_hosts
from lab.parts import eventually
from lab.redis_server import RedisServer

from aima_api.cli.main import run
from aima_core.errors import Drift, HealthTimeout

pytestmark = pytest.mark.redis

LOADS_FOR = timedelta(milliseconds=500)
"""Longer than the first two probes take: a timeout of 1 ms has passed before the second."""
FILE = f"""\
kind: service
id: svc-fleet-a
hosts:
- fake-000
port: 20011
---
kind: service
id: svc-fleet-b
hosts:
- fake-001
- fake-002
health:
  timeout: 20s
---
kind: service
id: svc-fleet-c
route: cpu.{ARCH}
resources:
  memory: 20MB
---
kind: host
name: fake-001
labels:
  rack: '1'
"""


class Operator:
    """The command line, in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str) -> Outcome:
        code = run(words)
        said = self._capsys.readouterr()
        return Outcome(code, said.out, said.err)

    def does(self, *words: str) -> str:
        outcome = self(*words)
        assert outcome.code == 0, outcome
        return outcome.out


@pytest.fixture
def aima(api: ApiProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Operator]:
    monkeypatch.setenv("AIMA_URL", api.url)
    yield Operator(capsys)


def running(fleet: Fleet) -> Counter[str]:
    """The services of the containers that run."""
    return Counter(name.split(".")[1] for names in fleet.running().values() for name in names)


def test_one_file_describes_a_lab_of_three_hosts(
    own_redis: RedisServer, fleet: Fleet, api: ApiProcess, aima: Operator, tmp_path: Path
) -> None:
    fleet.up(fake_hosts(3, loads_for=LOADS_FOR), processes=1)
    file, exported = tmp_path / "lab.yaml", tmp_path / "exported.yaml"
    file.write_text(FILE)
    everything = Counter({"svc-fleet-a": 1, "svc-fleet-b": 2, "svc-fleet-c": 1})

    # Applied, and applied again
    assert "4 documents: 3 to create, 1 to change." in aima.does("apply", "-f", str(file), "--wait")
    assert running(fleet) == everything
    assert aima.does("host", "list", "-l", "rack=1", "-o", "name") == "fake-001\n"
    assert aima.does("apply", "-f", str(file)) == "4 documents: 4 unchanged.\n"
    assert aima.does("diff", "-f", str(file)) == "4 documents: 4 unchanged.\n"

    # A changed line is planned, and that alone is done
    before = fleet.made()
    file.write_text(FILE.replace("20011", "20012"))
    planned = aima("diff", "-f", str(file))
    assert planned.code == Drift.exit_code
    assert planned.out == (
        "change  service svc-fleet-a\n"
        "  ~ port: 20011 → 20012\n"
        "  → recreate on fake-000 (port)\n"
        "4 documents: 1 to change, 3 unchanged.\n"
    )
    aima.does("apply", "-f", str(file), "--wait")
    assert fleet.made() - before == Counter({"fleet.svc-fleet-a.fake-000": 1})
    file.write_text(FILE.replace("20011", "20013"))
    aima.does("apply", "-f", str(file), "--wait")

    # A broken line leaves what ran before
    file.write_text(file.read_text().replace("20s", "1ms"))
    assert aima("apply", "-f", str(file), "--wait").code == HealthTimeout.exit_code
    assert eventually(lambda: running(fleet) == everything, within=UP_WITHIN)
    assert api.client.get("/v1/services/svc-fleet-b").json()["health"]["timeout"] == "20s"

    # Two revisions back is the first file again
    assert aima.does("service", "history", "svc-fleet-a", "-o", "name").split() == ["3", "2", "1"]
    aima.does("service", "rollback", "svc-fleet-a", "--to", "1", "--wait")
    assert sorted(aima.does("export").split("---\n")) == sorted(FILE.split("---\n"))
    exported.write_text(aima.does("export"))

    # Everything stops, and Redis and the hosts lose what they have
    aima.does("service", "stop", "--all", "--wait")
    for process in fleet.processes:
        process.kill()
    own_redis.empty()
    shutil.rmtree(tmp_path / "state")
    fleet.processes.clear()
    fleet.up(fake_hosts(3, settings={"labels": {"new": "yes"}}), processes=1)
    assert eventually(lambda: len(list(api.all("hosts"))) == 3, within=UP_WITHIN)
    aima.does("apply", "-f", str(exported), "--wait")
    assert running(fleet) == everything
    assert sorted(aima.does("export").split("---\n")) == sorted(FILE.split("---\n"))
    assert aima.does("host", "list", "-l", "rack=1", "-l", "new=yes", "-o", "name") == "fake-001\n"
