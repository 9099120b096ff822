"""The container spec of each engine in the catalog, and the limits of what user input can change in it."""

from __future__ import annotations

import pytest
from lab.commands import a_start_of, granted_to

from aima_api.catalog.loader import load_catalog
from aima_core.domain.ids import ServiceId
from aima_core.domain.operations import StartService
from aima_core.errors import NoNativeSection
from aima_worker.directories import DirectoryIdentity
from aima_worker.operations.container_spec import Granted, container_spec, rendered_arguments
from aima_worker.operations.model_paths import ModelDirectory

ENGINES = load_catalog().engines


def a_spec(host, command, **more):
    directory = ModelDirectory("/srv/models/some", DirectoryIdentity(2049, 7))
    facts = {"image": command.engine.image, "directory": directory, "port": 18500}
    return container_spec(host, command, **{**facts, "granted": granted_to(command), **more})


@pytest.mark.redis
@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_every_engine_of_the_catalog_gets_the_container_its_entry_describes(desk, engine, snapshot):
    command = StartService(service=ServiceId(f"svc-{engine.type}-some"), engine=engine)

    spec = a_spec(desk.host, command)

    assert spec.model_dump(mode="json", exclude={"labels"}, exclude_defaults=True) == snapshot


@pytest.mark.parametrize(
    ("names", "given", "arguments"),
    [
        (
            "--served-model-name {names}",
            ("glm-4.7-flash", "svc-vllm-mine"),
            "--served-model-name glm-4.7-flash svc-vllm-mine",
        ),
        ("--alias {name}", ("glm-4.7-flash",), "--alias glm-4.7-flash"),
        ("--alias={name} --quiet", ("glm-4.7-flash",), "--alias=glm-4.7-flash --quiet"),
        (None, (), ""),
    ],
)
def test_an_engine_is_given_the_names_of_its_model_and_service_as_its_entry_says(names, given, arguments):
    [model] = (model for model in load_catalog().models if model.name == "GLM-4.7-Flash")
    command = a_start_of("svc-vllm-mine", names=names).model_copy(update={"model": model})

    assert (command.model_id, command.names) == ("glm-4.7-flash", given)
    assert " ".join(command.names_arguments) == arguments


def test_a_model_is_asked_for_those_apis_of_its_engine_that_its_type_has():
    models = {model.type: model for model in load_catalog().models}
    command = a_start_of(serves=["chat", "embeddings", "transcriptions"])

    served = {type: command.model_copy(update={"model": model}).serves for type, model in models.items()}

    assert served == {
        "llm": ("chat",),
        "vision": ("chat",),
        "embedding": ("embeddings",),
        "asr": ("transcriptions",),
        "tts": (),
        "test": command.engine.serves,
    }
    assert command.serves == command.engine.serves


def test_how_gateways_address_an_engine_does_not_count_towards_what_it_runs():
    addressed = a_start_of(serves=["chat"], names="--alias {name}")

    assert addressed.digest == a_start_of().digest
    assert addressed.digest != a_start_of(arguments={"threads": 2}).digest


@pytest.mark.redis
def test_the_labels_are_enough_to_run_the_container_again(desk):
    command = a_start_of(arguments={"threads": 2})

    labels = a_spec(desk.host, command).labels

    assert labels["aima.command"] == command.model_dump_json()
    assert labels["aima.port"] == "18500"
    assert labels["aima.installation"] == "test"
    assert labels["aima.host"] == "alpha"


@pytest.mark.redis
def test_the_labels_carry_the_signed_order_and_the_gpus(desk):
    granted = granted_to(a_start_of(), gpus=("GPU-1", "GPU-3"))

    spec = a_spec(desk.host, a_start_of(), granted=granted)

    assert spec.gpus == ("GPU-1", "GPU-3")
    assert Granted.from_labels(spec.labels) == granted


@pytest.mark.redis
def test_a_repeated_start_requests_an_identical_container(desk):
    assert a_spec(desk.host, a_start_of()).spec_hash == a_spec(desk.host, a_start_of()).spec_hash


@pytest.mark.redis
def test_an_engine_without_a_native_section_is_not_run_natively(desk):
    object.__setattr__(desk.host, "native", True)

    with pytest.raises(NoNativeSection):
        a_spec(desk.host, a_start_of())


def test_arguments_are_rendered_as_options():
    rendered = rendered_arguments(
        {"max-len": 8192, "share": 0.9, "trust": True, "quiet": False, "name": "a b; rm -rf /"}
    )

    assert rendered == ("--max-len", "8192", "--share", "0.9", "--trust", "--name", "a b; rm -rf /")


@pytest.mark.redis
def test_a_native_command_gets_its_address_and_its_model_path(desk):
    native = {"command": ["serve", "{model}", "--host", "{address}", "--port", "{port}"], "install": "get serve"}
    object.__setattr__(desk.host, "native", True)

    spec = a_spec(desk.host, a_start_of(native=native))

    assert spec.command == ("serve", "/srv/models/some", "--host", "127.0.0.1", "--port", "18500")
    assert spec.install == "get serve"
