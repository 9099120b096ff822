"""Checks of an engine's answers, by API: each asks one question whose right answer is known.

An engine that does not answer yet may still load: it is polled until the timeout of its health check. Wrong answers are
retried three times, then fail the start.
"""

from __future__ import annotations

import array
import io
import json
import math
import re
import wave
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from itertools import pairwise
from operator import mul
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from aima_core.domain.catalog import AnswerCheck, EmbeddingsCheck, Ready
from aima_core.domain.operations import StartService
from aima_worker.inference.http import Ask, Request, Response

ANSWER_TIMEOUT = timedelta(seconds=60)
"""For one answer: the first one of a large model may compile its kernels."""
ANSWER_LIMIT = 4 << 20
"""Bytes; a sentence of speech has 200 kB."""
SHORTEST_SENTENCE, LONGEST_SENTENCE = timedelta(seconds=0.4), timedelta(seconds=20)
SILENCE = 100
"""The root mean square of 16-bit samples below which they are silent; speech has a thousand and more."""
QUESTION = "What is the capital of France?"
RECORDING = Path(__file__).with_name("question.wav")
"""Of QUESTION, spoken in English."""
FITTING = "Paris is the capital of France."
UNRELATED = "Bread is baked from flour, water and yeast."
LIKE, UNLIKE = ("A cat sleeps on the sofa.", "The cat is asleep on the couch."), "Shares fell sharply on Monday."

METRICS_TIMEOUT = timedelta(seconds=5)
_SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{.*\})?\s+(?P<value>\S+)")
"""A line of the Prometheus text format."""

_T = TypeVar("_T", bound=BaseModel)


class Unanswered(Exception):
    """There is no answer yet, such as while the engine loads; the text says why."""


class WrongAnswer(Exception):
    """The answer differs from the expected one; the text says how."""


@dataclass(frozen=True)
class Check:
    """One question to an engine and the judgement of its answer."""

    path: str
    request: bytes
    judge: Callable[[bytes], None]
    """Raises WrongAnswer."""
    content_type: str = "application/json"

    def run(self, ask: Ask, endpoint: str) -> None:
        """Raises Unanswered, WrongAnswer."""
        try:
            response = ask(Request(endpoint + self.path, self.request, self.content_type), ANSWER_TIMEOUT, ANSWER_LIMIT)
        except OSError as unreachable:
            raise Unanswered(unreachable.strerror or str(unreachable)) from unreachable
        if not response.ok:
            raise Unanswered(f"HTTP status {response.status}{_excerpt(response)}")
        self.judge(response.body)


def checks_of_start(command: StartService) -> tuple[Check, ...]:
    """What a started engine must answer. Weights of which only the path is known may be of any kind: nothing."""
    serves = command.serves if command.model or not command.model_path else ()
    return tuple(checks_of(command.engine.ready, serves=serves, names=command.names))


def checks_of(ready: Ready | None, *, serves: Collection[str], names: tuple[str, ...]) -> Iterator[Check]:
    """Those of `ready` that are among the APIs that are served; `names` were given to the engine."""
    if ready is None:
        return
    if ready.chat and "chat" in serves:
        yield _chat(_Name.of(ready.chat, names))
    if ready.embeddings and "embeddings" in serves:
        yield _embeddings(_Name.of(ready.embeddings, names), ready.embeddings)
    if ready.rerank and "rerank" in serves:
        yield _rerank(_Name.of(ready.rerank, names))
    if ready.speech and "speech" in serves:
        yield _speech(_Name.of(ready.speech, names))
    if ready.transcriptions and "transcriptions" in serves:
        yield _transcriptions(_Name.of(ready.transcriptions, names))


def is_idle(ask: Ask, endpoint: str, busy: Collection[str]) -> bool:
    """Whether all these gauges at the engine's /metrics are 0. False without gauges, and if one is missing."""
    try:
        response = ask(Request(f"{endpoint}/metrics"), METRICS_TIMEOUT, ANSWER_LIMIT)
    except OSError:
        return False
    samples = [_SAMPLE.match(line) for line in response.body.decode(errors="replace").splitlines()]
    values = [(sample["name"], sample["value"]) for sample in samples if sample and sample["name"] in busy]
    return bool(busy) and {name for name, _ in values} == {*busy} and all(_is_zero(value) for _, value in values)


@dataclass(frozen=True)
class _Name:
    """The model's name in requests, and the names that an answer may have."""

    asked: str
    expected: tuple[str, ...]

    @classmethod
    def of(cls, check: AnswerCheck, names: tuple[str, ...]) -> _Name:
        expected = names or ((check.model,) if check.model else ())
        return cls(expected[0] if expected else "default", expected)

    def require(self, answered: str) -> None:
        if self.expected and answered not in self.expected:
            raise WrongAnswer(f"its model is {_shown(answered)} instead of {self.expected[0]!r}")


class _Message(BaseModel):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(BaseModel):
    message: _Message


class _Chat(BaseModel):
    model: str
    choices: list[_Choice]


def _chat(name: _Name) -> Check:
    def judge(body: bytes) -> None:
        answer = _parsed(_Chat, body)
        name.require(answer.model)
        said = [choice.message for choice in answer.choices]
        if not any(each.content or each.reasoning_content or each.reasoning for each in said):
            raise WrongAnswer("it has no text")

    messages = [{"role": "user", "content": QUESTION}]
    return _json_check("/v1/chat/completions", {"model": name.asked, "messages": messages, "max_tokens": 4}, judge)


class _Vector(BaseModel):
    index: int
    embedding: list[float]


class _Vectors(BaseModel):
    model: str | None = None
    data: list[_Vector]


def _embeddings(name: _Name, check: EmbeddingsCheck) -> Check:
    texts = [*LIKE, UNLIKE]

    def judge(body: bytes) -> None:
        answer = _parsed(_Vectors, body)
        if answer.model is not None:
            name.require(answer.model)
        vectors = [each.embedding for each in sorted(answer.data, key=lambda each: each.index)]
        if [each.index for each in sorted(answer.data, key=lambda each: each.index)] != list(range(len(texts))):
            raise WrongAnswer(f"it has not one vector for each of {len(texts)} texts")
        lengths = {len(vector) for vector in vectors}
        if len(lengths) > 1 or lengths == {0} or (check.dimensions and lengths != {check.dimensions}):
            expected = f"{check.dimensions} numbers each" if check.dimensions else "equal lengths above 0"
            raise WrongAnswer(f"its vectors have {', '.join(map(str, sorted(lengths)))} numbers instead of {expected}")
        if not all(math.isfinite(number) for vector in vectors for number in vector):
            raise WrongAnswer("a vector has numbers that are not finite")
        first, second, unlike = vectors
        if not _cosine(first, second) > _cosine(first, unlike):
            raise WrongAnswer("its vectors of unlike texts are as near to each other as those of like texts")

    request = {"model": name.asked, "input": texts, "encoding_format": "float"}
    return _json_check("/v1/embeddings", request, judge)


class _Rank(BaseModel):
    index: int
    relevance_score: float


class _Ranks(BaseModel):
    results: list[_Rank]


def _rerank(name: _Name) -> Check:
    documents = [UNRELATED, FITTING, LIKE[0]]

    def judge(body: bytes) -> None:
        results = _parsed(_Ranks, body).results
        if sorted(each.index for each in results) != list(range(len(documents))):
            raise WrongAnswer(f"it does not rank each of {len(documents)} documents once")
        if not all(math.isfinite(each.relevance_score) for each in results):
            raise WrongAnswer("a score is not a finite number")
        best = max(results, key=lambda each: each.relevance_score)
        if documents[best.index] != FITTING:
            raise WrongAnswer("it ranks an unrelated document above the fitting one")
        if any(higher.relevance_score < lower.relevance_score for higher, lower in pairwise(results)):
            raise WrongAnswer("its ranks are not in the order of their scores")

    request = {"model": name.asked, "query": QUESTION, "documents": documents, "top_n": len(documents)}
    return _json_check("/v1/rerank", request, judge)


def _speech(name: _Name) -> Check:
    def judge(body: bytes) -> None:
        duration, samples = _samples(body)
        if not SHORTEST_SENTENCE <= duration <= LONGEST_SENTENCE:
            raise WrongAnswer(f"its speech lasts {duration.total_seconds():.1f} s, which no sentence does")
        if math.sqrt(sum(sample * sample for sample in samples) / len(samples)) < SILENCE:
            raise WrongAnswer("its speech is silent")

    request = {"model": name.asked, "input": QUESTION, "voice": "default", "response_format": "wav"}
    return _json_check("/v1/audio/speech", request, judge)


class _Transcript(BaseModel):
    text: str


def _transcriptions(name: _Name) -> Check:
    def judge(body: bytes) -> None:
        text = _parsed(_Transcript, body).text
        if _words(text) != _words(QUESTION):
            raise WrongAnswer(f"it recognizes {_shown(text)} instead of {QUESTION!r}")

    boundary = "aima-question"
    fields = {"model": name.asked, "language": "en", "response_format": "json"}
    parts = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
        for field, value in fields.items()
    )
    file = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="question.wav"\r\n'
    head = f"{parts}{file}Content-Type: audio/wav\r\n\r\n".encode()
    form = head + _recording() + f"\r\n--{boundary}--\r\n".encode()
    return Check("/v1/audio/transcriptions", form, judge, f"multipart/form-data; boundary={boundary}")


def _json_check(path: str, request: Mapping[str, object], judge: Callable[[bytes], None]) -> Check:
    return Check(path, json.dumps(request).encode(), judge)


def _parsed(shape: type[_T], body: bytes) -> _T:
    """Raises WrongAnswer. Fields that are not asked for, and nesting of any depth, do no harm."""
    try:
        return shape.model_validate_json(body)
    except ValidationError as malformed:
        first = malformed.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "the answer"
        raise WrongAnswer(f"{where}: {first['msg']}"[:200]) from None


def _samples(body: bytes) -> tuple[timedelta, array.array[int]]:
    """The duration of a WAV file and the samples of all its channels."""
    try:
        with wave.open(io.BytesIO(body)) as reader:
            channels, width, rate, frames, *_ = reader.getparams()
            # As many as there are: a streamed file claims 4 GB of them.
            data = reader.readframes(min(frames, len(body)))
    except (wave.Error, EOFError, ValueError) as malformed:
        raise WrongAnswer(f"it is no WAV file ({malformed or 'it ends early'})"[:200]) from None
    if width != 2 or not rate:
        raise WrongAnswer(f"its speech has {8 * width} bits at {rate} Hz instead of 16 bits")
    samples = array.array("h", data[: len(data) // 2 * 2])
    return timedelta(seconds=len(samples) / channels / rate), samples


def _cosine(one: list[float], other: list[float]) -> float:
    """NaN if a vector has no direction."""
    norm = math.hypot(*one) * math.hypot(*other)
    return sum(map(mul, one, other)) / norm if norm else math.nan


def _is_zero(value: str) -> bool:
    try:
        return float(value) == 0
    except ValueError:
        return False


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}…")


def _excerpt(response: Response) -> str:
    text = response.body[:200].decode(errors="replace").strip()
    return f" ({_shown(text)})" if text else ""


@cache
def _recording() -> bytes:
    return RECORDING.read_bytes()
