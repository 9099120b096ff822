"""The adversary with a key of one scope: requests every route of the OpenAPI document, with generated bodies.

It also sends its key to a gateway. What its scope allows is no finding; what it leaves behind, the owner undoes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import httpx2
from attacks.adversary import Act, Adversary
from attacks.bodies import Bodies
from attacks.stage import ALIAS, HOSTS, IMAGE, SERVICES, AttackStage
from lab.dataplane import GATEWAY

SCOPES = ("read", "operate", "infer", "gateway", "admin")
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
OPEN = ("/healthz", "/readyz")
ENGINE = "owned-cpu"
TEXTS = (*SERVICES, *HOSTS, IMAGE, ENGINE, ALIAS, "1s", "Dial", "evil/image:1", GATEWAY.public, "\x1b[31m")
REFUSED_FIRST = (400, 401, 404, 405)
"""Not authenticated, or not routed."""
AT_GATEWAY = (
    ("GET", "/v1/models"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/embeddings"),
    ("GET", "/metrics"),
    ("GET", "/v1/hosts"),
    ("POST", "/v1/keys"),
    ("GET", "/i/svc-owned-0@fake-00/v1/models"),
)


class KeyHolder(Adversary):
    passes = 0.5

    def __init__(self, stage: AttackStage, seed: int, *, scope: str) -> None:
        super().__init__(stage, seed)
        self.name = f"key-{scope}"
        self._scope = scope
        created = stage.owner.post("/v1/keys", json={"name": f"adversary-{scope}-{seed}", "scopes": [scope]})
        assert created.status_code == 201, created.text
        headers = {"Authorization": f"Bearer {created.json()['key']}"}
        self._client = httpx2.Client(base_url=stage.api.url, headers=headers, timeout=20, trust_env=False)
        self._gateway = httpx2.Client(base_url=stage.gateway.url, headers=headers, timeout=20, trust_env=False)
        document = stage.owner.get("/openapi.json").json()
        self._paths: Mapping[str, Mapping[str, Any]] = document["paths"]
        self._changes = [
            (path, method)
            for path, methods in sorted(self._paths.items())
            for method in methods
            if method in ("post", "put", "patch", "delete")
        ]
        self._bodies = Bodies(document, self.random, texts=TEXTS, others=VALUES)
        self._requested: set[tuple[str, str]] = set()
        """Method and path of the routes that were requested with names of the kind that they take."""
        self._tried = self._accepted = 0

    def actions(self) -> Sequence[tuple[int, Act]]:
        return (
            (4, self.any_route),
            (6, self.any_change),
            (3, self.start_something),
            (2, self.mutated_start),
            (1, self.other_idempotency_key),
            (2, self.at_gateway),
        )

    def attack(self, duration: timedelta) -> None:
        self.stage.others_may = self._scope if self._scope in ("operate", "admin") else None  # type: ignore[assignment]
        super().attack(duration)

    def withdraw(self) -> None:
        self._client.close()
        self._gateway.close()

    def accepted(self) -> tuple[int, int]:
        """Of its requests, those that were authenticated and found their route."""
        return self._accepted, self._tried

    def never_requested(self) -> list[str]:
        """Routes that change something."""
        return [f"{method.upper()} {path}" for path, method in self._changes if (path, method) not in self._requested]

    def any_route(self) -> str:
        path = self.pick(sorted(self._paths))
        method = self.pick([*self._paths[path], "put", "patch"])
        return self._send(method.upper(), self._filled(path), self._body(path, method))

    def any_change(self) -> str:
        """Actions such as `:drain` and `:cancel` included."""
        path, method = self.pick(self._changes)
        self._requested.add((path, method))
        return self._send(method.upper(), self._filled(path, right=1.0), self._body(path, method))

    def at_gateway(self) -> str:
        method, path = self.pick(AT_GATEWAY)
        body = {"model": self.pick([*SERVICES, ALIAS, "x"]), "messages": [], "input": self.pick(VALUES)}
        answer = self._gateway.request(method, path, json=body if method == "POST" else None)
        self.stage.note_answer(answer, of=self.name)
        allowed = {"infer": ("/v1/models", "/v1/chat", "/v1/emb"), "gateway": ()}.get(self._scope, ("/metrics",))
        if answer.is_success and not path.startswith(allowed):
            self.stage.mishaps.append(f"a gateway allowed {method} {path} to a key of scope {self._scope}")
        return f"gateway, {method} {path}: {answer.status_code}"

    def _filled(self, path: str, *, right: float = 0.7) -> str:
        """With a name in the place of each placeholder, mostly one of the kind that the route takes."""
        kinds = {
            "/v1/services": SERVICES,
            "/v1/hosts": HOSTS,
            "/v1/operations": [*self.stage.asked.starts] or NAMES,
            "/v1/engines": (ENGINE,),
            "/v1/aliases": (ALIAS, "evil"),
        }
        kind = next((names for start, names in kinds.items() if path.startswith(start)), NAMES)

        def name(_: re.Match[str]) -> str:
            return str(self.pick(kind if self.random.random() < right else NAMES))

        return re.sub(r"\{[^}]+\}", name, path)

    def _body(self, path: str, method: str) -> Any:
        if method in self._paths[path] and self.random.random() < 0.8:
            return self._bodies.of(self._paths[path][method])
        return {self.pick(["name", "scope", "images", "hosts", "grace"]): self.pick(VALUES)}

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

    def _send(self, method: str, path: str, body: Any) -> str:
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
        self._tried += 1
        self._accepted += answer.status_code not in REFUSED_FIRST
        if "event-stream" not in answer.headers.get("content-type", ""):
            self.stage.note_answer(answer, of=self.name)
        if answer.status_code < 400 and method != "OPTIONS" and not self._may(method, path):
            self.stage.mishaps.append(f"a key of scope {self._scope} was allowed {method} {path}: {answer.status_code}")
        return f"{method} {path}: {answer.status_code}"

    def _may(self, method: str, path: str) -> bool:
        if path in OPEN or self._scope == "admin":
            return True
        if self._scope == "gateway":
            return (method, path) == ("POST", "/v1/gateways")
        if self._scope == "infer" or path.startswith((*ADMIN_ONLY, "/v1/gateways")):
            return False
        if method in READS or path.endswith(":plan"):
            return True
        removes = method == "DELETE" and not path.startswith("/v1/aliases/")
        return self._scope == "operate" and not removes and path != "/v1/images:remove"
