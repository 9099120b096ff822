"""Copies of a model's files by curl, rsync and BitTorrent (aria2c), between hosts in namespaces."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from hashlib import sha1
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from lab.cell import Cell
from lab.http_server import http_server
from lab.network import Link
from lab.parts import eventually
from lab.program import Program

from aima_core.domain.models import Manifest
from aima_worker.models.pieces import PIECE_SIZE

RSYNC_PORT, FILES_PORT, TORRENT_PORT = 8730, 9000, 6881
RSYNC_CONFIG = "port = {port}\nuse chroot = no\nuid = root\ngid = root\n[files]\npath = {place}\n"
ANNOUNCE_INTERVAL = 2
"""Seconds between two requests of a client to the tracker."""
WITHIN = timedelta(minutes=5)
ARIA2C = (
    *("aria2c", "--quiet", "--enable-dht=false", "--enable-dht6=false", "--file-allocation=none", "--seed-ratio=0"),
    *("--bt-max-peers=8", f"--listen-port={TORRENT_PORT}", f"--bt-tracker-interval={ANNOUNCE_INTERVAL}"),
)


class Copies(NamedTuple):
    """Each copy is timed, in seconds."""

    inside: Cell
    links: Mapping[str, Link]
    directory: Path
    """Of the copies."""
    here: str
    """The address of this process in the hosts' network."""

    def download(self, manifest: Manifest, host: str) -> float:
        """By curl, from the origin."""
        urls = [word for file in manifest.files for word in ("-o", "/dev/null", manifest.url_of(file))]
        return self._timed(host, "curl", "-sf", *urls)

    def curl(self, place: Path, source: str, host: str) -> float:
        """From a file server on the host `source`."""
        with self._serves(source, FILES_PORT, sys.executable, "-m", "http.server", str(FILES_PORT), "-d", str(place)):
            url = f"http://{self.links[source].address}:{FILES_PORT}"
            target = str(self.directory / "copy")
            urls = [word for file in place.iterdir() for word in ("-o", target, f"{url}/{file.name}")]
            return self._timed(host, "curl", "-sf", *urls)

    def rsync(self, place: Path, source: str, *hosts: str) -> list[float]:
        """From a daemon on the host `source` to each in turn."""
        config = self.directory / "rsyncd.conf"
        config.write_text(RSYNC_CONFIG.format(port=RSYNC_PORT, place=place))
        with self._serves(source, RSYNC_PORT, "rsync", "--daemon", "--no-detach", f"--config={config}"):
            url = f"rsync://{self.links[source].address}:{RSYNC_PORT}/files/"
            return [self._rsync(each, url) for each in hosts]

    def _rsync(self, host: str, url: str) -> float:
        target = self.directory / f"{host}-rsync"
        seconds = self._timed(host, "rsync", "-aW", url, str(target))
        shutil.rmtree(target)
        return seconds

    def bittorrent(self, place: Path, source: str | None, *hosts: str) -> float:
        """From the host `source`, or from this process's network."""
        with ExitStack() as running, _tracker(self.here) as announce:
            torrent = self.directory / "torrent"
            torrent.write_bytes(_torrent(place, announce))
            seed = (*ARIA2C, "--bt-seed-unverified=true", f"--dir={place.parent}", str(torrent))
            if source is None:
                seeding = subprocess.Popen(seed)
                running.callback(seeding.wait)
                running.callback(seeding.kill)
            else:
                running.enter_context(self._runs(source, *seed))
            began = time.monotonic()
            complete = [self.directory / f"{host}-complete" for host in hosts]
            for host, marker in zip(hosts, complete, strict=True):
                hook = self.directory / f"{host}-hook"
                hook.write_text(f"#!/bin/sh\ntouch {marker}\n")
                hook.chmod(0o700)
                told = (f"--on-bt-download-complete={hook}", f"--dir={self.directory / f'{host}-torrent'}")
                running.enter_context(self._runs(host, *ARIA2C, *told, str(torrent)))
            assert eventually(lambda: all(marker.exists() for marker in complete), within=WITHIN)
            seconds = time.monotonic() - began
        for host, marker in zip(hosts, complete, strict=True):
            marker.unlink()
            shutil.rmtree(self.directory / f"{host}-torrent")
        return seconds

    def _timed(self, host: str, *command: str) -> float:
        began = time.monotonic()
        words = self.links[host].inside(*command)
        assert self.inside.run(*words, log=self.directory / "copies.log").wait() == 0
        return time.monotonic() - began

    @contextmanager
    def _serves(self, host: str, port: int, *command: str) -> Iterator[None]:
        with self._runs(host, *command):
            assert eventually(lambda: _accepts(self.links[host].address, port), within=timedelta(seconds=20))
            yield

    @contextmanager
    def _runs(self, host: str, *command: str) -> Iterator[None]:
        program = Program(self.inside, *self.links[host].inside(*command), log=self.directory / "copies.log")
        program.start()
        try:
            yield
        finally:
            program.kill()


def _accepts(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def _tracker(address: str) -> Iterator[str]:
    """The URL to which clients announce themselves; it answers with the addresses of the others."""
    peers: set[bytes] = set()

    class Tracker(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            port = int(parse_qs(urlsplit(self.path).query, encoding="latin-1")["port"][0])
            own = socket.inet_aton(self.client_address[0]) + port.to_bytes(2)
            peers.add(own)
            body = _bencoded({b"interval": ANNOUNCE_INTERVAL, b"peers": b"".join(sorted(peers - {own}))})
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with http_server(Tracker, address) as url:
        yield f"{url}/announce"


def _torrent(place: Path, announce: str) -> bytes:
    """Of all files below a directory, in pieces of this project's size."""
    files = sorted(place.iterdir())
    content = b"".join(file.read_bytes() for file in files)
    pieces = b"".join(sha1(content[at : at + PIECE_SIZE]).digest() for at in range(0, len(content), PIECE_SIZE))
    listed = [{b"length": file.stat().st_size, b"path": [file.name.encode()]} for file in files]
    about = {b"files": listed, b"name": place.name.encode(), b"piece length": PIECE_SIZE, b"pieces": pieces}
    return _bencoded({b"announce": announce.encode(), b"info": about})


def _bencoded(value: Any) -> bytes:
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    if isinstance(value, dict):
        return b"d%se" % b"".join(_bencoded(each) for pair in sorted(value.items()) for each in pair)
    return b"l%se" % b"".join(map(_bencoded, value))
