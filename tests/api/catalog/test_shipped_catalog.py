"""The shipped catalog has the engines, models and profile of design.md with exactly its facts, and no mistake."""

from __future__ import annotations

import re
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from lab.running import ROOT

from aima_api.catalog.loader import SHIPPED, find_mistakes, load_catalog
from aima_api.catalog.selection import Catalog
from aima_core.domain.catalog import Engine

GB = 10**9


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


def test_the_shipped_catalog_has_no_mistakes() -> None:
    assert find_mistakes(SHIPPED) == []


def test_every_engine_that_is_built_here_runs_on_a_read_only_file_system(catalog: Catalog) -> None:
    built = {engine.image: engine.filesystem for engine in catalog.engines if engine.image.startswith("aima/")}

    sources = (ROOT / "deploy/engines").glob("*/Dockerfile")
    assert built == {f"aima/{each.parent.name}:1": "read-only" for each in sources}


@pytest.mark.parametrize("name", ["llamacpp-server-cpu", "llamacpp-server-cuda", "llamacpp-server-gb10"])
def test_the_server_of_llama_cpp_loads_any_gguf_of_the_model_path_with_its_projector(
    catalog: Catalog, name: str, tmp_path: Path
) -> None:
    engine = catalog.engine(name)
    shell, option, script = engine.entrypoint
    script = script.replace("/models", str(tmp_path)).replace("/app/llama-server", "echo")
    command = [shell, option, script, *engine.command]

    nothing = subprocess.run(command, capture_output=True, text=True)
    for file in ("config.json", "mmproj-model.gguf", "model-00001-of-00002.gguf", "model-00002-of-00002.gguf"):
        (tmp_path / file).touch()
    found = subprocess.run(command, capture_output=True, text=True)
    for file in tmp_path.glob("*.gguf"):
        (tmp_path / "Q4_K_M").mkdir(exist_ok=True)
        file.rename(tmp_path / "Q4_K_M" / file.name)
    below = subprocess.run(command, capture_output=True, text=True)

    assert below.stdout == found.stdout.replace(f"{tmp_path}/m", f"{tmp_path}/Q4_K_M/m")
    assert (nothing.returncode, "no .gguf file" in nothing.stderr) == (1, True)
    files = f"--model {tmp_path}/model-00001-of-00002.gguf --mmproj {tmp_path}/mmproj-model.gguf"
    assert found.stdout == f"{files} {' '.join(engine.command[1:])}\n"


FIXED = {"vllm-0.14.0-cu131-gb10", "funasr-sensevoice-cpu", "qwen-tts-cpu"}
"""They keep the facts of the old program."""


def test_an_engine_says_whether_ci_runs_it_and_the_digest_of_its_image_or_that_it_is_unresolved() -> None:
    for file in (SHIPPED / "engines").rglob("*.yaml"):
        text = file.read_text()
        marks = re.findall(r"\b(Run|Not run) in CI", text)
        images = re.findall(r"^(?:image:|  -) (\S+[:@]\S+)( # digest: unresolved)?$", text, re.MULTILINE)

        assert marks == (["Run"] if "\nimage: aima/" in text else ["Not run"]), file
        assert images, file
        for image, unresolved in images:
            assert image.startswith("aima/") or ("@sha256:" in image) != bool(unresolved), file


def test_no_engine_but_a_fixed_one_trusts_code_beside_the_weights_unless_the_model_asks_for_it(
    catalog: Catalog,
) -> None:
    trusting = {engine.name for engine in catalog.engines if engine.arguments.get("trust-remote-code")}

    assert trusting == {"vllm-0.14.0-cu131-gb10"}


def test_there_is_an_engine_with_a_public_image_for_each_kind_of_ordinary_hardware(catalog: Catalog) -> None:
    own = {engine.name for engine in catalog.engines if engine.image.startswith("aima/")} | FIXED
    public = {(engine.type, engine.requires.accelerator) for engine in catalog.engines if engine.name not in own}

    assert public >= {
        *(("vllm", gpu) for gpu in ("cuda", "gb10")),
        *(("llamacpp", where) for where in ("cpu", "cuda", "gb10")),
        *(("ollama", where) for where in ("cpu", "cuda")),
        ("embeddings", "cpu"),
        ("asr", "cpu"),
    }


def test_vllm_on_the_gb10_has_the_facts_of_the_old_program(catalog: Catalog) -> None:
    engine = catalog.engine("vllm-0.14.0-cu131-gb10")

    assert engine.type == "vllm"
    assert engine.images == ("zhiwen-vllm:0128", "docker.1ms.run/scitrera/dgx-spark-vllm:0.14.0-t5")
    assert engine.image_size == 25 * GB
    assert engine.command == ("vllm", "serve", "/models")
    assert engine.arguments == {"gpu-memory-utilization": 0.9, "max-model-len": 8192, "trust-remote-code": True}
    assert engine.environment == {"VLLM_ATTENTION_BACKEND": "FLASHINFER"}
    assert (engine.port, engine.model_mount) == (8000, "/models")
    assert engine.requires.platforms == ("linux/arm64",)
    assert (engine.requires.accelerator, engine.requires.gpus, engine.requires.gpu_memory) == ("gb10", 1, 16 * GB)
    assert (engine.requires.cores, engine.requires.memory) == (8, 32 * GB)


def test_vllm_on_the_gb10_may_load_a_75_gb_model_while_its_log_advances(catalog: Catalog) -> None:
    check = catalog.engine("vllm-0.14.0-cu131-gb10").health_check

    assert (check.path, check.timeout) == ("/health", timedelta(minutes=5))
    assert check.at_most is not None
    assert check.at_most > timedelta(minutes=7)


def test_speech_recognition_on_the_cpu_has_the_facts_of_the_old_program(catalog: Catalog) -> None:
    engine = catalog.engine("funasr-sensevoice-cpu")

    assert engine.type == "asr"
    assert engine.images == ("qujing-glm-asr-nano:latest",)
    assert engine.image_size == 2.2 * GB
    assert engine.command == ("uvicorn", "main:app", "--host", "0.0.0.0")
    assert engine.port == 8000
    assert_is_light_and_runs_on_any_cpu(engine)


def test_speech_synthesis_on_the_cpu_has_the_facts_of_the_old_program(catalog: Catalog) -> None:
    engine = catalog.engine("qwen-tts-cpu")

    assert engine.type == "tts"
    assert engine.images == ("qujing-qwen3-tts-real:latest",)
    assert engine.image_size == 2 * GB
    assert engine.command == ("uvicorn", "main:app", "--host", "0.0.0.0", "--port", "8002")
    assert engine.port == 8002
    assert_is_light_and_runs_on_any_cpu(engine)


@pytest.mark.parametrize(
    ("name", "kind", "size", "engine"),
    [
        ("GLM-4.7-Flash", "llm", 60 * GB, "vllm-0.14.0-cu131-gb10"),
        ("SenseVoiceSmall", "asr", 1.8 * GB, "funasr-sensevoice-cpu"),
        ("Qwen3-TTS-0.6B", "tts", 1.8 * GB, "qwen-tts-cpu"),
    ],
)
def test_each_model_names_the_engine_that_serves_it(
    catalog: Catalog, name: str, kind: str, size: float, engine: str
) -> None:
    model = catalog.model(name)

    assert (model.type, model.size, model.engines) == (kind, size, (engine,))
    assert model.path == name


def test_the_gb10_profile_recommends_the_three_services_that_run_side_by_side(catalog: Catalog) -> None:
    [profile] = [profile for profile in catalog.profiles if profile.name == "nvidia-gb10"]

    assert (profile.arch, profile.accelerator, profile.cores) == ("arm64", "gb10", 20)
    assert (profile.memory, profile.unified_memory) == (128 * GB, True)
    assert [(pick.engine, pick.model) for pick in profile.recommends] == [
        ("vllm-0.14.0-cu131-gb10", "GLM-4.7-Flash"),
        ("funasr-sensevoice-cpu", "SenseVoiceSmall"),
        ("qwen-tts-cpu", "Qwen3-TTS-0.6B"),
    ]


def assert_is_light_and_runs_on_any_cpu(engine: Engine) -> None:
    assert engine.arguments == {}
    assert engine.environment == {}
    assert engine.model_mount == "/model"
    assert (engine.health_check.path, engine.health_check.timeout) == ("/health", timedelta(seconds=60))
    assert set(engine.requires.platforms) == {"linux/arm64", "linux/amd64"}
    assert (engine.requires.accelerator, engine.requires.gpus) == ("cpu", None)
    assert (engine.requires.cores, engine.requires.memory) == (2, 4 * GB)


def test_a_model_without_a_size_is_marked_and_says_where_hosts_fetch_it(catalog: Catalog) -> None:
    for model in catalog.models:
        file = SHIPPED / f"models/{model.type}/{model.name}.yaml"

        assert ("size: unresolved" in file.read_text()) == (model.size == 0), file
        assert model.size or model.source, file


def test_there_are_models_for_ordinary_engines_and_one_in_four_bits_for_llama_cpp(catalog: Catalog) -> None:
    fetched = {model.name: catalog.engine(model.engines[0]).type for model in catalog.models if model.source}

    assert len(fetched) >= 12
    assert {*fetched.values()} >= {"vllm", "llamacpp", "embeddings"}
    for name in (name for name, kind in fetched.items() if kind == "llamacpp"):
        assert [pattern.endswith("Q4_K_M.gguf") for pattern in catalog.model(name).files] == [True]


def test_a_gated_model_names_the_secret_with_its_token(catalog: Catalog) -> None:
    gated = {model.name for model in catalog.models if model.token}

    assert gated == {"Llama-3.1-8B-Instruct", "gemma-3-12b-it"}
