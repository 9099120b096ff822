"""The Docker runtime over the SDK's low-level API, directly or through the `docker` program."""

import math
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

import structlog
from docker.errors import DockerException

from aima_core.domain.hosts import ImageOnHost
from aima_core.errors import EngineRefused, ImageInUse, ImageNotFound, SecretUnsafe
from aima_worker.directories import belongs_to_container
from aima_worker.runtime import (
    SIGKILLED,
    ChangeStream,
    Container,
    ContainerSpec,
    ImageFacts,
    LogStream,
    PullStream,
    RuntimeFacts,
    Status,
)
from aima_worker.runtimes.docker.container_config import container_config
from aima_worker.runtimes.docker.lifecycle import POLL_INTERVAL, ContainerLifecycle
from aima_worker.runtimes.docker.network import (
    EngineNetwork,
    allow_host,
    lacks_addresses,
    may_filter,
    network_refused,
    refuse_host,
)
from aima_worker.runtimes.docker.oom_kills import VMSTAT, OomKills
from aima_worker.runtimes.docker.parsing import (
    container_inspected,
    container_listed,
    facts_of,
    first_uid,
    image_inspected,
    images_listed,
    lacks_quotas,
    moment,
    uid_in,
)
from aima_worker.runtimes.docker.sdk.client import EngineClient
from aima_worker.runtimes.docker.sdk.logs import DockerLogs
from aima_worker.runtimes.docker.sdk.pull import DockerPull
from aima_worker.runtimes.docker.sdk.stream import EngineChanges
from aima_worker.secret_files import grant, variables_of

NETWORK_TIMEOUT = timedelta(seconds=5)
"""How long to retry while another worker creates the same network."""

_log = structlog.get_logger()


class DockerSdkRuntime:
    """A ContainerRuntime. One per worker, shared by all its threads."""

    def __init__(
        self,
        address: str | None = None,
        *,
        host: str,
        timeout: timedelta = timedelta(seconds=60),
        through_program: bool = False,
    ) -> None:
        """See EngineClient; `timeout` is for one call."""
        self._kind: Literal["docker", "docker-cli"] = "docker-cli" if through_program else "docker"
        self._engine = EngineClient(address, host=host, timeout=timeout, through_program=through_program)
        self._oom_kills = OomKills(VMSTAT if self._engine.local else None)
        self._calls = SdkCalls(self._engine, self._oom_kills)
        self._lifecycle = ContainerLifecycle(self._calls, host=host)

    def close(self) -> None:
        """Close the connections to the engine; the next call opens new ones."""
        self._engine.close()

    @property
    def is_local(self) -> bool:
        return self._engine.local

    def facts(self) -> RuntimeFacts:
        with self._engine.calling() as client:
            info = client.info()
        local = self._engine.local
        return facts_of(info, kind=self._kind, local=local, may_filter=local and may_filter())

    def image(self, image: str) -> ImageFacts | None:
        try:
            with self._engine.calling() as client:
                inspected = client.inspect_image(image)  # type: ignore[no-untyped-call]  # the stubs stop here
        except EngineRefused as refused:
            # 400: a malformed reference names no image.
            if refused.facts["status"] in (400, 404):
                return None
            raise
        return image_inspected(inspected, image=image)

    def images(self) -> list[ImageOnHost]:
        with self._engine.calling() as client:
            return images_listed(client.images())

    def registry_architectures(self, image: str) -> frozenset[str]:
        with self._engine.calling() as client:
            try:
                offered = client.inspect_distribution(image)  # type: ignore[no-untyped-call]  # the stubs stop here
            except DockerException:
                return frozenset()  # the pull reports why
        return frozenset(str(platform["architecture"]) for platform in offered.get("Platforms") or ())

    def pull(self, image: str, *, stall: timedelta) -> PullStream:
        return DockerPull(self._engine, image, stall=stall, inspect=self.image)

    def remove_image(self, image: str) -> None:
        try:
            with self._engine.calling() as client:
                client.remove_image(image)
        except EngineRefused as refused:
            if refused.facts["status"] == 409:
                raise ImageInUse(image=image, host=self._engine.host, users=refused.facts["detail"]) from refused
            if refused.facts["status"] != 404:
                raise

    def run(self, spec: ContainerSpec) -> Container:
        return self._lifecycle.run(spec)

    def find(self, name: str) -> Container | None:
        return self._calls.find(name)

    def containers(self, labels: Mapping[str, str], *, sizes: bool = False) -> list[Container]:
        self._oom_kills.read()
        filters = [f"{name}={value}" for name, value in labels.items()]
        with self._engine.calling() as client:
            listed = client.containers(all=True, size=sizes, filters={"label": filters})
        # A listing lacks the exit code. Race: a container that is removed before it is inspected is left out.
        found = (self.find(each.id) if each.status is Status.EXITED else each for each in map(container_listed, listed))
        return [container for container in found if container is not None]

    def logs(self, name: str, *, follow: bool, tail: int | None = None, since: datetime | None = None) -> LogStream:
        return DockerLogs(self._engine, name, inspect=self.find, follow=follow, tail=tail, since=since)

    def changes(self, labels: Mapping[str, str]) -> ChangeStream:
        return EngineChanges(self._engine, labels)

    def remove(self, name: str, *, grace: timedelta) -> None:
        self._lifecycle.remove(name, grace=grace)

    def remove_network(self, installation: str) -> None:
        """Idempotent: as AIMA is uninstalled. Raises EngineRefused while a container uses it."""
        network = EngineNetwork(installation)
        self._calls.remove_network(network)
        if self._engine.local:
            allow_host(network)


class SdkCalls:
    """The ContainerCalls of the SDK."""

    def __init__(self, engine: EngineClient, oom_kills: OomKills) -> None:
        self._engine = engine
        self._oom_kills = oom_kills
        self._has_quotas = True
        """Until a create was refused for one."""

    def create(self, spec: ContainerSpec) -> str | None:
        if spec.network is not None:
            self.ensure_network(EngineNetwork(spec.network))
        if spec.secrets and not self._engine.local:
            detail = "the Docker Engine is on another machine, which cannot mount it"
            remedy = "Run a worker on that machine, or start the service without secrets."
            raise SecretUnsafe(path=spec.secrets.source, host=self._engine.host, detail=detail, remedy=remedy)
        try:
            created = self._create(spec)
        except EngineRefused as refused:
            if refused.facts["status"] == 409:
                return None
            if refused.facts["status"] == 404:
                raise ImageNotFound(image=spec.image, detail=refused.facts["detail"]) from refused
            raise
        return str(created["Id"])

    def _create(self, spec: ContainerSpec) -> dict[str, Any]:
        """Without a quota where the storage driver has none, which only its refusal shows."""
        try:
            with self._engine.calling() as client:
                variables = variables_of(spec.secrets) if spec.secrets else None
                config = container_config(spec, quota=self._has_quotas, secret_variables=variables)
                created: dict[str, Any] = client.create_container_from_config(config, spec.name)  # type: ignore[no-untyped-call]  # and here
                return created
        except EngineRefused as refused:
            if spec.disk is None or not self._has_quotas or not lacks_quotas(refused):
                raise
        self._has_quotas = False
        _log.warning("limit of disk not enforced", container=spec.name, reason="the storage driver has no quotas")
        return self._create(spec)

    def ensure_network(self, network: EngineNetwork) -> None:
        """Creates it unless it exists. Raises NoNetwork.

        Race: of two workers that create it at once, the engine refuses one, which then finds the other's.
        """
        deadline = time.monotonic() + NETWORK_TIMEOUT.total_seconds()
        while (found := self._find_network(network)) is None:
            try:
                with self._engine.calling() as client:
                    client.create_network(
                        network.name, "bridge", network.options, check_duplicate=True, labels=network.labels
                    )
            except EngineRefused as refused:
                if time.monotonic() > deadline or lacks_addresses(refused):
                    raise network_refused(refused, network, host=self._engine.host) from refused
                time.sleep(POLL_INTERVAL.total_seconds())
        network.check(found, host=self._engine.host)
        if self._engine.local:
            refuse_host(network)

    def remove_network(self, network: EngineNetwork) -> None:
        if self._find_network(network) is not None:
            with self._engine.calling() as client:
                client.remove_network(network.name)

    def _find_network(self, network: EngineNetwork) -> dict[str, Any] | None:
        try:
            with self._engine.calling() as client:
                found: dict[str, Any] = client.inspect_network(network.name)
        except EngineRefused as refused:
            if refused.facts["status"] == 404:
                return None
            raise
        return found

    def grant_secrets(self, container: str, spec: ContainerSpec) -> None:
        if spec.secrets is None or not spec.secrets.files:
            return
        with self._engine.calling() as client:
            configured: str = client.inspect_container(container)["Config"].get("User") or "0"
            user = configured.partition(":")[0]
            named = not user.isdecimal()
            uid = uid_in(b"".join(client.get_archive(container, "/etc/passwd")[0]), user) if named else int(user)
            first = first_uid(client.info())
        if uid is not None:  # else the engine refuses the start: it knows no such user either
            grant(spec.secrets, uid=first + uid, host=self._engine.host)

    def start(self, container: str) -> None:
        self._oom_kills.read()
        with self._engine.calling() as client:
            client.start(container)

    def find(self, name: str) -> Container | None:
        self._oom_kills.read()
        try:
            with self._engine.calling() as client:
                inspected = client.inspect_container(name)
        except EngineRefused as refused:
            if refused.facts["status"] == 404:
                return None
            raise
        container = container_inspected(inspected, local=self._engine.local)
        if container.exit_code == SIGKILLED and not container.oom_killed:
            oom_killed = self._oom_kills.any_shortly_before(moment(inspected["State"]["FinishedAt"]))
            container = container.model_copy(update={"oom_killed": oom_killed})
        if container.pid is not None and not belongs_to_container(container.pid, container.id):
            container = container.model_copy(update={"pid": None})
        # The engine also accepts a prefix of an id as a name.
        return container if name in (container.name, container.id) else None

    def delete(self, name: str, *, grace: timedelta) -> None:
        try:
            with self._engine.calling() as client:
                if grace:
                    client.stop(name, timeout=math.ceil(grace.total_seconds()))
                client.remove_container(name, v=True, force=True)
        except EngineRefused as refused:
            if refused.facts["status"] != 404:
                raise
