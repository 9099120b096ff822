"""The official clients of OpenAI and Anthropic, with only base URL and key changed."""

from __future__ import annotations

import pytest

MODEL = "dial"
ASK = [{"role": "user", "content": "How are you?"}]
pytestmark = pytest.mark.redis


def test_chat_answers_with_the_name_that_was_asked_for(client, engine):
    answer = client.chat.completions.create(model=MODEL, messages=ASK)

    assert answer.choices[0].message.content == "word " * 5
    assert (answer.model, answer.usage.completion_tokens) == (MODEL, 5)
    assert engine.received[-1].json["model"] == engine.name


def test_a_chat_streams(client):
    chunks = list(client.chat.completions.create(model=MODEL, messages=ASK, stream=True))

    assert "".join(each.choices[0].delta.content for each in chunks) == "word " * 5
    assert {each.model for each in chunks} == {MODEL}


def test_completions_stream(client):
    chunks = list(client.completions.create(model=MODEL, prompt="Once", stream=True))

    assert "".join(each.choices[0].text for each in chunks) == "word " * 5


def test_responses_answer_and_stream(client):
    answer = client.responses.create(model=MODEL, input="Hello")
    events = [each.type for each in client.responses.create(model=MODEL, input="Hello", stream=True)]

    assert answer.output_text == "word " * 5
    assert events.count("response.output_text.delta") == 5
    assert events[-1] == "response.completed"


def test_messages_answer_and_stream(claude):
    answer = claude.messages.create(model=MODEL, max_tokens=10, messages=ASK)
    with claude.messages.stream(model=MODEL, max_tokens=10, messages=ASK) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()

    assert answer.content[0].text == text == "word " * 5
    assert (answer.model, final.model, final.usage.output_tokens) == (MODEL, MODEL, 5)


def test_embeddings_answer(client):
    answer = client.embeddings.create(model=MODEL, input=["one", "two"], encoding_format="float")

    assert [each.embedding for each in answer.data] == [[0.5, 0.25]] * 2


def test_speech_is_passed_as_bytes(client):
    audio = client.audio.speech.create(model=MODEL, voice="alloy", input="Hello").read()

    assert (audio[:4], len(audio)) == (b"RIFF", 100_004)


@pytest.mark.parametrize("what", ["transcriptions", "translations"])
def test_a_recording_is_sent_as_a_form(client, engine, what):
    audio = bytes(range(256)) * 4000

    answer = getattr(client.audio, what).create(model=MODEL, file=("a.wav", audio))

    assert answer.text == "word " * 5
    assert audio in engine.received[-1].body
    assert b"engine-name" in engine.received[-1].body


def test_rerank_answers(door):
    answer = door.client.post("/v1/rerank", json={"model": MODEL, "query": "q", "documents": ["d"]})

    assert answer.json()["results"][0]["index"] == 0


def test_both_clients_list_the_models(client, claude):
    expected = ["dial", "svc-tiny-dial"]

    assert [each.id for each in client.models.list()] == expected
    assert [each.id for each in claude.models.list()] == expected
    assert client.models.retrieve("dial").id == "dial"
