"""The grammar, the help and the errors of the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest
from api.cli.outcome import Aima
from api.cli.stand_in import BEGINNING, ID, SERVICE, StandIn, an_operation
from lab.parts import free_port
from syrupy.assertion import SnapshotAssertion

from aima_api.cli.main import SECTIONS, root
from aima_core.errors import ApiUnavailable, BadId, Unauthorized

SLOW_TO_IMPORT = ("pydantic", "redis", "docker", "celery", "httpx2", "rich", "pydantic_settings", "yaml")
A_SERVICE = {"id": SERVICE, "created_at": BEGINNING.isoformat(), "instances": []}
SPEC = [
    *("--engine", "e", "--model", "M", "--model-path", "/m", "--host", "a", "--host", "b"),
    *("--replicas", "2", "--port", "8000", "--set", "x=1", "--set", "y=z"),
]
GRAMMAR = [
    ["up", "--runtime", "process", "--state-dir", "/tmp/aima-state", "--port", "7081"],
    ["up", "--detach"],
    ["backup", "f", "--state-dir", "s"],
    ["restore", "f", "--state-dir", "s"],
    ["down", "--state-dir", "s", "--engines"],
    ["api", "--bind", "127.0.0.1", "--port", "7081"],
    ["gateway", "--bind", "127.0.0.1", "--port", "7091"],
    ["doctor", "-o", "json"],
    ["redis-acl", "--role", "worker", "--host", "spark-01", "--variables"],
    ["worker", "--name", "box", "--runtime", "docker"],
    ["flower", "--bind", "127.0.0.1", "--port", "5555", "--user", "ops"],
    ["catalog", "show", "-o", "json"],
    ["events", "--follow", "--limit", "10", "-o", "json"],
    ["host", "ls", "-l", "rack=1", "-w"],
    ["service", "describe", SERVICE],
    ["service", "rm", SERVICE, "svc-tts-other"],
    ["service", "stop", "--all"],
    ["service", "start", "-l", "team=speech", "--label", "team=text", "--wait"],
    ["service", "ls", "-l", "team=speech"],
    ["top", "-o", "json"],
    ["profile", "list"],
    ["profile", "show", "nvidia-gb10", "-o", "json"],
    ["profile", "apply", "nvidia-gb10", "--host", "spark-01", "--wait", "--timeout", "30m"],
    ["service", "show", SERVICE],
    ["catalog", "reload"],
    ["schema", "engine"],
    ["schema", "document"],
    ["apply", "-f", "fleet", "-f", "-", "--owner", "text", "--prune", "--dry-run"],
    ["apply", "--file", "fleet.yaml", "--yes", "--wait", "--timeout", "1m", "-o", "json"],
    ["diff", "-f", "fleet.yaml", "--owner", "text", "--prune", "-o", "yaml"],
    ["export", "--service", SERVICE, "-o", "json"],
    ["engine", "build", "dial-cpu", "--native"],
    ["engine", "list", "-o", "yaml"],
    ["engine", "show", "e", "-o", "json"],
    ["engine", "validate", "/"],
    ["model", "list"],
    ["model", "show", "M"],
    ["model", "list", "--host", "a", "-o", "json"],
    ["model", "add", "hf:a/b", "--engine", "vllm", "--name", "N", "--files", "*.gguf", "--files", "x", "--to", "d"],
    ["model", "pull", "M", "--host", "a", "--host", "b", "--expires", "90m", "--wait"],
    ["model", "pull", "M", "--route", "gb10.arm64"],
    ["model", "pull", "M", "--route", "gb10.arm64", "--site", "office"],
    ["model", "pin", "M", "--host", "a"],
    ["model", "unpin", "M", "--host", "a"],
    ["model", "prune", "--host", "a", "--all", "--dry-run"],
    ["model", "remove", "M", "--host", "a"],
    ["image", "list", "--host", "box", "-o", "wide"],
    ["image", "pull", "a:1", "--host", "a", "--force"],
    ["image", "remove", "a:1", "b:2", "--host", "a", "--wait"],
    ["image", "rm", "--unused"],
    ["host", "list"],
    ["host", "show", "box"],
    ["host", "drain", "box", "--stop", "--wait", "--timeout", "1m"],
    ["host", "resume", "box", "-o", "json"],
    ["host", "forget", "box"],
    ["alias", "set", "gpt-4o", f"{SERVICE}=90", "svc-tiny-other=10", "--fallback", SERVICE, "-o", "json"],
    ["alias", "list", "-o", "json"],
    ["alias", "show", "gpt-4o"],
    ["alias", "remove", "gpt-4o"],
    ["chat", "gpt-4o", "Why?", "--system", "Be brief.", "--max-tokens", "9", "--gateway", "http://127.0.0.1:7091"],
    ["embed", "e5", "one", "two"],
    ["speak", "joe", "Hello.", "-o", "a.wav", "--voice", "default", "--speed", "1.5"],
    ["transcribe", "whisper", "/dev/null", "--language", "en"],
    ["plan", SERVICE, *SPEC, "--route", "cpu.arm64", "-o", "yaml"],
    ["port", "list", "-o", "json"],
    ["service", "create", SERVICE, *SPEC],
    [
        "service",
        "set",
        SERVICE,
        "--resource",
        "memory=1GB",
        "--limit",
        "pids=64",
        "--health",
        "timeout=5m",
        "-o",
        "json",
    ],
    ["service", "set", SERVICE, "--priority", "5", "--label", "team=speech"],
    ["service", "unset", SERVICE, "port", "set.flood"],
    ["service", "history", SERVICE, "-o", "json"],
    ["service", "rollback", SERVICE, "--to", "3", "--expires", "1h", "--wait"],
    ["service", "show", SERVICE, "--revision", "3"],
    ["service", "start", SERVICE, *SPEC, "--wait", "--timeout", "10m"],
    ["service", "start", SERVICE, "--no-wait", "--expires", "30m"],
    ["service", "stop", SERVICE, "--host", "a", "--grace", "10s", "--wait"],
    ["service", "restart", SERVICE, "--wait"],
    ["service", "remove", SERVICE],
    ["service", "logs", "svc-tiny-dial", "--follow", "--tail", "5", "--since", "10m", "--host", "box"],
    ["service", "list", "--output", "json"],
    ["service", "status"],
    ["service", "status", SERVICE],
    ["image", "pull", "repo/image:1", "--host", "a", "--wait", "--expires", "1h"],
    ["image", "pull", "--engine", "e", "--route", "gb10.arm64"],
    ["operation", "list", "--state", "failed", "--kind", "start", "--service", SERVICE, "--host", "a", "--limit", "5"],
    ["operation", "show", ID],
    ["operation", "watch", ID, ID, "--timeout", "5s"],
    ["operation", "cancel", ID],
    ["context", "list", "-o", "json"],
    ["context", "show", "prod"],
    ["context", "use", "prod"],
    ["context", "set", "prod", "--url", "https://a:7080,https://b:7080", "--key-stdin"],
    ["context", "remove", "prod"],
    ["key", "create", "ci", "--scope", "operate", "--scope", "infer", "--model", "M", "--expires", "90d", "-o", "json"],
    ["key", "create", "app", "--scope", "infer", "--requests-per-minute", "600", "--concurrent", "8"],
    ["key", "list"],
    ["key", "revoke", "ci"],
    ["key", "public"],
    ["key", "rotate-signing", "-o", "yaml"],
    ["audit", "--follow", "--key", "ci", "--since", "10m", "--limit", "5"],
]


def commands(group: click.Group = root, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


@pytest.mark.parametrize("words", GRAMMAR, ids=" ".join)
def test_every_command_of_the_grammar_is_parsed(words: list[str]) -> None:
    context = click.Context(root, info_name="aima", obj="http://nowhere", **root.context_settings)
    command: click.Command = root
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None
        command, words = found, words[1:]

    command.make_context(command.name, list(words), parent=context)


def test_every_command_is_in_the_grammar() -> None:
    tried = {tuple(word for word in words[:2]) for words in GRAMMAR} | {(words[0],) for words in GRAMMAR}

    assert {path for path, _ in commands()} <= tried


def test_help_imports_no_slow_module() -> None:
    check = (
        "import sys; from aima_api.cli.main import run; code = run(['--help']);"
        f"print(*[name for name in {SLOW_TO_IMPORT} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )

    outcome = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)

    assert "service" in outcome.stdout
    assert outcome.stderr.strip() == ""


def test_a_listing_imports_no_slow_module(script: StandIn) -> None:
    script.answer(
        "GET /v1/services", {"items": [{"id": SERVICE, "created_at": BEGINNING.isoformat(), "instances": []}]}
    )
    check = (
        f"import sys; from aima_api.cli.main import run; code = run(['--url', '{script.url}', 'service', 'list']);"
        f"print(*[name for name in {SLOW_TO_IMPORT} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )

    outcome = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)

    assert SERVICE in outcome.stdout
    assert outcome.stderr.strip() == ""


def test_documents_are_read_without_the_catalog_s_schema() -> None:
    slow = ("aima_core.domain.catalog", "docker_image", "redis")
    check = f"import sys, aima_api.specs.files; print(*[name for name in {slow} if name in sys.modules])"

    outcome = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)

    assert outcome.stdout.strip() == ""


@pytest.mark.parametrize("words", [("--help",), *((*path, "--help") for path, _ in commands())], ids=" ".join)
def test_help(words: tuple[str, ...], aima: Aima, snapshot: SnapshotAssertion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")

    outcome = aima(*words)

    assert outcome.code == 0
    assert outcome.out == snapshot


def test_lazy_commands_have_the_summaries_of_their_modules() -> None:
    for section in SECTIONS.values():
        for home, summary in section.values():
            module, attribute = home.split(":")
            assert (getattr(import_module(f"aima_api.cli.commands.{module}"), attribute).help or "").startswith(summary)


def test_the_version(aima: Aima) -> None:
    assert aima("--version").out.startswith("aima 0.")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["servce", "list"], "'service'"),
        (["service", "creat"], "'create'"),
        (["host", "list", "--ouput"], "'--output'"),
    ],
)
def test_a_mistyped_command_is_answered_with_the_closest_one(words: list[str], meant: str, aima: Aima) -> None:
    outcome = aima(*words)

    assert outcome.code == 2
    assert outcome.err.startswith("error: No such")
    assert f"Did you mean {meant}?" in outcome.err


@pytest.mark.parametrize("words", [[], ["service"], ["operation"]])
def test_a_command_without_its_subcommand_prints_its_help(words: list[str], aima: Aima) -> None:
    bare, asked = aima(*words), aima(*words, "--help")

    assert (bare.code, bare.err) == (0, "")
    assert bare.out == asked.out


@pytest.mark.parametrize("words", [["service", "list"], ["service"], ["--help"]])
def test_a_failed_write_to_stdout_is_reported(words: list[str], script: StandIn) -> None:
    script.answer(
        "GET /v1/services", {"items": [{"id": SERVICE, "created_at": BEGINNING.isoformat(), "instances": []}]}
    )
    code = "from aima_api.cli.main import main; main()"
    command = [sys.executable, "-c", code, "--url", script.url, *words]

    with Path("/dev/full").open("w") as full:
        outcome = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert outcome.returncode == 1
    assert outcome.stderr.startswith("error: The output cannot be written: No space left on device.\nhint: Free space")
    assert "Traceback" not in outcome.stderr


def test_a_url_without_its_scheme_is_reported(aima: Aima) -> None:
    outcome = aima("--url", "localhost:7080", "service", "list")

    assert outcome.code == ApiUnavailable.exit_code
    assert "that is not a URL; write http://localhost:7080" in outcome.err


@pytest.mark.parametrize("key", ["two\nlines", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_reported(key: str, aima: Aima, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIMA_KEY", key)

    outcome = aima("service", "list")

    assert outcome.code == Unauthorized.exit_code
    assert "AIMA_KEY" in outcome.err


def test_an_unreachable_api_is_reported_with_the_next_step(aima: Aima) -> None:
    url = f"http://127.0.0.1:{free_port()}"

    outcome = aima("--url", url, "service", "list")

    assert outcome.code == ApiUnavailable.exit_code
    assert outcome.err.startswith(
        f"error: No AIMA API answers at {url}: Connection refused\nhint: Start one with `aima up`"
    )


@pytest.mark.parametrize("url", ["ftp://x", "http://", "nonsense", "http://[::1"])
def test_a_malformed_address_is_reported_without_a_traceback(url: str, aima: Aima) -> None:
    outcome = aima("--url", url, "host", "list")

    assert outcome.code == ApiUnavailable.exit_code
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("status", "body"), [(502, b"<html>Bad Gateway</html>"), (200, b"<html>Welcome</html>"), (404, b"{}")]
)
def test_another_server_at_the_address_is_not_mistaken_for_the_api(
    status: int, body: bytes, script: StandIn, aima: Aima
) -> None:
    script.answer("GET /v1/hosts", body, status=status)

    outcome = aima("host", "list")

    assert outcome.code == ApiUnavailable.exit_code
    assert "the server there is not an AIMA API" in outcome.err


def test_the_url_option_can_follow_the_command(script: StandIn, aima: Aima) -> None:
    script.answer("GET /v1/hosts", {"items": [], "next": None})

    assert aima("--url", "http://127.0.0.1:9", "host", "list", "--url", script.url).code == 0


def test_a_malformed_id_is_refused_without_a_request(script: StandIn, aima: Aima) -> None:
    outcome = aima("service", "start", "../../etc")

    assert outcome.code == BadId.exit_code
    assert script.received == []


def test_a_start_sends_its_api_key_and_its_request(
    script: StandIn, aima: Aima, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIMA_KEY", "secret")
    script.answer(f"POST /v1/services/{SERVICE}:start", {"operations": [an_operation()]}, status=202)

    aima(
        "service", "start", SERVICE, "--host", "a", "--set", "max-model-len=8192", "--port", "20001", "--expires", "90m"
    )

    (request,) = script.asked(f"POST /v1/services/{SERVICE}:start")
    assert request.headers["Authorization"] == "Bearer secret"
    assert request.headers["Idempotency-Key"]
    assert request.body == {"hosts": ["a"], "arguments": {"max-model-len": 8192}, "port": 20001, "expires": "1h30m"}


def test_a_set_sends_just_that_argument_and_unset_the_fields_to_remove(script: StandIn, aima: Aima) -> None:
    script.answer(f"PATCH /v1/services/{SERVICE}", {"id": SERVICE, "revision": 2})

    changed = aima("service", "set", SERVICE, "--set", "a=1")
    aima("service", "unset", SERVICE, "port", "set.a", "label.team", "env.THREADS")

    assert changed.out == f"Service {SERVICE} is at revision 2.\n"
    assert [request.body for request in script.asked(f"PATCH /v1/services/{SERVICE}")] == [
        {"arguments": {"a": 1}},
        {"port": None, "arguments": {"a": None}, "labels": {"team": None}, "environment": {"THREADS": None}},
    ]


def test_a_failed_container_is_kept_if_the_start_says_so(script: StandIn, aima: Aima) -> None:
    script.answer(f"POST /v1/services/{SERVICE}:start", {"operations": [an_operation()]}, status=202)

    aima("service", "start", SERVICE, "--on-failure", "keep")

    assert [each.body for each in script.asked(f"POST /v1/services/{SERVICE}:start")] == [{"on_failure": "keep"}]


@pytest.mark.parametrize("words", [[], ["x:1", "--engine", "e"], ["x:1", "--host", "a", "--route", "cpu.amd64"]])
def test_a_pull_requires_one_image_and_one_target(words: list[str], aima: Aima) -> None:
    outcome = aima("image", "pull", *words)

    assert outcome.code == 2
    assert "`aima image pull --help`" in outcome.err


def test_an_internal_error_is_one_sentence_and_a_traceback_on_request(script: StandIn, aima: Aima) -> None:
    script.answer("GET /v1/hosts", {"items": [{"name": "a host without the rest"}], "next": None})

    short, long = aima("host", "list"), aima("--debug", "host", "list")

    assert (short.code, long.code) == (1, 1)
    assert "AIMA has a bug: KeyError" in short.err
    assert "Traceback" not in short.err
    assert "Traceback" in long.err


@pytest.mark.parametrize("words", ["service start svc-a", "service start ''"])
def test_ids_are_completed_from_the_api(words: str, script: StandIn) -> None:
    script.answer("GET /v1/services", {"items": [{"id": "svc-asr-a"}, {"id": "svc-tts-b"}], "next": None})

    assert "svc-asr-a" in completed(f"aima --url {script.url} {words}")


@pytest.mark.parametrize("words", ["service start svc-", "service create svc-", "plan svc-"])
def test_ids_that_start_a_model_of_the_catalog_are_completed(words: str, script: StandIn) -> None:
    models = [{"name": "M", "services": {"svc-vllm-m": {}, "svc-llamacpp-m": {}}}]
    script.answer("GET /v1/services", {"items": [{"id": "svc-asr-a"}], "next": None})
    script.answer("GET /v1/models", {"items": models, "next": None})

    offered = completed(f"aima --url {script.url} {words}")

    assert all(id in offered for id in ("svc-asr-a", "svc-vllm-m", "svc-llamacpp-m"))


def test_completion_prints_nothing_when_the_api_is_unreachable() -> None:
    assert completed(f"aima --url http://127.0.0.1:{free_port()} service start svc-").strip() == ""


def completed(line: str) -> str:
    environment = os.environ | {
        "_AIMA_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
    }
    code = "from aima_api.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout


def test_variables_and_secrets_are_sent_by_name(script: StandIn, aima: Aima) -> None:
    script.answer("POST /v1/services", A_SERVICE)

    words = ("--env", "HF_HUB_OFFLINE=1", "--env", "EMPTY=", "--secret", "HF_TOKEN", "--secret", "API_KEY=mine")
    outcome = aima("service", "create", SERVICE, *words)

    [request] = script.asked("POST /v1/services")
    assert request.body["environment"] == {"HF_HUB_OFFLINE": "1", "EMPTY": ""}
    assert request.body["secrets"] == {"HF_TOKEN": "HF_TOKEN", "API_KEY": "mine"}
    assert "Note:" not in outcome.err


@pytest.mark.parametrize(
    ("variable", "hinted"),
    [("HF_TOKEN", True), ("API_KEY", True), ("db_password", True), ("TOKENIZERS_PARALLELISM", False), ("KEYS", False)],
)
def test_a_variable_that_looks_like_a_secret_is_answered_with_a_hint(
    variable: str, hinted: bool, script: StandIn, aima: Aima
) -> None:
    script.answer("POST /v1/services", A_SERVICE)

    outcome = aima("service", "create", SERVICE, "--env", f"{variable}=a-value-of-its-own")

    assert (f"`--secret {variable}` keeps its value on the hosts" in outcome.err) is hinted
    assert "a-value-of-its-own" not in outcome.err + outcome.out


@pytest.mark.parametrize("words", [("--env", "X"), ("--env", "=1"), ("--secret", "X="), ("--secret", "=entry")])
def test_a_malformed_variable_or_secret_is_refused_without_a_request(
    words: tuple[str, str], script: StandIn, aima: Aima
) -> None:
    assert aima("service", "create", SERVICE, *words).code == 2
    assert script.received == []
