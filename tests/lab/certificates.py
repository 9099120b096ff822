"""A certificate authority for tests, and a certificate for loopback or another name."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lab.parts import missing


@dataclass(frozen=True)
class Certificate:
    authority: Path
    certificate: Path
    key: Path


def certificate_in(directory: Path, *, name: str = "IP:127.0.0.1") -> Certificate:
    """Skips the test without `openssl`. `name` is what the certificate is for, such as `DNS:redis.example`."""
    if shutil.which("openssl") is None:
        missing("there is no openssl; `apt-get install openssl` brings one")
    directory.mkdir()
    (directory / "names").write_text(f"subjectAltName={name}\n")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=authority",
        "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=127.0.0.1",
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt -days 2 -extfile names",
    ):
        subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True)
    return Certificate(directory / "ca.crt", directory / "server.crt", directory / "server.key")
