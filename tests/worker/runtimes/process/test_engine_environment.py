"""The program, environment, cores and port of a native engine, and the errors if one is missing."""

from __future__ import annotations

import socket
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from lab.parts import eventually
from worker.runtimes.process.conftest import NAME, ended, pid_of, record_of, said, shell

from aima_core.errors import EngineRefused, GpuUnavailable, NativeProgramMissing, PortTaken
from aima_worker.runtimes.process.runtime import ProcessRuntime


def test_the_secrets_of_the_worker_are_not_passed_to_an_engine(
    runtime: ProcessRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIMA_SIGNING_KEY", "s3cret")

    runtime.run(shell("env", environment={"CHOSEN": "yes"}))

    assert eventually(lambda: ended(runtime) == 0)
    assert "CHOSEN=yes" in said(runtime)
    assert not any("s3cret" in line for line in said(runtime))


def test_a_missing_program_is_reported_with_the_command_that_installs_it(runtime: ProcessRuntime, root: Path) -> None:
    spec = shell("", command=("no-such-engine",), install="deploy/engines/install-native no-such-engine")

    with pytest.raises(NativeProgramMissing) as missing:
        runtime.run(spec)

    assert "no-such-engine" in missing.value.failure.message
    assert "`deploy/engines/install-native no-such-engine`" in missing.value.failure.hint
    assert list(root.iterdir()) == []


def test_a_program_in_the_home_directory_of_the_user_is_found(
    runtime: ProcessRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / ".local" / "bin" / "own-engine"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho here\n")
    program.chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))

    runtime.run(shell("", command=("own-engine",)))

    assert eventually(lambda: said(runtime) == ["here"])


def test_a_file_that_is_not_executable_is_refused_and_leaves_nothing(
    runtime: ProcessRuntime, root: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "picture"
    picture.write_bytes(b"\x89PNG")
    picture.chmod(0o755)

    with pytest.raises(EngineRefused) as refused:
        runtime.run(shell("", command=(str(picture),)))

    assert "Exec format error" in refused.value.failure.message
    assert list(root.iterdir()) == []


def test_the_holder_of_a_port_is_named(runtime: ProcessRuntime) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter, pytest.raises(PortTaken) as taken:
        runtime.run(shell("", host_port=squatter.getsockname()[1]))

    assert f"(pid {psutil.Process().pid})" in taken.value.failure.message


def test_an_engine_gets_the_number_of_cores_that_it_requests(runtime: ProcessRuntime, root: Path) -> None:
    runtime.run(shell("exec sleep 1000", cores=1.0))

    assert len(psutil.Process(pid_of(record_of(root).engine)).cpu_affinity()) == 1


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU")
def test_a_gpu_is_refused_on_a_host_without_one(runtime: ProcessRuntime) -> None:
    with pytest.raises(GpuUnavailable):
        runtime.run(shell("", gpus=1))


def test_a_name_cannot_escape_the_directory(runtime: ProcessRuntime) -> None:
    with pytest.raises(EngineRefused):
        runtime.run(shell("", name="../../elsewhere"))

    assert runtime.find("../../elsewhere") is None
    runtime.remove("../../elsewhere", grace=timedelta(0))


def test_a_private_working_directory_is_removed_with_the_engine(runtime: ProcessRuntime, root: Path) -> None:
    runtime.run(shell("echo cached > cache; pwd"))
    assert eventually(lambda: said(runtime) == [str(root / NAME / "work")])

    runtime.remove(NAME, grace=timedelta(0))

    assert not (root / NAME).exists()
