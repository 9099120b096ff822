"""A reader of everything but the secret's own file looks for its value, on real parts: nothing has it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.request import urlopen

import docker
import pytest
import redis
import yaml
from lab.images import busybox_image
from lab.running import Aima

SERVICE = "svc-holder-probe"
FILE, VARIABLE, ENTRY = "HF_TOKEN", "PROBE_PASSWORD", "huggingface"
PYTHON = next(filter(os.path.exists, ("/usr/bin/python3", sys.executable)))
"""One that every user may execute."""
LISTINGS = ("services", "operations", "hosts", "ports", "events", "engines", "models", "audit", f"services/{SERVICE}")
_IN_A_CONTAINER = f"""
mkdir -p /tmp/www/cgi-bin && echo ok > /tmp/www/health && ln -s "$CREDENTIALS_DIRECTORY/{FILE}" /tmp/www/file
cat > /tmp/www/cgi-bin/variable <<'END'
#!/bin/sh
printf 'Content-Type: text/plain\\r\\n\\r\\n%s' "${VARIABLE}"
END
busybox chmod 755 /tmp/www/cgi-bin/variable && exec httpd -f -p 8000 -h /tmp/www
"""
_NATIVELY = f"""
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

def writable(directory):
    try:
        (directory / "new").touch()
    except OSError:
        return False
    return True

class Probe(BaseHTTPRequestHandler):
    def do_GET(self):
        file = Path(os.environ["CREDENTIALS_DIRECTORY"]) / "{FILE}"
        held = dict(file=file.read_bytes(), variable=os.environ["{VARIABLE}"].encode())
        mode = oct(file.stat().st_mode)[-3:] + (" own" if file.stat().st_uid == os.geteuid() else " another's")
        held["mode"] = (mode + (" writable" if writable(file.parent) else "")).encode()
        said = held.get(self.path.strip("/"), b"ok")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(said)

HTTPServer(("127.0.0.1", int(sys.argv[1])), Probe).serve_forever()
"""


class Installation:
    """`aima up` with a host that holds two secrets, and a service that is given both."""

    def __init__(self, directory: Path, tmpfs: Path, *, installation: str, runtime: str) -> None:
        self.directory, self.tmpfs = directory, tmpfs
        self.file, self.variable = f"hf_{secrets.token_hex(16)}", f"pw-{secrets.token_hex(16)}"
        self.plain = secrets.token_hex(16)
        """Of a variable that is no secret: the search has to find it."""
        self.entries = tmpfs / "entries"
        self.entries.mkdir(mode=0o700)
        self.rotate(self.file)
        self._write(VARIABLE, self.variable)
        settings = {
            "AIMA_API__CATALOG": str(catalog_of(directory / "catalog")),
            "AIMA_HOST__SECRETS": str(self.entries),
            "AIMA_HOST__RUNTIME_DIR": str(tmpfs),
        }
        self.aima = Aima(directory, installation=installation, runtime=runtime, **settings)
        self.began = int(time.time()) - 1

    def rotate(self, value: str) -> None:
        self._write(ENTRY, value)

    def _write(self, entry: str, value: str) -> None:
        (self.entries / entry).touch(mode=0o600)
        (self.entries / entry).write_text(f"{value}\n")

    def start(self) -> None:
        given = ("--secret", f"{FILE}={ENTRY}", "--secret", VARIABLE, "--env", f"PLAIN={self.plain}")
        started = self.aima.aima("service", "start", SERVICE, "--wait", *given)
        assert started.returncode == 0, started.stderr
        (self.directory / "start.out").write_text(started.stdout + started.stderr)

    def served(self, what: str) -> str:
        with urlopen(f"{self.aima.instance(SERVICE)['endpoint']}/{what}", timeout=60) as answer:
            return str(answer.read().decode().strip())

    @property
    def copies(self) -> list[Path]:
        return [path for path in (self.tmpfs / "secrets").rglob("*") if path.is_file()]

    def surfaces(self) -> Iterator[tuple[str, bytes]]:
        """All that others can read, by name."""
        for listing in LISTINGS:
            with urlopen(f"{self.aima.url}/v1/{listing}".replace("/v1/events", "/v1/operations"), timeout=60) as answer:
                yield f"GET {listing}", answer.read()
        for words in (
            ("service", "status", SERVICE),
            ("service", "logs", SERVICE),
            ("plan", SERVICE),
            ("host", "list"),
        ):
            said = self.aima.aima(*words)
            yield f"aima {' '.join(words)}", (said.stdout + said.stderr).encode()
        yield "keys of Redis", self._redis()
        yield from files_in(self.directory)  # the logs, and the state of Redis, API node, host and native engines
        for line in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                yield str(line), line.read_bytes()
            except OSError:
                continue

    def _redis(self) -> bytes:
        (config,) = (self.directory / "state").rglob("redis.conf")
        said = dict(line.partition(" ")[::2] for line in config.read_text().splitlines())
        with closing(redis.Redis(port=int(said["port"]), password=said.get("requirepass", "").strip('"'))) as client:
            client.config_set("appendfsync", "always")
            client.config_set("rdbcompression", "no")  # it would break a value up
            return b"\n".join(key + (client.dump(key) or b"") for key in client.scan_iter())


def files_in(directory: Path) -> Iterator[tuple[str, bytes]]:
    """Those that exist when they are read: others are renamed or removed meanwhile."""
    for parent, _, names in os.walk(directory):
        for path in (Path(parent, name) for name in names):
            with suppress(FileNotFoundError):
                if path.is_file():
                    yield str(path.relative_to(directory)), path.read_bytes()


def catalog_of(directory: Path) -> Path:
    engine = {
        "name": "holder-probe",
        "type": "holder",
        "image": busybox_image() if shutil.which("docker") else "holder:1",
        "command": ["sh", "-c", _IN_A_CONTAINER],
        "port": 8000,
        "secrets": {VARIABLE: "environment"},
        "health_check": {"path": "/health", "timeout": "60s"},
        "requires": {"platforms": ["linux/amd64", "linux/arm64"], "memory": "16MB"},
        "native": {"command": [PYTHON, "-c", _NATIVELY, "{port}"], "install": "none"},
    }
    model = {"name": "probe", "type": "test", "size": "1MB", "engines": ["holder-probe"]}
    for place, entry in {"engines/holder/holder-probe.yaml": engine, "models/test/probe.yaml": model}.items():
        (directory / place).parent.mkdir(parents=True, exist_ok=True)
        (directory / place).write_text(yaml.safe_dump(entry))
    return directory


def traces_of(value: str) -> dict[str, bytes]:
    """The value, its base64 at each offset, and its hashes, with and without the line end of the file."""
    raw = value.encode()
    found = {"value": raw}
    for offset in range(3):
        found[f"base64 at {offset}"] = base64.b64encode(b"x" * offset + raw)[4 if offset else 0 : -4]
    for content in (raw, raw + b"\n"):
        for name in ("md5", "sha1", "sha256", "sha512", "blake2b"):
            digest = hashlib.new(name, content).digest()
            forms = {"": digest, "hex": digest.hex().encode(), "base64": base64.b64encode(digest).rstrip(b"=")}
            found |= {f"{name} {form} of {len(content)} bytes": text for form, text in forms.items()}
    return found


def leaks(surfaces: Iterator[tuple[str, bytes]], *values: str) -> list[str]:
    traces = [(form, text) for value in values for form, text in traces_of(value).items()]
    return [f"{form} in {name}" for name, text in surfaces for form, trace in traces if trace in text]


def of_docker(installed: Installation) -> Iterator[tuple[str, bytes]]:
    """What the Docker Engine tells, exports and writes to its disk about the container."""
    with closing(docker.from_env()) as client:
        api, label = client.api, f"aima.installation={installed.aima.environment['AIMA_INSTALLATION']}"
        (container,) = [each["Id"] for each in api.containers(filters={"label": label})]
        yield "docker inspect", json.dumps(api.inspect_container(container)).encode()
        yield "docker ps", json.dumps(api.containers(all=True)).encode()
        yield "docker logs", api.logs(container)
        yield "docker export", b"".join(api.export(container))
        yield "docker diff", json.dumps(api.diff(container)).encode()
        yield "docker events", b"".join(api.events(since=installed.began, until=int(time.time())))
        yield from files_in(Path(api.info()["DockerRootDir"]) / "containers" / container)


@pytest.fixture
def installed(
    request: pytest.FixtureRequest, tmp_path: Path, secrets_tmpfs: Path, installation: str
) -> Iterator[Installation]:
    found = Installation(tmp_path, secrets_tmpfs, installation=installation, runtime=request.param)
    found.aima.up()
    try:
        yield found
    finally:
        found.aima.end()


def assert_only_the_plain_variable_is_found(installed: Installation, *values: str) -> None:
    surfaces = list(installed.surfaces())
    assert "value in keys of Redis" in leaks(iter(surfaces), installed.plain)
    assert any("appendonly" in found for found in leaks(iter(surfaces), installed.plain))
    assert leaks(iter(surfaces), *values) == []


def assert_copies_are_gone(installed: Installation) -> None:
    stopped = installed.aima.aima("service", "stop", SERVICE, "--wait")
    assert stopped.returncode == 0, stopped.stderr
    assert installed.copies == []


@pytest.mark.docker
@pytest.mark.redis
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("installed", ["docker"], indirect=True)
def test_an_engine_in_a_container_gets_its_secrets_and_nothing_else_has_them(installed: Installation) -> None:
    installed.start()

    assert (installed.served("file"), installed.served("cgi-bin/variable")) == (installed.file, installed.variable)
    assert leaks(((str(path), path.read_bytes()) for path in installed.copies), installed.file)  # the search finds it
    assert_only_the_plain_variable_is_found(installed, installed.file, installed.variable)
    assert leaks(of_docker(installed), installed.file) == []

    renewed = f"hf_{secrets.token_hex(16)}"
    installed.rotate(renewed)
    assert installed.aima.aima("service", "restart", SERVICE, "--wait").returncode == 0
    assert installed.served("file") == renewed
    assert_only_the_plain_variable_is_found(installed, installed.file, renewed)
    assert_copies_are_gone(installed)


@pytest.mark.redis
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("installed", ["process"], indirect=True)
def test_a_native_engine_gets_its_secrets_and_nothing_else_has_them(installed: Installation) -> None:
    installed.start()

    assert (installed.served("file"), installed.served("variable")) == (installed.file, installed.variable)
    if os.geteuid() == 0:  # then the engine has a user of its own
        assert installed.served("mode") == "400 own"
    assert_only_the_plain_variable_is_found(installed, installed.file, installed.variable)
    assert_copies_are_gone(installed)
