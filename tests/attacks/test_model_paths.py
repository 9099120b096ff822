"""A writer below a model root tries to have another directory of the host mounted, and meets a refusal."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import stat
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread

import docker
import pytest
from contract.bench import Bench, Program
from contract.on_docker import DockerBench
from contract.on_process import ProcessBench

from aima_core.errors import AimaError, EngineRefused, ModelPathChanged, ModelPathOutside, ModelPathUnsafe
from aima_core.settings import HostSettings
from aima_worker import directories
from aima_worker.directories import DirectoryIdentity, identity_of, opened
from aima_worker.operations.model_paths import ModelDirectory, resolve_model
from aima_worker.runtime import ContainerSpec, Mount

RESOLUTIONS = 600
STARTS = 12
_EXCHANGE = 2
"""The flag of renameat2 that swaps two entries in one step."""
_HERE = -100
STRANGER = 1234
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes directories of others")
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A model root with one model in a directory of its own: `team/model`."""
    model = tmp_path / "models/team/model"
    model.mkdir(parents=True)
    (model / "weights").write_text("7b\n")
    return tmp_path / "models"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """What the attacker is after: outside of the root, with a directory of the model's name in it."""
    outside = tmp_path / "secret"
    (outside / "model").mkdir(parents=True)
    return outside


def settings_of(*roots: Path, trusted: bool = False) -> HostSettings:
    return HostSettings.model_validate(
        {"name": "alpha", "model_roots": roots, "trusted_model_roots": roots if trusted else ()}
    )


def exchange(one: Path, other: Path) -> None:
    done = _libc.renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE)
    assert done == 0, os.strerror(ctypes.get_errno())


@contextmanager
def swapping(directory: Path, *, against: Path) -> Iterator[Callable[[], int]]:
    """The attacker: swaps the directory against a link, as fast as it can. Yields the number of swaps so far."""
    link = directory.with_name(f"{directory.name}-link")
    link.symlink_to(against)
    ended, swaps = Event(), [0]

    def swap() -> None:
        while not ended.is_set():
            exchange(directory, link)
            swaps[0] += 1

    attacker = Thread(target=swap)
    attacker.start()
    try:
        yield lambda: swaps[0]
    finally:
        ended.set()
        attacker.join()
        if directory.is_symlink():
            exchange(directory, link)


def found_at(path: Path) -> DirectoryIdentity:
    with opened(path) as descriptor:
        return identity_of(descriptor)


# Resolution -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["openat2", "without openat2"])
@pytest.mark.parametrize("swapped", ["team", "team/model"])
def test_no_resolution_leaves_the_root_while_a_component_is_swapped_against_a_link(
    root: Path, secret: Path, swapped: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel == "without openat2":
        monkeypatch.setattr(directories, "_openat2", _unknown_system_call)
    model, settings = found_at(root / "team/model"), settings_of(root, trusted=True)
    outcomes: Counter[str] = Counter()

    with swapping(root / swapped, against=secret if swapped == "team" else secret / "model") as swaps:
        while outcomes.total() < RESOLUTIONS or (swaps() < 100 and outcomes.total() < 100 * RESOLUTIONS):
            try:
                assert resolve_model(settings, "team/model").identity == model
                outcomes["resolved"] += 1
            except ModelPathUnsafe:
                outcomes["refused"] += 1

    assert outcomes["refused"], outcomes


def _unknown_system_call(*_: object) -> int:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


@as_root
@pytest.mark.parametrize("component", [".", "team", "team/model"])
@pytest.mark.parametrize("how", ["mode 0775", "mode 0777", "another owner"])
def test_a_component_that_others_can_write_is_refused_with_its_name_and_the_remedy(
    root: Path, component: str, how: str
) -> None:
    writable = root / component
    if how == "another owner":
        os.chown(writable, STRANGER, 0)
    else:
        writable.chmod(int(how.removeprefix("mode "), 8))

    with pytest.raises(ModelPathUnsafe) as refused:
        resolve_model(settings_of(root), "team/model")

    assert f"others than root and the worker can write {writable} (owner " in str(refused.value)
    assert f"chmod go-w {writable}` on alpha" in refused.value.failure.hint
    assert f"add {root} to `host.trusted_model_roots`" in refused.value.failure.hint
    assert resolve_model(settings_of(root, trusted=True), "team/model").path == f"{root}/team/model"


@as_root
def test_a_root_that_others_can_replace_is_refused(root: Path) -> None:
    shared = root.parent / "shared"
    shared.mkdir()
    root.rename(shared / "models")
    shared.chmod(0o777)

    with pytest.raises(ModelPathUnsafe, match=f"can write {shared} "):
        resolve_model(settings_of(shared / "models"), "team/model")

    shared.chmod(0o1777)  # sticky, as /tmp: entries of root cannot be replaced
    assert resolve_model(settings_of(shared / "models"), "team/model")


def test_a_link_below_a_root_is_refused_wherever_it_leads(root: Path, secret: Path) -> None:
    (root / "out").symlink_to(secret)
    (root / "within").symlink_to(root / "team")

    for path in ("out", "out/model", "within/model"):
        with pytest.raises(ModelPathUnsafe, match="it is a symbolic link"):
            resolve_model(settings_of(root, trusted=True), path)


def test_a_root_that_is_a_link_itself_is_the_operators_choice(root: Path) -> None:
    named = root.parent / "named"
    named.symlink_to(root)

    by_name = resolve_model(settings_of(named), "team/model")

    assert by_name == resolve_model(settings_of(root), f"{root}/team/model")
    assert by_name == resolve_model(settings_of(named), f"{named}/team/model")


@pytest.mark.parametrize("path", ["../secret", "team/../../secret", "/etc", "/etc/../etc", "team/model\0/x"])
def test_a_path_that_leads_out_of_every_root_is_refused(root: Path, secret: Path, path: str) -> None:
    with pytest.raises(ModelPathOutside):
        resolve_model(settings_of(root), path)


@pytest.mark.parametrize("path", [".", "team/..", "team/model/weights"])
def test_a_root_itself_or_a_file_is_no_model(root: Path, path: str) -> None:
    with pytest.raises(ModelPathUnsafe, match=r"it is a (model root itself|file)"):
        resolve_model(settings_of(root), path)


@pytest.mark.parametrize("path", ["run/docker.sock", "run", "above"])
def test_a_socket_is_refused_with_every_directory_that_holds_it(root: Path, path: str) -> None:
    (root / "run").mkdir()
    (root / "above/below").mkdir(parents=True)
    with (
        listening(root / "run/docker.sock"),
        listening(root / "above/below/docker.sock"),
        pytest.raises(ModelPathUnsafe, match=r"docker.sock on alpha cannot be mounted as a model: it is a socket"),
    ):
        resolve_model(settings_of(root), path)


@contextmanager
def listening(path: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as server, opened(path.parent) as parent:
        server.bind(f"/proc/self/fd/{parent}/{path.name}")  # the path itself may be too long for an address
        yield


@as_root
@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO])
def test_a_device_or_a_pipe_is_refused_with_the_directory_that_holds_it(root: Path, kind: int) -> None:
    os.mknod(root / "team/model/disk", kind | 0o600, os.makedev(1, 3))

    with pytest.raises(ModelPathUnsafe, match=r"it is a (device|named pipe)"):
        resolve_model(settings_of(root), "team/model")


# Starts ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[pytest.param("docker", marks=pytest.mark.docker), "process"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench: Bench = DockerBench() if request.param == "docker" else ProcessBench()
    yield bench
    bench.close()


def engine_with(bench: Bench, model: ModelDirectory) -> ContainerSpec:
    return bench.spec(Program.COUNTS, mounts=(Mount(source=model.path, target="/model", identity=model.identity),))


@as_root
@pytest.mark.parametrize("kernel", ["openat2", "without openat2"])
@pytest.mark.parametrize("swapped", ["team", "team/model"])
def test_an_engine_whose_model_was_swapped_after_the_check_is_removed(
    bench: Bench, root: Path, secret: Path, swapped: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel == "without openat2":
        monkeypatch.setattr(directories, "_openat2", _unknown_system_call)
    model = resolve_model(settings_of(root, trusted=True), "team/model")
    link = root / "link"
    link.symlink_to(secret if swapped == "team" else secret / "model")
    exchange(root / swapped, link)

    with pytest.raises(ModelPathChanged, match="was replaced while its engine started"):
        bench.runtime.run(engine_with(bench, model))

    assert bench.runtime.containers(bench.labels) == []


@as_root
def test_an_engine_whose_model_is_as_it_was_checked_runs(bench: Bench, root: Path) -> None:
    model = resolve_model(settings_of(root), "team/model")

    first = bench.runtime.run(spec := engine_with(bench, model))

    assert bench.runtime.run(spec).id == first.id


@as_root
@pytest.mark.docker
def test_of_many_starts_during_swaps_none_has_the_other_directory_mounted(root: Path, secret: Path) -> None:
    outcomes: Counter[str] = Counter()
    settings, expected = settings_of(root, trusted=True), found_at(root / "team/model")
    bench = DockerBench()

    with closing(bench), closing(docker.from_env()) as client, swapping(root / "team", against=secret):
        while outcomes["started"] + outcomes["removed"] < STARTS:
            model = resolved_in_spite_of_the_swaps(settings)
            spec = engine_with(bench, model)
            try:
                container = bench.runtime.run(spec)
            except (ModelPathChanged, EngineRefused) as refused:  # or the path was missing just then
                outcomes["removed" if isinstance(refused, ModelPathChanged) else "refused"] += 1
                assert bench.runtime.find(spec.name) is None
                continue
            pid = client.api.inspect_container(container.id)["State"]["Pid"]
            assert found_at(Path(f"/proc/{pid}/root/model")) == expected
            bench.runtime.remove(spec.name, grace=timedelta())
            outcomes["started"] += 1

    print(f"of {outcomes.total()} starts: {dict(outcomes)}")  # noqa: T201
    assert outcomes["removed"], outcomes


def resolved_in_spite_of_the_swaps(settings: HostSettings) -> ModelDirectory:
    while True:
        with suppress(AimaError):
            return resolve_model(settings, "team/model")


@as_root
@pytest.mark.docker
def test_what_is_mounted_below_a_model_does_not_reach_the_container(root: Path, secret: Path) -> None:
    (root / "team/model/below").mkdir()
    model = resolve_model(settings_of(root), "team/model")
    with closing(DockerBench()) as bench, mounted(secret, root / "team/model/below"):
        (secret / "key").write_text("s3cret\n")
        script = "cat /model/below/key /model/weights; touch /model/below/new; true"
        spec = engine_with(bench, model).model_copy(update={"command": ("sh", "-c", script)})

        bench.runtime.run(spec)

        with bench.runtime.logs(spec.name, follow=True) as log:
            lines = [line.text for line in log]
    assert "7b" in lines
    assert "s3cret" not in lines
    assert not (secret / "new").exists()


@contextmanager
def mounted(source: Path, target: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", str(source), str(target)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(target)], check=True)
