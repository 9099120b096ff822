"""Native engines as users of their own: nothing outlives them, closed paths are refused, what they take is bounded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from attacks.native_host import PYTHON, open_directory
from lab.parts import eventually, missing, xdist_worker
from worker.runtimes.process.conftest import NAME, ended, record_of, said, shell

from aima_core.errors import EngineRefused, NativeAccessDenied
from aima_worker.runtime import Mount
from aima_worker.runtimes.process.cgroup import Cgroup
from aima_worker.runtimes.process.disk import remove_tree
from aima_worker.runtimes.process.files import RUNNING, read
from aima_worker.runtimes.process.runtime import ProcessRuntime
from aima_worker.runtimes.process.users import obstacle

_FIRST = 81_000 + 10 * xdist_worker()
USERS = range(_FIRST, _FIRST + 4)
"""Others for each process that runs tests: a test ends the processes of all of them."""
DISK = 8 << 20
MEMORY = 48 << 20
PIDS = 20
WITHIN = timedelta(seconds=20)
NOW = timedelta()
WRITES_A_DELETED_FILE = """
import os, time
with open("gone", "wb", buffering=0) as file:
    os.unlink("gone")
    while True:
        file.write(b"x" * (1 << 18))
        time.sleep(0.01)
"""


TRIES_TO_FORK = f"""
import os, signal
refused = 0
for _ in range({3 * PIDS}):
    try:
        if os.fork() == 0:
            signal.pause()
    except OSError:
        refused += 1
print(refused, "refused", flush=True)
signal.pause()
"""
TAKES_MEMORY_WITHOUT_MAPPING_IT = """
import os
file = os.memfd_create("held")
while True:
    os.write(file, b"x" * (1 << 20))
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    if os.geteuid() != 0:
        missing("only root runs engines as other users")
    assert obstacle(USERS) is None
    with open_directory() as directory:
        yield directory


@pytest.fixture
def root(directory: Path) -> Path:
    return directory / "processes"


@pytest.fixture
def runtime(root: Path) -> Iterator[ProcessRuntime]:
    runtime = ProcessRuntime(root, host="host-01", users=USERS, disk=DISK)
    yield runtime
    for container in runtime.containers({}):
        runtime.remove(container.name, grace=NOW)
    for left in [each for user in USERS for each in processes_of(user)]:
        with suppress(psutil.NoSuchProcess):
            left.kill()


def user_of_engine(root: Path, name: str = NAME) -> int:
    return int((read(root / name / RUNNING) or {})["user"])


def processes_of(user: int) -> list[psutil.Process]:
    return [
        each
        for each in psutil.process_iter(["uids", "status"])
        if each.info["uids"] and each.info["uids"].real == user and each.info["status"] != psutil.STATUS_ZOMBIE
    ]


def test_each_engine_has_a_user_of_its_own_without_groups_or_capabilities(runtime: ProcessRuntime, root: Path) -> None:
    script = "grep -E '^(Uid|Groups|CapEff|NoNewPrivs)' /proc/self/status; exec sleep 1000"

    runtime.run(shell(script))
    runtime.run(shell(script, name="aima-second"))

    users = [user_of_engine(root), user_of_engine(root, "aima-second")]
    assert len({*users, os.geteuid(), USERS[-1]}) == 4
    assert eventually(lambda: len(said(runtime)) == 4)
    user, groups, capabilities, new_privileges = (line.split("\t")[1:] for line in said(runtime))
    assert set(user) == {str(users[0])}
    assert groups == [" "]
    assert int(capabilities[0], 16) == 0
    assert new_privileges == ["1"]


def test_the_kernel_would_kill_an_engine_before_the_worker(runtime: ProcessRuntime) -> None:
    runtime.run(shell("cat /proc/self/oom_score_adj; exec sleep 1000"))

    assert eventually(lambda: said(runtime) == ["500"])
    assert int(Path("/proc/self/oom_score_adj").read_text()) < 500


def test_an_engine_gets_its_working_directory_as_home_and_nothing_of_the_worker_s_environment(
    runtime: ProcessRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AIMA_REDIS__URL", "HTTPS_PROXY", "LD_PRELOAD_OF_THE_WORKER", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, "of the worker")

    runtime.run(shell("env; echo cached > $HOME/cache; cat /var/tmp/cache; echo shared > /dev/shm/x; cat /dev/shm/x"))

    assert eventually(lambda: ended(runtime) == 0)
    lines = said(runtime)
    assert not [line for line in lines if "of the worker" in line]
    assert {"HOME=/var/tmp", "TMPDIR=/var/tmp", "cached", "shared"} <= set(lines)


def test_an_engine_writes_nowhere_but_in_its_working_directory(runtime: ProcessRuntime, directory: Path) -> None:
    (directory / "open").mkdir()
    (directory / "open").chmod(0o777)

    runtime.run(shell(f"echo x > {directory}/open/x; cd /tmp; echo x > y"))

    assert eventually(lambda: ended(runtime) is not None)
    assert [line for line in said(runtime) if "Read-only file system" in line] != []
    assert list((directory / "open").iterdir()) == []


def test_an_engine_has_at_most_its_number_of_processes(runtime: ProcessRuntime, root: Path) -> None:
    runtime.run(shell("", command=(PYTHON, "-S", "-c", TRIES_TO_FORK), pids=PIDS))

    assert eventually(lambda: said(runtime) != [])
    assert len(processes_of(user_of_engine(root))) <= PIDS
    assert said(runtime) == [f"{2 * PIDS + 1} refused"]


def test_processes_without_the_session_and_the_mark_are_killed_with_their_engine(
    runtime: ProcessRuntime, root: Path
) -> None:
    runtime.run(shell("setsid env -i sleep 1000 & (setsid env -i sleep 1000 &); exec sleep 1000"))
    user = user_of_engine(root)
    assert eventually(lambda: len(processes_of(user)) == 3)

    runtime.remove(NAME, grace=NOW)

    assert processes_of(user) == []


def test_what_a_killed_supervisor_left_is_killed_by_the_next_poll(runtime: ProcessRuntime, root: Path) -> None:
    runtime.run(shell("(setsid env -i sleep 1000 &); exec sleep 1000"))
    user, supervisor = user_of_engine(root), record_of(root).supervisor
    assert supervisor is not None
    assert eventually(lambda: len(processes_of(user)) == 2)
    psutil.Process(supervisor.pid).kill()

    assert eventually(lambda: ended(runtime) == 137)

    assert processes_of(user) == []


def test_a_user_is_lent_once_and_again_when_its_engine_has_ended(runtime: ProcessRuntime, root: Path) -> None:
    for number in range(len(USERS) - 1):
        runtime.run(shell("exec sleep 1000", name=f"aima-{number}"))
    user = user_of_engine(root, "aima-1")

    with pytest.raises(EngineRefused, match=r"all 3 users of `native\.users` are in use"):
        runtime.run(shell("exec sleep 1000", name="aima-more"))
    runtime.remove("aima-1", grace=NOW)
    runtime.run(shell("exec sleep 1000", name="aima-more"))

    assert user_of_engine(root, "aima-more") == user


@pytest.mark.parametrize("closed", ["model", "model/layer", "model/layer/weights"])
def test_a_model_that_is_closed_to_others_is_refused_with_the_path(
    runtime: ProcessRuntime, root: Path, directory: Path, closed: str
) -> None:
    weights = directory / "model/layer/weights"
    weights.parent.mkdir(parents=True)
    weights.touch()
    (directory / closed).chmod(0o640)

    with pytest.raises(NativeAccessDenied) as denied:
        runtime.run(shell("exec sleep 1000", mounts=(Mount(source=str(directory / "model"), target="/models"),)))

    assert str(directory / closed) in denied.value.failure.message
    assert list(root.iterdir()) == []


def test_a_program_below_a_closed_directory_is_refused_with_that_directory(
    runtime: ProcessRuntime, directory: Path
) -> None:
    program = directory / "home/bin/engine"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (directory / "home").chmod(0o700)

    with pytest.raises(NativeAccessDenied) as denied:
        runtime.run(shell("", command=(str(program),)))

    assert f"{directory}/home is not open" in denied.value.failure.message


@pytest.mark.parametrize(
    "command",
    [
        ("sh", "-c", "i=0; while :; do i=$((i+1)); head -c 262144 /dev/zero > $i; sleep 0.01; done"),
        (PYTHON, "-S", "-c", WRITES_A_DELETED_FILE),
    ],
    ids=["files", "a deleted file"],
)
def test_an_engine_that_writes_more_than_its_disk_limit_is_killed_with_the_reason(
    runtime: ProcessRuntime, command: tuple[str, ...]
) -> None:
    runtime.run(shell("", command=command))

    assert eventually(lambda: ended(runtime) is not None, within=WITHIN)

    assert eventually(lambda: said(runtime))
    assert any(reason in line for line in said(runtime) for reason in ("its files take", "File too large"))


def test_memory_that_no_process_has_mapped_counts_against_the_limit(runtime: ProcessRuntime, root: Path) -> None:
    if (group := Cgroup.make("aima-probe", memory=1 << 20, pids=9)) is None:
        missing("this machine lets root make no control groups")
    group.remove()
    runtime = ProcessRuntime(root, host="host-01", users=USERS, disk=2 * MEMORY)

    runtime.run(shell("", command=(PYTHON, "-S", "-c", TAKES_MEMORY_WITHOUT_MAPPING_IT), memory=MEMORY))

    assert eventually(lambda: ended(runtime) == 137, within=WITHIN)
    found = runtime.find(NAME)
    assert found is not None
    assert found.oom_killed
    groups = [group for group, _, _ in os.walk("/sys/fs/cgroup")]  # others come and go meanwhile
    assert [group for group in groups if group.endswith(f"/aima-{USERS[0]}")] == []


def test_a_tree_deeper_than_a_path_can_be_is_removed(directory: Path) -> None:
    here, top = os.getcwd(), directory / "tree"  # noqa: PTH109 restored below
    top.mkdir()
    (directory / "kept").touch()
    try:
        os.chdir(top)
        for _ in range(3000):
            Path("file").touch()
            Path("link").symlink_to(directory)
            Path("deeper").mkdir()
            os.chdir("deeper")
    finally:
        os.chdir(here)

    remove_tree(top)

    assert [each.name for each in directory.iterdir()] == ["kept"]
