"""Engine selection: the engine of a service, and its arguments."""

from __future__ import annotations

from pathlib import Path

import pytest
from api.catalog.entries import ENGINE, MODEL, a_catalog, write

from aima_api.catalog.loader import load_catalog
from aima_api.catalog.selection import Catalog, with_arguments
from aima_core.domain.catalog import Engine
from aima_core.domain.ids import ServiceId
from aima_core.errors import (
    AimaError,
    EngineDoesNotServe,
    InvalidRequest,
    UnknownArgument,
    UnknownEngine,
    UnknownModel,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return a_catalog(tmp_path)


@pytest.fixture
def catalog(root: Path) -> Catalog:
    return load_catalog(root)


@pytest.fixture
def parrot(catalog: Catalog) -> Engine:
    return catalog.engine("parrot-cpu")


def a_second_parrot(root: Path) -> Catalog:
    write(root / "engines/parrot/parrot-gpu.yaml", ENGINE.replace("parrot-cpu", "parrot-gpu"))
    return load_catalog(root)


def test_a_model_is_found_by_its_name_and_by_its_id(catalog: Catalog) -> None:
    assert catalog.model("Polly-1.5") is catalog.model("polly-1.5")


@pytest.mark.parametrize("wrong", ["parot-cpu", "PARROT-CPU"])
def test_an_unknown_engine_is_refused_with_the_closest_names(catalog: Catalog, wrong: str) -> None:
    with pytest.raises(UnknownEngine) as unknown:
        catalog.engine(wrong)

    assert "Nearest: parrot-cpu" in unknown.value.failure.hint


def test_an_unknown_model_is_refused_with_the_closest_names(catalog: Catalog) -> None:
    with pytest.raises(UnknownModel) as unknown:
        catalog.model("poly-1.5")

    assert "nearest: Polly-1.5" in unknown.value.failure.hint


def test_the_first_engine_of_the_model_with_the_type_of_the_service_is_chosen(root: Path) -> None:
    write(root / "models/tts/Polly-1.5.yaml", MODEL.replace("[parrot-cpu]", "[qwen-tts-cpu, parrot-gpu, parrot-cpu]"))

    catalog = a_second_parrot(root)

    assert catalog.engine_for(ServiceId("svc-parrot-polly-1.5")).name == "parrot-gpu"
    assert catalog.engine_for(ServiceId("svc-tts-polly-1.5")).name == "qwen-tts-cpu"


def test_an_explicit_model_overrides_the_model_of_the_id(root: Path) -> None:
    catalog = a_second_parrot(root)

    assert catalog.engine_for(ServiceId("svc-parrot-my-bird"), model="Polly-1.5").name == "parrot-cpu"


def test_an_explicit_engine_is_used_even_if_the_model_does_not_list_it(root: Path) -> None:
    catalog = a_second_parrot(root)

    assert catalog.engine_for(ServiceId("svc-parrot-polly-1.5"), "parrot-gpu").name == "parrot-gpu"


def test_the_arguments_of_a_model_replace_those_of_its_engine_and_no_others(root: Path) -> None:
    write(root / "models/tts/Polly-1.5.yaml", f"{MODEL}arguments: {{words: 7, feathers: true}}\n")
    catalog = load_catalog(root)

    of_the_model = catalog.engine_for(ServiceId("svc-parrot-polly-1.5")).arguments
    of_another = catalog.engine_for(ServiceId("svc-parrot-my-own-bird")).arguments

    assert of_the_model == {"words": 7, "volume": 0.5, "voice": "grey", "repeat": True}
    assert of_another["words"] == 20


def test_an_engine_of_another_type_than_the_service_is_refused_with_a_valid_id(catalog: Catalog) -> None:
    failure = the_refusal(catalog, "svc-parrot-polly-1.5", "qwen-tts-cpu", as_a=EngineDoesNotServe)

    assert "`svc-tts-polly-1.5`" in failure.failure.hint


def test_a_type_that_does_not_serve_the_model_is_refused_with_one_that_does(catalog: Catalog) -> None:
    failure = the_refusal(catalog, "svc-vllm-polly-1.5", as_a=EngineDoesNotServe)

    assert "`svc-parrot-polly-1.5`" in failure.failure.hint


def test_an_unknown_model_is_served_by_the_only_engine_of_the_type(catalog: Catalog) -> None:
    assert catalog.engine_for(ServiceId("svc-parrot-my-own-bird")).name == "parrot-cpu"


def test_an_unknown_model_is_refused_where_several_engines_could_serve_it(root: Path) -> None:
    catalog = a_second_parrot(root)

    failure = the_refusal(catalog, "svc-parrot-my-own-bird", as_a=EngineDoesNotServe)

    assert "`--engine`: parrot-cpu, parrot-gpu" in failure.failure.hint


def test_an_unknown_type_is_refused_with_the_closest_names(catalog: Catalog) -> None:
    failure = the_refusal(catalog, "svc-parot-my-own-bird", as_a=UnknownEngine)

    assert "parrot" in failure.failure.hint


def the_refusal(catalog: Catalog, service: str, engine: str | None = None, *, as_a: type[AimaError]) -> AimaError:
    with pytest.raises(as_a) as refused:
        catalog.engine_for(ServiceId(service), engine)
    return refused.value


# Arguments --------------------------------------------------------------------------------------------------------


def test_each_argument_is_parsed_as_the_type_of_its_default(parrot: Engine) -> None:
    changed = with_arguments(parrot, {"words": "30", "volume": "1", "voice": "30", "repeat": "false"})

    assert changed.arguments == {"words": 30, "volume": 1.0, "voice": "30", "repeat": False}
    assert {name: type(value) for name, value in changed.arguments.items()} == {
        name: type(value) for name, value in parrot.arguments.items()
    }


def test_values_that_already_have_their_type_are_accepted(parrot: Engine) -> None:
    changed = with_arguments(parrot, {"words": 30, "volume": 0.25, "repeat": False})

    assert changed.arguments == {"words": 30, "volume": 0.25, "voice": "grey", "repeat": False}


def test_the_engine_of_the_catalog_keeps_its_defaults(catalog: Catalog, parrot: Engine) -> None:
    with_arguments(parrot, {"words": "30"})

    assert catalog.engine("parrot-cpu").arguments["words"] == 20


def test_only_arguments_that_the_engine_declares_can_be_set(parrot: Engine) -> None:
    with pytest.raises(UnknownArgument) as refused:
        with_arguments(parrot, {"command": "sh"})

    assert "words, volume, voice, repeat" in refused.value.failure.hint


@pytest.mark.parametrize(
    ("argument", "text", "example"),
    [
        ("words", "many", "words=20"),
        ("words", "1.5", "words=20"),
        ("words", "٣", "words=20"),
        ("words", "9" * 5000, "words=20"),
        ("words", "true", "words=20"),
        ("volume", "nan", "volume=0.5"),
        ("volume", "loud", "volume=0.5"),
        ("repeat", "1", "repeat=true"),
        ("voice", "--trust-remote-code", "voice=value"),
        ("voice", "a\0b", "voice=value"),
    ],
)
def test_an_argument_of_the_wrong_type_is_refused_with_an_example(
    parrot: Engine, argument: str, text: str, example: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        with_arguments(parrot, {argument: text})

    assert argument in refused.value.failure.message
    assert example in refused.value.failure.hint
