"""Engine selection: the loaded catalog, and the engine and arguments with which a service is served."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from aima_api.catalog.diagnostics import nearest
from aima_core.domain.catalog import Engine, Model, Profile
from aima_core.domain.fields import PullPolicy, Scalar
from aima_core.domain.ids import ServiceId
from aima_core.errors import (
    EngineDoesNotServe,
    InvalidRequest,
    UnknownArgument,
    UnknownEngine,
    UnknownModel,
    UnknownProfile,
)

_NUMBERS = {
    int: ("a whole number", re.compile(r"-?[0-9]{1,18}")),
    float: ("a number", re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,18})?")),
}


@dataclass(frozen=True)
class Catalog:
    """Every entry, each kind in the order of names; no two of a kind have the same name."""

    engines: tuple[Engine, ...]
    models: tuple[Model, ...]
    profiles: tuple[Profile, ...]

    def engine(self, name: str) -> Engine:
        for engine in self.engines:
            if engine.name == name:
                return engine
        raise UnknownEngine(engine=name, nearest=_nearest(name, [engine.name for engine in self.engines]))

    def model(self, name_or_id: str, *, service: ServiceId | None = None) -> Model:
        """With the `service` whose id names it, the error suggests ids of services. Raises UnknownModel."""
        if found := self._model(name_or_id):
            return found
        names = [model.name for model in self.models]
        near = self.nearest_services(service) if service else ""
        raise UnknownModel(model=name_or_id, nearest=near or _nearest(name_or_id, names))

    def profile(self, name: str) -> Profile:
        if found := next((profile for profile in self.profiles if profile.name == name), None):
            return found
        raise UnknownProfile(profile=name, nearest=_nearest(name, [profile.name for profile in self.profiles]))

    def services_of(self, model: Model) -> dict[ServiceId, Engine]:
        """The ids that start it without a further option, each with the engine that it selects; best first."""
        services: dict[ServiceId, Engine] = {}
        for engine in map(self.engine, model.engines):
            services.setdefault(ServiceId.of(engine.type, model.id), engine)
        return services

    def nearest_services(self, service: ServiceId) -> str:
        """Ids that start a model and are spelled alike, best first; empty if there is none."""
        return ", ".join(nearest(service, [id for model in self.models for id in self.services_of(model)], 3))

    def engine_for(self, service: ServiceId, engine: str | None = None, *, model: str | None = None) -> Engine:
        """The requested engine, else the first of the service's type that the model's entry lists.

        A model that is not in the catalog is served by the only engine of the type. The model's own arguments replace
        the engine's defaults. Raises UnknownEngine, or EngineDoesNotServe with the alternatives.
        """
        known = self._model(model or service.model)
        if engine is not None:
            chosen = self._of_the_type(self.engine(engine), service)
        else:
            chosen = self._best(service, known) if known else self._only(service)
        return _with_those_of(known, chosen) if known else chosen

    def _model(self, name_or_id: str) -> Model | None:
        same_name = (model for model in self.models if model.name == name_or_id)
        same_id = (model for model in self.models if model.id == name_or_id.lower())
        return next(same_name, None) or next(same_id, None)

    def _of_the_type(self, engine: Engine, service: ServiceId) -> Engine:
        if engine.type == service.engine_type:
            return engine
        better = ServiceId.of(engine.type, service.model)
        raise EngineDoesNotServe(
            engine=engine.name,
            what=f"{service}: it is of type {engine.type}",
            remedy=f"Name the service `{better}`, or choose an engine of type {service.engine_type}.",
        )

    def _best(self, service: ServiceId, model: Model) -> Engine:
        able = [self.engine(name) for name in model.engines]
        if of_type := [engine for engine in able if engine.type == service.engine_type]:
            return of_type[0]
        services = ", ".join(f"`{ServiceId.of(engine.type, service.model)}`" for engine in able)
        raise EngineDoesNotServe(
            engine=f"type {service.engine_type}",
            what=model.name,
            remedy=f"These serve it: {services}. Name another with `--engine`.",
        )

    def _only(self, service: ServiceId) -> Engine:
        of_type = [engine for engine in self.engines if engine.type == service.engine_type]
        if len(of_type) == 1:
            return of_type[0]
        if of_type:
            names, near = ", ".join(engine.name for engine in of_type), self.nearest_services(service)
            remedy = f"{f'Did you mean {near}? ' if near else ''}Name an engine with `--engine`: {names}."
            raise EngineDoesNotServe(engine=f"type {service.engine_type}", what=f"{service} for sure", remedy=remedy)
        types = sorted({engine.type for engine in self.engines})
        raise UnknownEngine(
            engine=f"{service.engine_type} (in {service})",
            nearest=self.nearest_services(service) or _nearest(service.engine_type, [*types]),
        )


def _with_those_of(model: Model, engine: Engine) -> Engine:
    wanted = {name: value for name, value in model.arguments.items() if name in engine.arguments}
    return with_arguments(engine, wanted) if wanted else engine


def with_arguments(engine: Engine, given: Mapping[str, Scalar]) -> Engine:
    """The engine with these arguments in place of its defaults, each parsed as the type of its default.

    Raises UnknownArgument, and InvalidRequest for a value that does not parse.
    """
    for name in given:
        if name not in engine.arguments:
            raise UnknownArgument(engine=engine.name, argument=name, known=", ".join(engine.arguments) or "none")
    changed = {name: _parse(engine, name, value) for name, value in given.items()}
    return engine.model_copy(update={"arguments": {**engine.arguments, **changed}})


def with_environment(engine: Engine, given: Mapping[str, str], *, secrets: Collection[str]) -> Engine:
    """The engine with these variables on top of its own. Raises InvalidRequest if a secret sets a variable, too."""
    secret = {name for name in secrets if engine.secrets.get(name) == "environment"}
    if twice := sorted(secret & {*engine.environment, *given}):
        raise InvalidRequest(
            detail=f"The variable {twice[0]} is set by a secret and by a value.",
            remedy=f"Leave one of `--secret {twice[0]}` and `--env {twice[0]}` away.",
        )
    return engine.model_copy(update={"environment": {**engine.environment, **given}}) if given else engine


def with_pull(engine: Engine, pull: PullPolicy | None) -> Engine:
    """The engine with this pull policy in place of its own, if any is given.

    Raises InvalidRequest if it would pull what the engine never pulls: its name in a registry may belong to others.
    """
    if pull in (None, engine.pull):
        return engine
    if engine.pull == "never":
        raise InvalidRequest(
            detail=f"{engine.name} has `pull: never`: its image is built on the hosts, and `{pull}` would pull it.",
            remedy="Omit `pull`, or give the engine in your own catalog an image that a registry of yours has.",
        )
    return engine.model_copy(update={"pull": pull})


def _parse(engine: Engine, name: str, value: Scalar) -> Scalar:
    default = engine.arguments[name]
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise _invalid(name, text, "neither true nor false", "true")
        return text == "true"
    if not isinstance(default, str):
        noun, pattern = _NUMBERS[type(default)]
        if not pattern.fullmatch(text):
            raise _invalid(name, text, f"not {noun}", default)
        return type(default)(text)
    # Argument injection: the engine would read a value that starts with a dash as another option.
    if text.startswith("-") or not text.isprintable() or len(text) > 1000:
        raise _invalid(name, text, "text that looks like an option, or is not printable", "value")
    return text


def _invalid(name: str, text: str, what: str, example: Scalar) -> InvalidRequest:
    good = str(example).lower() if isinstance(example, bool) else example
    return InvalidRequest(
        detail=f"The argument {name} is {text[:80]!r}, which is {what}.",
        remedy=f"Use for example `--set {name}={good}`.",
    )


def _nearest(wrong: str, known: list[str]) -> str:
    return ", ".join(nearest(wrong, known, 3)) or "none"
