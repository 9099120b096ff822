"""`aima model add` writes an entry of the overlay from the files of a repository, and guesses or overwrites nothing."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from api.cli.outcome import Aima, Outcome
from lab.model_origin import COMMIT, ModelOrigin

from aima_api.catalog.loader import load_catalog
from aima_api.cli.main import run
from aima_api.models.resolution import resolve
from aima_core import errors
from aima_core.domain.models import Source

BIG = b"x" * 150_000
CONFIG = json.dumps({"max_position_embeddings": 40_960}).encode()
TENSORS = {
    "config.json": CONFIG,
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"",
    "model.safetensors.index.json": b"{}",
    "model-00001-of-00002.safetensors": BIG,
    "model-00002-of-00002.safetensors": b"y" * 120_000,
    "README.md": b"# Tiny",
    "original/consolidated.00.pth": b"z" * 500_000,
    "original/model.safetensors": b"z" * 400_000,
}
QUANTISED = {
    "README.md": b"",
    "Tiny-Q4_K_M.gguf": BIG,
    "Tiny-Q8_0.gguf": b"y" * 200_000,
    "Tiny-BF16/Tiny-BF16-00001-of-00002.gguf": b"z" * 300_000,
    "Tiny-BF16/Tiny-BF16-00002-of-00002.gguf": b"z" * 300_000,
    "imatrix.gguf": b"i",
}


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    return tmp_path / "catalog"


@pytest.fixture
def aima(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Aima:
    """Runs a command line without an API node."""
    monkeypatch.setenv("AIMA_CONFIG", os.devnull)

    def aima(*words: str) -> Outcome:
        code = run(words)
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return aima


@pytest.fixture
def add(aima: Aima, origin: ModelOrigin, overlay: Path):
    def add(*words: str, repository: str = "maker/Tiny"):
        return aima("model", "add", f"hf:{repository}", "--to", str(overlay), *words)

    return add


def written(overlay: Path, file: str = "models/llm/Tiny.yaml") -> dict[str, Any]:
    entry: dict[str, Any] = yaml.safe_load((overlay / file).read_text())
    return entry


def refusal(outcome) -> tuple[int, str]:
    return outcome.code, outcome.err


def test_safetensors_are_chosen_for_vllm_with_size_licence_and_context(add, origin, overlay):
    origin.publish("maker/Tiny", TENSORS, task="text-generation", licence="apache-2.0")

    outcome = add()

    small = sum(len(TENSORS[path]) for path in ("config.json", "tokenizer.json", "model.safetensors.index.json"))
    assert outcome.code == 0, outcome.err
    assert written(overlay) == {
        "name": "Tiny",
        "type": "llm",
        "size": f"{270_000 + small}B",
        "source": "hf:maker/Tiny@main",
        "files": ["model-*.safetensors", "*.json", "*.jinja"],
        "licence": "apache-2.0",
        "engines": ["vllm-nvidia-gb10", "vllm-openai-cuda"],
    }
    assert "Its context is 40960 tokens." in (overlay / "models/llm/Tiny.yaml").read_text()
    assert f"Wrote {overlay}/models/llm/Tiny.yaml:" in outcome.out
    assert "  source: hf:maker/Tiny@main" in outcome.out
    assert "aima model pull Tiny --host H" in outcome.out and "aima service start svc-vllm-tiny" in outcome.out


def test_what_is_written_is_a_valid_entry_with_the_same_size_as_its_resolution(add, origin, overlay, monkeypatch):
    origin.publish("maker/Tiny", TENSORS)
    add()

    model = load_catalog(overlay).model("tiny")
    manifest = resolve(model, Source.parse(model.source or ""))

    assert manifest.size == model.size
    assert not any(file.path.startswith("original/") and file.size > 1000 for file in manifest.files)


def test_four_bits_are_chosen_of_several_quantisations(add, origin, overlay):
    origin.publish("maker/Tiny", QUANTISED)

    assert add().code == 0

    entry = written(overlay)
    assert (entry["files"], entry["size"]) == (["Tiny-Q4_K_M.gguf"], "150000B")
    assert entry["engines"] == ["llamacpp-server-cpu", "llamacpp-server-cuda", "llamacpp-server-gb10"]


def test_the_projector_of_a_vision_model_in_sixteen_bits_goes_with_it(add, origin, overlay):
    projectors = {"mmproj-BF16.gguf": b"b" * 9, "mmproj-F16.gguf": b"f" * 9, "mmproj-F32.gguf": b"g" * 18}
    origin.publish("maker/Tiny", QUANTISED | projectors, task="image-text-to-text")

    add()

    assert written(overlay, "models/vision/Tiny.yaml")["files"] == ["Tiny-Q4_K_M.gguf", "mmproj-F16.gguf"]


def test_where_no_set_of_weights_is_the_usual_one_all_are_listed_with_their_sizes(add, origin, overlay):
    origin.publish("maker/Tiny", {path: content for path, content in QUANTISED.items() if "Q4" not in path})

    code, said = refusal(add())

    assert code == errors.AmbiguousFiles.exit_code
    assert "Tiny-Q8_0.gguf (200 kB)" in said
    assert "Tiny-BF16/Tiny-BF16-*.gguf (600 kB)" in said
    assert "--files" in said
    assert not overlay.exists()


def test_files_that_a_person_names_are_taken(add, origin, overlay):
    origin.publish("maker/Tiny", QUANTISED)

    assert add("--files", "*Q8_0*", "--files", "README.md").code == 0

    assert written(overlay)["files"] == ["*Q8_0*", "README.md"]
    assert written(overlay)["size"] == "200000B"


def test_patterns_that_choose_nothing_are_refused(add, origin, overlay):
    origin.publish("maker/Tiny", QUANTISED)

    assert add("--files", "*.safetensors").code == errors.SourceUnusable.exit_code
    assert not overlay.exists()


def test_a_second_set_of_tensors_beside_the_usual_one_is_left_out(add, origin, overlay):
    origin.publish("maker/Tiny", {**TENSORS, "consolidated.safetensors": b"c" * 270_000})

    add()

    assert written(overlay)["files"][0] == "model-*.safetensors"


def test_a_gated_repository_names_the_secret_and_what_to_do(add, origin, overlay):
    origin.publish("maker/Tiny", TENSORS, gated_for="hf_secret", licence="llama3.1")

    outcome = add()

    assert written(overlay)["token"] == "huggingface"
    assert f"accept its terms at {origin.url}/maker/Tiny" in outcome.out
    assert "context" not in outcome.out  # config.json takes the token


def test_a_context_below_the_engines_default_becomes_its_argument(add, origin, overlay):
    origin.publish("maker/Tiny", {**TENSORS, "config.json": b'{"text_config": {"max_position_embeddings": 2048}}'})

    add()

    assert written(overlay)["arguments"] == {"max-model-len": 2048}


@pytest.mark.parametrize("config", [b"{", b"[]", b'{"max_position_embeddings": "many"}', b"[" * 100_000])
def test_a_configuration_that_says_no_context_is_no_obstacle(add, origin, overlay, config):
    origin.publish("maker/Tiny", {**TENSORS, "config.json": config})

    assert add().code == 0
    assert "context" not in (overlay / "models/llm/Tiny.yaml").read_text()


def test_embeddings_go_to_an_engine_of_embeddings_first(add, origin, overlay):
    origin.publish("maker/Tiny", TENSORS, task="sentence-similarity")

    add()

    assert written(overlay, "models/embedding/Tiny.yaml")["engines"][0] == "tei-cpu"


def test_the_engine_can_be_named_by_name_or_type(add, origin, overlay):
    origin.publish("maker/Tiny", {**TENSORS, **QUANTISED})

    assert add("--engine", "llamacpp", "--name", "Tiny-GGUF").code == 0
    assert add("--engine", "vllm-0.14.0-cu131-gb10").code == 0

    assert written(overlay, "models/llm/Tiny-GGUF.yaml")["files"] == ["Tiny-Q4_K_M.gguf"]
    assert written(overlay)["engines"] == ["vllm-0.14.0-cu131-gb10"]


@pytest.mark.parametrize(
    ("engine", "error"),
    [("vlm", errors.UnknownEngine), ("piper-cpu", errors.EngineDoesNotServe)],
)
def test_an_engine_that_cannot_serve_it_is_refused(add, origin, engine, error):
    origin.publish("maker/Tiny", TENSORS)

    assert add("--engine", engine).code == error.exit_code


def test_a_task_without_an_engine_asks_for_one(add, origin):
    origin.publish("maker/Tiny", TENSORS, task="text-to-speech")

    code, said = refusal(add())

    assert (code, "--engine" in said) == (errors.InvalidRequest.exit_code, True)


def test_nothing_is_overwritten(add, origin, overlay):
    origin.publish("maker/Tiny", TENSORS)
    origin.publish("maker/GLM-4.7-Flash", TENSORS)
    add()
    before = (overlay / "models/llm/Tiny.yaml").read_text()
    origin.publish("other/tiny", QUANTISED)

    again, other_case = add(), add(repository="other/tiny")
    shipped = add(repository="maker/GLM-4.7-Flash")

    assert {again.code, other_case.code, shipped.code} == {errors.ModelExists.exit_code}
    assert (overlay / "models/llm/Tiny.yaml").read_text() == before
    assert [path.name for path in (overlay / "models/llm").iterdir()] == ["Tiny.yaml"]


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("hf:maker/none", errors.SourceUnknown),
        ("hf:maker/Tiny@v9", errors.SourceUnknown),
        ("hf:only-a-name", errors.InvalidRequest),
        ("https://example.org/a.gguf#sha256=" + "a" * 64, errors.InvalidRequest),
    ],
)
def test_a_source_that_is_none_is_refused(aima, origin, overlay, source, error):
    origin.publish("maker/Tiny", TENSORS)

    assert aima("model", "add", source, "--to", str(overlay)).code == error.exit_code
    assert not overlay.exists()


def test_without_an_overlay_the_setting_is_named(aima, origin):
    outcome = aima("model", "add", "hf:maker/Tiny")

    assert (outcome.code, "api.catalog" in outcome.err) == (errors.InvalidRequest.exit_code, True)


def test_a_commit_is_kept_and_modelscope_is_looked_at(aima, origin, overlay):
    origin.publish("maker/Tiny", TENSORS)

    pinned = aima("model", "add", f"modelscope:maker/Tiny@{COMMIT}", "--to", str(overlay))

    assert pinned.code == 0, pinned.err
    assert written(overlay)["source"] == f"modelscope:maker/Tiny@{COMMIT}"
    assert "Its context is 40960 tokens." in pinned.out


@pytest.mark.parametrize("path", ["../../etc/x.gguf", "a b.gguf", "x\n- y.gguf", "[a].gguf"])
def test_a_hostile_path_gets_into_no_entry(add, origin, overlay, path):
    origin.publish("maker/Tiny", {path: BIG})

    outcome = add()

    if outcome.code == 0:
        assert load_catalog(overlay).model("tiny").files
    else:
        assert outcome.code == errors.SourceUnusable.exit_code
        assert not overlay.exists()


# A directory of one host ----------------------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    root = tmp_path / "models/Tiny"
    for path, content in {**TENSORS, ".cache/refs": b"x"}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def test_a_directory_becomes_an_entry_with_the_digest_of_every_chosen_file(aima, overlay, directory):
    outcome = aima("model", "add", f"file:{directory}/", "--host", "spark-01", "--to", str(overlay))

    assert outcome.code == 0, outcome.err
    model = load_catalog(overlay).model("tiny")
    assert model.source == f"file:{directory}@spark-01"
    assert {path: (each.size, each.sha256) for path, each in model.contents.items()} == {
        path: (len(content), hashlib.sha256(content).hexdigest())
        for path, content in TENSORS.items()
        if "/" not in path and not path.endswith(".md")
    }
    assert model.manifest is not None and model.manifest.size == model.size
    assert "Its context is 40960 tokens." in outcome.out


def test_patterns_choose_the_files_of_a_directory_for_the_named_engine(aima, overlay, directory):
    words = ("--to", str(overlay), "--files", "*.pth", "--engine", "llamacpp", "--name", "Old")

    outcome = aima("model", "add", f"file:{directory}@spark-01", *words)

    assert outcome.code == 0, outcome.err
    assert list(load_catalog(overlay).model("old").contents) == ["original/consolidated.00.pth"]


@pytest.mark.parametrize("link", ["config.json", "original"])
def test_a_symbolic_link_in_a_directory_is_refused_with_the_remedy(aima, overlay, directory, link):
    (directory / link).rename(directory.parent / "moved")
    (directory / link).symlink_to(directory.parent / "moved")

    outcome = aima("model", "add", f"file:{directory}", "--host", "spark-01", "--to", str(overlay))

    assert outcome.code == errors.SourceUnusable.exit_code
    assert f"{link} is a symbolic link" in outcome.err and "cp -rL" in outcome.err
    assert not overlay.exists()


def test_a_directory_that_is_not_here_is_refused(aima, overlay, tmp_path):
    outcome = aima("model", "add", f"file:{tmp_path}/none", "--host", "spark-01", "--to", str(overlay))

    assert (outcome.code, "Run this on spark-01" in outcome.err) == (errors.SourceUnusable.exit_code, True)


def test_a_directory_without_its_host_is_refused_with_the_option(aima, overlay, directory):
    outcome = aima("model", "add", f"file:{directory}", "--to", str(overlay))

    assert (outcome.code, "--host H" in outcome.err) == (errors.InvalidRequest.exit_code, True)


def test_a_host_is_for_directories_only(aima, overlay):
    assert aima("model", "add", "hf:maker/Tiny", "--host", "spark-01", "--to", str(overlay)).code == 2
