"""A control group of version 2 for an engine, where a unit of systemd may make one: a real tree, any controllers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from lab.cgroups import own_cgroups
from lab.parts import missing

WANTED = {"memory", "pids"}
_MAKES = """
import sys
from pathlib import Path
from aima_worker.runtimes.process import cgroup

cgroup._ROOT, cgroup._CONTROLLERS = Path(sys.argv[1]), sys.argv[2:]
made = cgroup.Cgroup.make("engine", memory=None, pids=9)
if made is not None:
    made.enter()
    print(Path("/proc/self/cgroup").read_text())
"""


class Unit(NamedTuple):
    """The group of a unit whose main process runs in a group below it, as with `DelegateSubgroup`."""

    root: Path
    group: Path
    controllers: tuple[str, ...]

    def delegate(self) -> None:
        os.setxattr(self.group, "trusted.delegate", b"1")

    def made(self) -> str:
        """The group that a process of the unit has made and entered; empty for none."""
        enter = ["sh", "-c", 'echo 0 > "$0/cgroup.procs" && exec "$@"', str(self.group / "worker")]
        makes = [sys.executable, "-c", _MAKES, str(self.root), *self.controllers]
        return subprocess.run([*enter, *makes], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def unit() -> Iterator[Unit]:
    if os.geteuid() != 0:
        missing("only root makes control groups")
    trees = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")]
    root = next((tree for tree in trees if (tree / "cgroup.controllers").exists()), None)
    there = set((root / "cgroup.controllers").read_text().split()) if root else set()
    if root is None or not there:
        missing("this machine has no control groups of version 2 with a controller")
    controllers = tuple(sorted(there & WANTED) if there >= WANTED else sorted(there)[:1])
    with own_cgroups() as group:
        # Stays enabled, as another test may use it; systemd enables memory and pids there, too.
        (root / "cgroup.subtree_control").write_text(" ".join(f"+{each}" for each in controllers))
        (root / group.lstrip("/") / "worker").mkdir(parents=True)
        yield Unit(root, root / group.lstrip("/"), controllers)


def test_an_engine_gets_a_group_beside_the_worker_in_a_delegated_unit(unit: Unit) -> None:
    unit.delegate()

    assert f"::/{unit.group.name}/engine\n" in unit.made()
    assert set(unit.controllers) <= set((unit.group / "cgroup.subtree_control").read_text().split())


def test_a_group_that_is_not_delegated_is_left_to_its_owner(unit: Unit) -> None:
    assert unit.made() == ""
    assert (unit.group / "cgroup.subtree_control").read_text().split() == []
