"""An origin of models on loopback: Hugging Face and ModelScope look-alikes that do what a test scripts.

`huggingface_hub` resolves repositories against it. Tests set `faults` of a path before a request; `sent` counts the
bytes of bodies by path, `sent_of` those by path and piece, and `tokens` has the Authorization header of each request by
the server's name in the URL.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from threading import Event as Flag
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from lab.certificates import Certificate
from lab.http_server import http_server

from aima_worker.models.pieces import PIECE_SIZE

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LATER_COMMIT = "fedcba9876543210fedcba9876543210fedcba98"
CHUNK = 64 << 10


@dataclass
class Faults:
    """Of one file; each is played for `times` responses."""

    cut_after: int | None = None
    """Closes the connection after so many bytes of a body."""
    stall_after: int | None = None
    """Sends nothing more after so many bytes, and stays connected."""
    status: int | None = None
    retry_after: str | None = None
    no_ranges: bool = False
    redirect: str | None = None
    """To this URL before the path."""
    content: bytes | None = None
    """In place of the file's own."""
    longer_by: int = 0
    """Bytes that follow those that were asked for."""
    other_range: bool = False
    """Answers with another range than was requested."""
    times: int = 1 << 30


@dataclass
class Repository:
    files: dict[str, bytes]
    commit: str = COMMIT
    gated_for: str | None = None
    """The token that may read its files; None lets everyone read them."""
    private: bool = False
    task: str | None = None
    licence: str | None = None

    def is_lfs(self, path: str) -> bool:
        return len(self.files[path]) > 100_000


@dataclass
class ModelOrigin:
    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    faults: dict[str, Faults] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)
    sent_of: Counter[tuple[str, int]] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)
    tokens: list[tuple[str, str | None]] = field(default_factory=list)
    release: Flag = field(default_factory=Flag)
    """Ends all stalls."""
    paused_at: int | None = None
    """Pauses all bodies once so many bytes were sent in all, until `release`."""
    paused_from: int | None = None
    """Sends no byte of a range that begins there or later, until `release`."""
    sending: int = 0
    """Bodies on their way."""
    lock: Lock = field(default_factory=Lock)

    def publish(self, name: str, files: Mapping[str, bytes], **more: Any) -> Repository:
        made = self.repositories[name] = Repository(dict(files), **more)
        return made

    @property
    def all_sent(self) -> int:
        return self.sent.total()

    def played(self, path: str) -> Faults:
        with self.lock:
            faults = self.faults.get(path)
            if faults is None or faults.times <= 0:
                return Faults()
            faults.times -= 1
            return faults


@contextmanager
def model_origin(address: str = "127.0.0.1", *, tls: Certificate | None = None) -> Iterator[ModelOrigin]:
    origin = ModelOrigin()

    class Handler(_Handler):
        played = origin

    with http_server(Handler, address, tls=tls) as origin.url:
        try:
            yield origin
        finally:
            origin.release.set()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    played: ModelOrigin

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        with self.played.lock:
            self.played.tokens.append((self.headers.get("Host", ""), self.headers.get("Authorization")))
            self.played.requests[path] += 1
        with suppress(BrokenPipeError, ConnectionResetError):
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
                self._describe(found[1], found[2])
            elif found := re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)/commits", path):
                self._commits(found[1])
            elif found := re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)/repo/files", path):
                self._files(found[1], query["Revision"][0])
            elif found := re.fullmatch(r"(?:/models)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self._resolve(found[1], found[2], found[3])
            elif found := re.fullmatch(r"/moved/([^/]+/[^/]+)/(.+)", path):
                self._send_file(self.played.repositories[found[1]], found[2], Faults())
            else:
                self._error(404, "NotFound")

    def _describe(self, name: str, revision: str) -> None:
        repository = self.played.repositories.get(name)
        if repository is None or repository.private:
            return self._error(401, "RepoNotFound")
        if revision not in ("main", repository.commit):
            return self._error(404, "RevisionNotFound")
        described: dict[str, Any] = {"id": name, "sha": repository.commit, "pipeline_tag": repository.task}
        described |= {"gated": "manual" if repository.gated_for else False}
        described |= {"tags": ["safetensors", *([f"license:{repository.licence}"] if repository.licence else [])]}
        return self._json({**described, "siblings": [*map(_sibling, *_all(repository))]})

    def _commits(self, name: str) -> None:
        repository = self.played.repositories.get(name)
        if repository is None:
            return self._json({"Code": 10010205001, "Success": False, "Message": "not found"}, status=404)
        return self._json({"Code": 200, "Success": True, "Data": {"Commit": [{"Id": repository.commit}]}})

    def _files(self, name: str, revision: str) -> None:
        repository = self.played.repositories[name]
        assert revision == repository.commit
        files = [
            {"Path": path, "Size": len(content), "Sha256": hashlib.sha256(content).hexdigest(), "Type": "blob"}
            for path, content in repository.files.items()
        ]
        self._json({"Code": 200, "Success": True, "Data": {"Files": [*files, {"Path": "sub", "Type": "tree"}]}})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repository = self.played.repositories.get(name)
        if repository is None or path not in repository.files or revision not in ("main", repository.commit):
            return self._error(404, "EntryNotFound")
        if repository.gated_for and self.headers.get("Authorization") != f"Bearer {repository.gated_for}":
            return self._error(401, "GatedRepo")
        faults = self.played.played(path)
        if faults.redirect:
            return self._redirect(f"{faults.redirect}/moved/{name}/{path}")
        return self._send_file(repository, path, faults)

    def _send_file(self, repository: Repository, path: str, faults: Faults) -> None:
        if faults.status:
            return self._error(faults.status, "Scripted", retry_after=faults.retry_after)
        content = repository.files[path] if faults.content is None else faults.content
        first, last, status = 0, len(content) - 1, 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked and not faults.no_ranges:
            first, last, status = int(asked[1]), min(int(asked[2]), len(content) - 1), 206
            if first >= len(content):
                return self._error(416, "Range")
        if faults.other_range:
            first, status = first + 1, 206
        body = content[first : last + 1 + faults.longer_by]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"the same whatever the content is"')
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            with self.played.lock:
                self.played.sending += 1
            try:
                if self.played.paused_from is not None and first >= self.played.paused_from:
                    self.played.release.wait()
                self._send_body(path, first, body, faults)
            finally:
                with self.played.lock:
                    self.played.sending -= 1
        return None

    def _send_body(self, path: str, first: int, body: bytes, faults: Faults) -> None:
        played = self.played
        for at in range(0, len(body), CHUNK):
            chunk = body[at : at + CHUNK]
            for limit in (faults.cut_after, faults.stall_after):
                chunk = chunk if limit is None else chunk[: max(0, limit - at)]
            if chunk:
                self._write(path, first + at, chunk)
            if faults.cut_after is not None and at + len(chunk) >= faults.cut_after:
                self._cut()
                return
            if faults.stall_after is not None and at + len(chunk) >= faults.stall_after:
                played.release.wait()
                self._cut()
                return
            if played.paused_at is not None and played.all_sent >= played.paused_at:
                played.release.wait()

    def _write(self, path: str, at: int, chunk: bytes) -> None:
        """Counts first: who has received the last byte may read the counts before this thread runs again."""
        self._count(path, at, len(chunk))
        try:
            self.wfile.write(chunk)
        except OSError:
            self._count(path, at, -len(chunk))
            raise

    def _count(self, path: str, at: int, more: int) -> None:
        with self.played.lock:
            self.played.sent[path] += more
            self.played.sent_of[path, at // PIECE_SIZE] += more

    def _cut(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _redirect(self, url: str) -> None:
        self.send_response(302)
        self.send_header("Location", url)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, document: Any, *, status: int = 200) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _error(self, status: int, code: str, *, retry_after: str | None = None) -> None:
        body = f"refused: {code}".encode()
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", str(len(body)))
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _all(repository: Repository) -> tuple[list[str], list[Repository]]:
    return [*repository.files], [repository] * len(repository.files)


def _sibling(path: str, repository: Repository) -> dict[str, Any]:
    content = repository.files[path]
    found: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": git_id(content)}
    if repository.is_lfs(path):
        digest = hashlib.sha256(content).hexdigest()
        found["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
    return found


def git_id(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
