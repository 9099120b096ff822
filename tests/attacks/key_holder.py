"""The adversary with a key of one scope: requests every route of the OpenAPI document, with generated bodies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import httpx2
from attacks.adversary import Act, Adversary
from attacks.stage import HOSTS, IMAGE, SERVICES, AttackStage

SCOPES = ("read", "operate", "infer", "gateway")
READS = ("GET", "HEAD", "OPTIONS")
NAMES = (*SERVICES, *HOSTS, "svc-evil-1", "../../etc", "%00", "x" * 300, "é", "\x1b[31m")
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**63,
    "",
    "x",
    "../../etc/shadow",
    "evil/image:1",
    IMAGE,
    [],
    ["x"],
    {},
    "1s",
)
ADMIN_ONLY = ("/v1/keys", "/v1/audit")


class KeyHolder(Adversary):
    def __init__(self, stage: AttackStage, seed: int, *, scope: str) -> None:
        super().__init__(stage, seed)
        self.name = f"key-{scope}"
        self._scope = scope
        created = stage.owner.post("/v1/keys", json={"name": f"adversary-{scope}-{seed}", "scopes": [scope]})
        assert created.status_code == 201, created.text
        headers = {"Authorization": f"Bearer {created.json()['key']}"}
        self._client = httpx2.Client(base_url=stage.api.url, headers=headers, timeout=20, trust_env=False)
        self._paths: Mapping[str, Mapping[str, Any]] = stage.owner.get("/openapi.json").json()["paths"]

    def actions(self) -> Sequence[tuple[int, Act]]:
        return (
            (8, self.any_route),
            (3, self.start_something),
            (2, self.mutated_start),
            (1, self.other_idempotency_key),
        )

    def attack(self, duration: timedelta) -> None:
        self.stage.others_operate = self._scope == "operate"
        super().attack(duration)

    def withdraw(self) -> None:
        self._client.close()

    def any_route(self) -> str:
        path = self.pick(sorted(self._paths))
        method = self.pick([*self._paths[path], "put", "patch"]).upper()
        filled = "/".join(str(self.pick(NAMES)) if "{" in part else part for part in path.split("/"))
        return self._send(method, filled, self._body())

    def start_something(self) -> str:
        service = self.pick(SERVICES)
        return self._send("POST", f"/v1/services/{service}:{self.pick(['start', 'stop', 'restart'])}", {})

    def mutated_start(self) -> str:
        body = {self.pick(["engine", "model_path", "arguments", "hosts", "route", "port", "image"]): self.pick(VALUES)}
        return self._send("POST", f"/v1/services/{self.pick(SERVICES)}:start", body)

    def other_idempotency_key(self) -> str:
        answer = self._client.post(
            f"/v1/services/{self.pick(SERVICES)}:stop",
            json={},
            headers={"Idempotency-Key": f"k{self.random.randrange(5)}"},
        )
        return self._judged(answer)

    def _body(self) -> dict[str, Any]:
        names = (
            "name",
            "scope",
            "image",
            "images",
            "engine",
            "model_path",
            "arguments",
            "hosts",
            "route",
            "id",
            "grace",
        )
        return {self.pick(names): self.pick(VALUES) for _ in range(self.random.randrange(3))}

    def _send(self, method: str, path: str, body: Mapping[str, Any]) -> str:
        content = b"" if method in READS else json.dumps(body).encode()
        request = self._client.build_request(
            method, path, content=content, headers={"content-type": "application/json"}
        )
        answer = self._client.send(request, stream=True)
        try:
            if "event-stream" not in answer.headers.get("content-type", ""):
                answer.read()
            return self._judged(answer)
        finally:
            answer.close()

    def _judged(self, answer: httpx2.Response) -> str:
        method, path = answer.request.method, answer.request.url.path
        if "event-stream" not in answer.headers.get("content-type", ""):
            self.stage.note_answer(answer, of=self.name)
        if answer.status_code < 400 and method != "OPTIONS" and not self._may(method, path):
            self.stage.mishaps.append(f"a key of scope {self._scope} was allowed {method} {path}: {answer.status_code}")
        return f"{method} {path}: {answer.status_code}"

    def _may(self, method: str, path: str) -> bool:
        if path in ("/healthz", "/readyz") or self._scope == "admin":
            return True
        if self._scope == "gateway":
            return (method, path) == ("POST", "/v1/gateways")
        if self._scope == "infer" or path.startswith(ADMIN_ONLY):
            return False
        return method in READS or self._scope == "operate"
