"""Overlays: the operator's directory adds entries to the shipped catalog, and replaces entries of the same name."""

from __future__ import annotations

from pathlib import Path

import pytest
from api.catalog.entries import ENGINE, MODEL, a_catalog, an_engine, write

from aima_api.catalog.loader import load_catalog
from aima_core.errors import CatalogMistake


def test_an_overlay_adds_its_entries_to_the_shipped_ones(tmp_path: Path) -> None:
    shipped = load_catalog()

    catalog = load_catalog(a_catalog(tmp_path))

    assert {engine.name for engine in catalog.engines} == {"parrot-cpu"} | {engine.name for engine in shipped.engines}
    assert catalog.model("Polly-1.5").engines == ("parrot-cpu",)
    assert "perch" in [profile.name for profile in catalog.profiles]


def test_entries_are_sorted_by_name(tmp_path: Path) -> None:
    names = [engine.name for engine in load_catalog(a_catalog(tmp_path)).engines]

    assert names == sorted(names)


def test_the_last_of_two_overlays_replaces_the_whole_entry(tmp_path: Path) -> None:
    first, second = a_catalog(tmp_path / "first"), tmp_path / "second"
    an_engine(second, ENGINE.replace("parrot:1.0", "parrot:2.0").replace("  words: 20\n", ""))

    engine = load_catalog(first, second).engine("parrot-cpu")

    assert engine.image == "example.org/parrot:2.0"
    assert "words" not in engine.arguments


def test_a_shipped_entry_can_be_replaced(tmp_path: Path) -> None:
    write(
        tmp_path / "models/llm/GLM-4.7-Flash.yaml",
        "name: GLM-4.7-Flash\ntype: llm\nsize: 61GB\nengines: [qwen-tts-cpu]\n",
    )

    assert load_catalog(tmp_path).model("glm-4.7-flash").size == 61 * 10**9


def test_a_replaced_entry_makes_no_mistake_of_the_shipped_files_that_name_it(tmp_path: Path) -> None:
    write(tmp_path / "models/tts/Qwen3-TTS-0.6B.yaml", MODEL.replace("Polly-1.5", "Qwen3-TTS-0.6B"))
    an_engine(tmp_path)

    assert load_catalog(tmp_path).model("Qwen3-TTS-0.6B").engines == ("parrot-cpu",)


def test_a_model_of_an_overlay_can_name_a_shipped_engine(tmp_path: Path) -> None:
    write(tmp_path / "models/tts/Polly-1.5.yaml", MODEL.replace("parrot-cpu", "qwen-tts-cpu"))

    assert load_catalog(tmp_path).model("Polly-1.5").engines == ("qwen-tts-cpu",)


def test_loading_refuses_a_catalog_with_mistakes_and_lists_all_of_them(tmp_path: Path) -> None:
    a_catalog(tmp_path)
    engine = an_engine(tmp_path, ENGINE.replace("port: 8000", "prt: 8000"))
    model = write(tmp_path / "models/tts/Polly-1.5.yaml", MODEL.replace("1GB", "much"))

    with pytest.raises(CatalogMistake) as refused:
        load_catalog(tmp_path)

    assert refused.value.facts["count"] == 3
    for place in (f"{engine}:10:1: prt", f"{engine}:1:1: port", f"{model}:3:7: size"):
        assert place in refused.value.failure.message


def test_a_missing_overlay_is_reported_rather_than_ignored(tmp_path: Path) -> None:
    with pytest.raises(CatalogMistake, match="is not a catalog"):
        load_catalog(tmp_path / "nowhere")


def test_files_that_are_not_entries_are_ignored(tmp_path: Path) -> None:
    a_catalog(tmp_path)
    write(tmp_path / "README.md", "# Mine")
    write(tmp_path / ".git/config.yaml", "[")
    write(tmp_path / "engines/parrot/.parrot-cpu.yaml", "half written")

    assert load_catalog(tmp_path).engine("parrot-cpu").port == 8000
