"""Other users of a host, its engines and key holders try to reach secrets that are not meant for them."""

from __future__ import annotations

import io
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import docker
import pytest
from contract.bench import Bench, Program
from contract.on_docker import DockerBench
from lab.commands import a_start_of
from lab.images import busybox_image
from pydantic import ValidationError

from aima_api.http.schemas import ServiceOptions
from aima_core.domain.operations import StartService
from aima_core.errors import AimaError, SecretMissing, SecretUnsafe
from aima_core.settings import HostSettings, Settings
from aima_worker.runtime import SecretMount
from aima_worker.runtimes.docker.parsing import first_uid
from aima_worker.secret_files import FILES, grant
from aima_worker.secrets import HostSecrets

CONTAINER = "test.svc-tiny-dial.alpha"
VALUE = "hf_a-token-of-the-tests"
STRANGER = 1234
ENGINE = 4321
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of others")


@pytest.fixture
def entries(tmp_path: Path) -> Path:
    directory = tmp_path / "entries"
    directory.mkdir(mode=0o700)
    write(directory / "token", VALUE)
    return directory


@pytest.fixture
def held(entries: Path, secrets_tmpfs: Path) -> HostSecrets:
    return held_at(entries, runtime_dir=secrets_tmpfs)


def held_at(entries: Path, *, runtime_dir: Path) -> HostSecrets:
    host = HostSettings.model_validate({"name": "alpha", "secrets": entries, "runtime_dir": runtime_dir})
    return HostSecrets(Settings(state_dir=entries.parent / "state", host=host))


def write(path: Path, value: str, *, mode: int = 0o600) -> None:
    path.write_text(f"{value}\n")
    path.chmod(mode)


def a_start_with(secret: str = "HF_TOKEN", entry: str = "token", **engine: Any) -> StartService:
    return a_start_of(**engine).model_copy(update={"secrets": {secret: entry}})


def refusal_of(held: HostSecrets, command: StartService) -> AimaError:
    with pytest.raises((SecretMissing, SecretUnsafe)) as refused:
        held.check(command)
    return refused.value


# Entries ----------------------------------------------------------------------------------------------------------


def replaced_by(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


def leads_elsewhere(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    write(elsewhere, "another program's")
    path.symlink_to(elsewhere)


@as_root
@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.chmod(0o640),
        lambda path: path.chmod(0o604),
        lambda path: path.chmod(0o620),
        lambda path: os.chown(path, STRANGER, -1),
        lambda path: path.parent.chmod(0o777),
        lambda path: path.parent.chmod(0o770),
        lambda path: os.chown(path.parent, STRANGER, -1),
        replaced_by(leads_elsewhere),
        replaced_by(os.mkfifo),
        replaced_by(Path.mkdir),
        lambda path: path.write_bytes(b"x" * (64 * 1024 + 1)),
        lambda path: path.write_bytes(b""),
    ],
)
def test_an_entry_that_others_can_reach_or_that_is_no_file_is_refused_with_its_path(
    held: HostSecrets, entries: Path, spoil: Callable[[Path], None]
) -> None:
    held.check(a_start_with())

    spoil(entries / "token")

    refused = refusal_of(held, a_start_with())
    assert refused.code == "secret_unsafe"
    assert str(entries) in refused.failure.message + refused.failure.hint
    assert VALUE not in str(refused.failure)


def test_a_missing_entry_is_refused_with_the_path_and_the_command_that_creates_it(
    held: HostSecrets, entries: Path
) -> None:
    refused = refusal_of(held, a_start_with(entry="other"))

    assert refused.code == "secret_missing"
    assert f"install -D -m 600 /dev/stdin {entries}/other" in refused.failure.hint


def test_the_credentials_of_the_worker_itself_are_no_entries(
    held: HostSecrets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir(mode=0o700)
    write(credentials / "aima_redis.url", "redis://:password@example", mode=0o400)
    write(credentials / "secret_loaded", "by systemd", mode=0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))

    assert held.names() == ("loaded", "token")
    held.check(a_start_with(entry="loaded"))
    assert refusal_of(held, a_start_with(entry="aima_redis.url")).code == "secret_missing"


@pytest.mark.parametrize("entry", ["../identity", "/etc/shadow", "a/b", "..", ".hidden", "", "a\nb", "x" * 65])
def test_a_reference_cannot_leave_the_directory_of_entries(entry: str) -> None:
    with pytest.raises(ValidationError):
        ServiceOptions.model_validate({"secrets": {"HF_TOKEN": entry}})
    with pytest.raises(ValidationError):
        StartService.model_validate(a_start_of().model_dump() | {"secrets": {"HF_TOKEN": entry}})


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "a b", "A=B"])
def test_a_secret_cannot_be_named_so_that_it_leaves_its_directory(name: str) -> None:
    with pytest.raises(ValidationError):
        ServiceOptions.model_validate({"secrets": {name: "token"}})


# Variables --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["LD_PRELOAD", "BASH_ENV", "GCONV_PATH", "PATH", "CREDENTIALS_DIRECTORY"])
def test_no_option_and_no_secret_sets_a_variable_that_loads_code(variable: str) -> None:
    with pytest.raises(ValidationError, match=f"'{variable}' may not be set"):
        ServiceOptions.model_validate({"environment": {variable: "/models/evil"}})
    with pytest.raises(ValidationError, match=f"'{variable}' may not be set"):
        a_start_of(secrets={variable: "environment"})


def test_a_secret_becomes_a_variable_only_where_the_engine_says_so(held: HostSecrets) -> None:
    as_file = held.provide(CONTAINER, a_start_with())
    as_variable = held.provide(CONTAINER, a_start_with(secrets={"HF_TOKEN": "environment"}))

    assert as_file and as_variable
    assert (as_file.files, as_file.environment) == (("HF_TOKEN",), ())
    assert (as_variable.files, as_variable.environment) == ((), ("HF_TOKEN",))


# Copies -----------------------------------------------------------------------------------------------------------


def provided(held: HostSecrets, command: StartService | None = None) -> SecretMount:
    found = held.provide(CONTAINER, command or a_start_with())
    assert found is not None
    return found


def test_a_version_is_no_function_of_the_value(held: HostSecrets, entries: Path) -> None:
    first = provided(held)
    same = provided(held)
    write(entries / "token", "rotated")
    rotated = provided(held)
    write(entries / "token", VALUE)
    held.files.discard(CONTAINER)
    elsewhere = provided(held)

    assert first == same
    assert len({first.version, rotated.version, elsewhere.version}) == 3


def test_copies_are_not_written_to_a_disk(entries: Path, tmp_path: Path) -> None:
    with pytest.raises(SecretUnsafe, match="would be written to a disk"):
        held_at(entries, runtime_dir=tmp_path / "on-a-disk").provide(CONTAINER, a_start_with())

    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != entries]


@as_root
def test_copies_are_not_written_to_a_directory_of_another_user(entries: Path, secrets_tmpfs: Path) -> None:
    theirs = secrets_tmpfs / "theirs"
    theirs.mkdir()
    os.chown(theirs, STRANGER, -1)

    with pytest.raises(SecretUnsafe, match="no directory of the worker's user"):
        held_at(entries, runtime_dir=theirs).provide(CONTAINER, a_start_with())


def test_a_copy_is_closed_to_all_others(held: HostSecrets, secrets_tmpfs: Path) -> None:
    mount = provided(held)

    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (secrets_tmpfs / "secrets").rglob("*")}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert modes[Path(mount.source) / FILES / "HF_TOKEN"] == 0o400


def as_user(uid: int, action: Callable[[], object]) -> bool:
    """Whether it succeeds in a child with that user and no capability."""
    if (child := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            action()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


@as_root
@pytest.mark.parametrize("worker", [0, STRANGER], ids=["root", "without the right to give files away"])
def test_the_engines_user_alone_reads_its_files(held: HostSecrets, secrets_tmpfs: Path, worker: int) -> None:
    mount = provided(held)
    file = Path(mount.source) / FILES / "HF_TOKEN"
    for path in [path for path in secrets_tmpfs.rglob("*") if worker]:
        os.chown(path, worker, -1)
    open_directories_above(file, secrets_tmpfs)

    assert as_user(worker, lambda: grant(mount, uid=ENGINE, host="alpha"))

    assert {uid for uid in (ENGINE, ENGINE + 1, 65534) if as_user(uid, file.read_text)} == {ENGINE}


def open_directories_above(file: Path, tmpfs: Path) -> None:
    """An engine passes these by its mount."""
    for path in [path for path in file.parents if path.is_relative_to(tmpfs) and path != file.parent]:
        path.chmod(0o755)


def test_mapped_users_of_a_docker_engine_are_counted_from_their_first() -> None:
    mapped = {"DockerRootDir": "/var/lib/docker/231072.231072", "SecurityOptions": ["name=seccomp", "name=userns"]}

    assert first_uid(mapped) == 231072
    assert first_uid({"DockerRootDir": "/var/lib/docker", "SecurityOptions": ["name=seccomp"]}) == 0
    assert first_uid({"DockerRootDir": "/srv/1.1", "SecurityOptions": None}) == 0


# Containers -------------------------------------------------------------------------------------------------------


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = DockerBench()
    yield made
    made.close()


@pytest.fixture
def image_of_a_named_user() -> Iterator[str]:
    recipe = f"""FROM {busybox_image()}
    RUN busybox mkdir -p /etc && echo "engine:x:{ENGINE}:{ENGINE}::/:/bin/sh" > /etc/passwd
    USER engine:{ENGINE}
    """
    with closing(docker.from_env()) as client:
        name = f"aima-lab/named-user:{uuid.uuid4().hex[:8]}"
        client.images.build(fileobj=io.BytesIO(recipe.encode()), tag=name, rm=True, forcerm=True)
        yield name
        client.images.remove(name, force=True)


def seen_by(bench: Bench, **changes: Any) -> list[str]:
    """What an engine in a container sees of its secrets."""
    look = "cd $CREDENTIALS_DIRECTORY; pwd; busybox ls -ln HF_TOKEN; cat HF_TOKEN; touch new || echo read-only"
    script = f"{look}; busybox grep ' /run/secrets ' /proc/self/mounts"
    spec = bench.spec(Program.CRASHES, command=("sh", "-c", script), **changes)
    bench.runtime.run(spec)
    with bench.runtime.logs(spec.name, follow=True) as log:
        return [line.text for line in log]


@pytest.mark.docker
def test_a_container_has_its_secrets_in_memory_read_only_and_as_its_own_user(bench: Bench, held: HostSecrets) -> None:
    lines = seen_by(bench, secrets=provided(held))

    assert {"/run/secrets", VALUE, "read-only"} <= set(lines)
    assert any(line.startswith("-r--------    1 0        0") for line in lines)
    assert any(line.startswith("tmpfs /run/secrets tmpfs ro") for line in lines)


@as_root
@pytest.mark.docker
def test_the_user_that_an_image_names_owns_its_secrets(
    bench: Bench, held: HostSecrets, image_of_a_named_user: str
) -> None:
    lines = seen_by(bench, image=image_of_a_named_user, secrets=provided(held))

    assert VALUE in lines
    assert any(line.startswith(f"-r--------    1 {ENGINE}     0") for line in lines)
