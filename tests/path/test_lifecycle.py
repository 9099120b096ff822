"""The lifecycle of a service end to end: pull from a registry, load, query, stop, nothing left behind."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import docker
import pytest
import yaml
from lab.registry import registry
from lab.running import ROOT, Aima, ask, engines

pytestmark = [pytest.mark.docker, pytest.mark.registry, pytest.mark.redis, pytest.mark.alone, pytest.mark.slow]
SERVICE = "svc-llamacpp-smollm2-135m"
QUESTION = "What is the capital of France? Answer in one sentence."
IMAGE = "aima/llamacpp-smollm2:1"
ENGINE = ROOT / "catalog/engines/llamacpp/llamacpp-smollm2-cpu.yaml"


def an_overlay_with(image: str, directory: Path) -> Path:
    """An overlay catalog with another image for the engine."""
    file = directory / "engines/llamacpp" / ENGINE.name
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump({**yaml.safe_load(ENGINE.read_text()), "image": image, "pull": "missing"}))
    return directory


@pytest.mark.timeout(300)
def test_a_model_is_pulled_loaded_queried_and_stopped(tmp_path, installation):
    engines("build", "llamacpp-smollm2")
    with registry(tmp_path / "registry") as source:
        image = source.push(IMAGE, name=IMAGE)
        catalog = an_overlay_with(image, tmp_path / "catalog")
        aima = Aima(tmp_path, installation=installation, runtime="docker", AIMA_API__CATALOG=str(catalog))
        aima.up()
        try:
            started = aima.aima("service", "start", SERVICE, "--wait")

            assert started.returncode == 0, started.stderr
            for phase in ("pulling", "starting", "loading", "ready in"):
                assert phase in started.stdout
            assert re.search(r"of [\d.]+ MB", started.stdout)
            assert "Paris" in ask(aima.instance(SERVICE)["endpoint"], QUESTION)
            layers = pulled_layers(aima)
            assert sum(layer["total"] or 0 for layer in layers) <= sum(source.layer_sizes(IMAGE))
            assert {layer["step"] for layer in layers} <= {"done", "exists"}

            stopped = aima.aima("service", "stop", SERVICE, "--wait")

            assert stopped.returncode == 0, stopped.stderr
            assert aima.record("port", "list") == []
            assert aima.instance(SERVICE)["state"] == "stopped"
        finally:
            aima.end()
            put_back(image)


def put_back(image: str) -> None:
    """Under its own name, as it was built: the tests that follow need it."""
    with closing(docker.from_env()) as engine:
        engine.images.get(image).tag(IMAGE)
        engine.images.remove(image)


def pulled_layers(aima: Aima) -> list[dict]:
    start = next(one for one in aima.record("operation", "list") if one["kind"] == "start")
    return start["progress"]["layers"]
