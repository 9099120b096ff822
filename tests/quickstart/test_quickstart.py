"""`deploy/quickstart` prints a model's answer and leaves nothing behind, also after Ctrl-C or a failure."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from engines.conftest import build_image
from lab.parts import eventually

ROOT = Path(__file__).parents[2]
NOT_CLONED = shutil.ignore_patterns(".venv", ".git", "var", ".*_cache", ".hypothesis", "__pycache__")
ENGINE_IMAGE = "aima/llamacpp-smollm2:1"
SET_ASIDE = "aima-lab/llamacpp-smollm2:1"
WITHIN = 240
INTERRUPTED = 130

pytestmark = [pytest.mark.slow, pytest.mark.timeout(WITHIN + 60)]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project without an environment: that of the tests must not be changed."""
    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("clone") / "aima", ignore=NOT_CLONED))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The directory of the run: scratch files, logs, and caches shared with other runs."""
    return tmp_path


@pytest.fixture
def without_image() -> Iterator[None]:
    """The image of the engine has another name meanwhile: a run builds its own, of the same layers, and removes it."""
    build_image(ENGINE_IMAGE)
    docker("tag", ENGINE_IMAGE, SET_ASIDE)
    docker("image", "rm", ENGINE_IMAGE)
    try:
        yield
    finally:
        docker("tag", SET_ASIDE, ENGINE_IMAGE)
        docker("image", "rm", SET_ASIDE)


@pytest.mark.docker
@pytest.mark.alone
@pytest.mark.usefixtures("without_image")
def test_the_model_answers_and_nothing_is_left_behind(clone: Path, directory: Path) -> None:
    before = what_there_is()

    ended = run(clone, directory)

    assert ended.returncode == 0, ended.stdout
    assert "The capital of France is Paris." in ended.stdout
    assert "runtime: docker" in ended.stdout
    assert not [line for line in before if line.startswith("aima/")]
    assert what_there_is() == before, ended.stdout
    assert left_in(directory) == []


@pytest.mark.docker
@pytest.mark.alone
def test_ctrl_c_leaves_nothing_behind_and_is_reported_with_its_exit_code(clone: Path, directory: Path) -> None:
    build_image(ENGINE_IMAGE)
    before = what_there_is()

    with running(clone, directory) as process:
        wait_for_line(process, "$ aima service start")
        wait_for_line(process, "")  # of the command itself: bash 5.2 hangs if SIGINT arrives while it begins to wait
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=180)

    assert process.returncode == INTERRUPTED
    assert what_there_is() == before
    assert processes_in(directory) == []


def test_without_a_docker_engine_it_runs_natively_and_reports_it(clone: Path, directory: Path) -> None:
    ended = run(clone, directory, before=without_capabilities(), **no_engine(directory))

    assert ended.returncode == 0, ended.stdout
    assert "no Docker Engine" in ended.stdout
    assert "runtime: process" in ended.stdout
    assert "The capital of France is Paris." in ended.stdout
    assert left_in(directory) == []
    assert processes_in(directory) == []


def test_a_failure_ends_with_the_reason_a_next_step_and_a_log(clone: Path, directory: Path) -> None:
    ended = run(clone, directory, before=without_capabilities(), **no_engine(directory), **no_index())

    assert ended.returncode not in (0, INTERRUPTED)
    assert "✗ Native program of the engine" in ended.stdout
    assert "→ Look at the log" in ended.stdout
    assert [path.suffix for path in directory.iterdir()] == [".log"]


def run(
    clone: Path, directory: Path, *, before: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, str(clone / "deploy" / "quickstart")],
        env=os.environ | {"TMPDIR": str(directory)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=WITHIN,
    )


@contextmanager
def running(clone: Path, directory: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [str(clone / "deploy" / "quickstart")],
        env=os.environ | {"TMPDIR": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for_line(process: subprocess.Popen[str], start: str) -> None:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith(start):
            return
    raise AssertionError("it never came so far:\n" + "".join(seen))


def without_capabilities() -> tuple[str, ...]:
    """Runs a command as in an unprivileged container, where no Docker Engine can run."""
    return ("setpriv", "--bounding-set=-sys_admin,-net_admin", "--inh-caps=-sys_admin,-net_admin")


def no_engine(directory: Path) -> dict[str, str]:
    return {"DOCKER_HOST": f"unix://{directory}/nobody.sock"}


def no_index() -> dict[str, str]:
    return {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:1/simple", "PIP_RETRIES": "0"}


def what_there_is() -> set[str]:
    """The quickstart containers of this machine, and its images of the engine."""
    containers = docker("ps", "--all", "--format", '{{.Names}} {{.Label "aima.installation"}}')
    images = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", ENGINE_IMAGE.partition(":")[0])
    return {line for line in containers if " qs" in line} | set(images)


def docker(*words: str) -> list[str]:
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout.splitlines()


def left_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def processes_in(directory: Path) -> list[str]:
    """Processes whose command names the directory, after a delay for exiting ones."""
    eventually(lambda: not commands_naming(directory), within=timedelta(seconds=60))
    return commands_naming(directory)


def commands_naming(directory: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if f"{directory}/" in command:
            found.append(command)
    return found
