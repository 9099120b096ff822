"""A certificate authority for tests, and a certificate for loopback or another name."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lab.parts import missing

_KEY = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
_AUTHORITY = f"req -x509 {_KEY} -keyout ca.key -out ca.crt -days 2 -subj /CN=authority"
_SERVER = (
    f"req {_KEY} -keyout new.key -out server.csr -subj /CN=127.0.0.1",
    "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out new.crt -days {days} -extfile names",
)


@dataclass(frozen=True)
class Certificate:
    authority: Path
    certificate: Path
    key: Path

    def renew(self, *, days: int = 60) -> None:
        """Replaces certificate and key, signed by the same authority; with negative days, an expired one."""
        directory = self.certificate.parent
        for command in _SERVER:
            _openssl(command.format(days=days), directory)
        (directory / "new.key").replace(self.key)
        (directory / "new.crt").replace(self.certificate)


def certificate_in(directory: Path, *, name: str = "IP:127.0.0.1") -> Certificate:
    """Skips the test without `openssl`. `name` is what the certificate is for, such as `DNS:redis.example`."""
    if shutil.which("openssl") is None:
        missing("there is no openssl; `apt-get install openssl` brings one")
    directory.mkdir()
    (directory / "names").write_text(f"subjectAltName={name}\n")
    _openssl(_AUTHORITY, directory)
    made = Certificate(directory / "ca.crt", directory / "server.crt", directory / "server.key")
    made.renew()
    return made


def _openssl(command: str, directory: Path) -> None:
    subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True)
