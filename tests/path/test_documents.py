"""Documents on a real Docker Engine: a change is made, and a broken one leaves the engine that ran."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import docker
import pytest
from lab.parts import eventually
from lab.running import Aima

from aima_core.errors import ContainerExited, DocumentsRefused, Drift

pytestmark = [pytest.mark.docker, pytest.mark.redis, pytest.mark.slow]
SERVICE = "svc-tiny-dial"
DOCUMENT = f"kind: service\nid: {SERVICE}\nhosts: [alpha]\nlimits: {{pids: 64}}\n"


def container(aima: Aima) -> Any:
    label = f"aima.installation={aima.environment['AIMA_INSTALLATION']}"
    with closing(docker.from_env()) as engine:
        [found] = engine.containers.list(filters={"label": label})
    return found


def test_a_file_is_applied_changed_broken_and_exported(aima: Aima, tmp_path: Path):
    file = tmp_path / "desk.yaml"
    file.write_text(DOCUMENT)

    def apply() -> Any:
        return aima.here("apply", "-f", str(file), "--wait")

    assert apply().returncode == 0
    first = container(aima)
    again = apply()
    assert (again.returncode, again.stdout) == (0, "1 document: 1 unchanged.\n")
    assert container(aima).id == first.id

    file.write_text(DOCUMENT.replace("64", "65"))
    assert aima.here("diff", "-f", str(file)).returncode == Drift.exit_code
    assert apply().returncode == 0
    second = container(aima)
    assert (second.id != first.id, second.attrs["HostConfig"]["PidsLimit"]) == (True, 65)

    file.write_text(f"{file.read_text()}arguments: {{crash-after: 1, load-seconds: 60}}\n")
    assert apply().returncode == ContainerExited.exit_code
    assert eventually(lambda: aima.instance(SERVICE)["state"] == "ready", within=timedelta(seconds=60))
    assert container(aima).attrs["HostConfig"]["PidsLimit"] == 65
    assert "crash" not in aima.here("export").stdout

    file.write_text(DOCUMENT.replace("alpha", "nowhere"))
    refused = apply()
    assert refused.returncode == DocumentsRefused.exit_code
    assert f"{file}:1: {SERVICE} [unknown_host]: Unknown host: nowhere." in refused.stderr
