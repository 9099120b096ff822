"""`aima chat`, `embed`, `speak` and `transcribe`: requests to a model by way of a gateway."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import click

from aima_api.cli.contexts import open_gateway
from aima_api.cli.gateway import Gateway
from aima_api.cli.options import complete
from aima_core.logs.sanitize import sanitized, sanitized_lines

Command = Callable[..., Any]
GATEWAY_HELP = "The gateway, or AIMA_GATEWAY_URL; by default port 7090 of the API node's machine."
model_argument = click.argument("model", shell_complete=complete(("models", "id")))
text_argument = click.argument("text", nargs=-1)


def asks_the_gateway(command: Command) -> Command:
    """Passes an open Gateway as the command's first argument."""

    @click.option("--gateway", envvar="AIMA_GATEWAY_URL", metavar="URL", help=GATEWAY_HELP)
    @click.option("--debug", is_flag=True, hidden=True, expose_value=False)
    @click.pass_context
    @functools.wraps(command)
    def with_gateway(ctx: click.Context, /, gateway: str | None, **options: Any) -> Any:
        with open_gateway(gateway, urls=ctx.obj, ca=ctx.find_root().params.get("ca")) as opened:
            return command(opened, **options)

    return with_gateway


@click.command()
@model_argument
@text_argument
@click.option("--system", metavar="TEXT", help="The instruction before the conversation.")
@click.option("--max-tokens", type=click.IntRange(1), metavar="N", help="The limit of each answer.")
@asks_the_gateway
def chat(gateway: Gateway, model: str, text: tuple[str, ...], system: str | None, max_tokens: int | None) -> None:
    """Chat with a model.

    TEXT or stdin is one question; without them, a terminal has a conversation. The model is an alias, a model's id or
    a service's id.
    """
    messages = [{"role": "system", "content": system}] if system else []
    request: dict[str, Any] = {"model": model, "messages": messages}
    if max_tokens:
        request["max_tokens"] = max_tokens
    if text or not sys.stdin.isatty():
        messages.append({"role": "user", "content": _text(text)})
        _print_answer(gateway, request)
        return
    click.echo("End the conversation with Ctrl-D.", err=True)
    while True:
        try:
            question = input("> ")
        except EOFError:
            click.echo()
            return
        if question.strip():
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": _print_answer(gateway, request)})


@click.command()
@model_argument
@text_argument
@asks_the_gateway
def embed(gateway: Gateway, model: str, text: tuple[str, ...]) -> None:
    """Print the embeddings of texts.

    Each TEXT, or each line of stdin, is printed as one line of JSON with its numbers.
    """
    texts = list(text) or [line for line in _text(()).splitlines() if line]
    request = {"model": model, "input": texts, "encoding_format": "float"}
    answer = _parsed(gateway, gateway.ask("/v1/embeddings", request), "data")
    for each in sorted(answer, key=lambda each: int(each["index"])):
        click.echo(json.dumps(each["embedding"]))


@click.command()
@model_argument
@text_argument
@click.option("-o", "--output", metavar="FILE", help="Where the WAV file goes; `-` is stdout, the default of a pipe.")
@click.option("--voice", default="default", show_default=True)
@click.option("--speed", type=click.FloatRange(0.25, 4.0), default=1.0, show_default=True)
@asks_the_gateway
def speak(gateway: Gateway, model: str, text: tuple[str, ...], output: str | None, voice: str, speed: float) -> None:
    """Speak a text into a WAV file.

    The text is TEXT, or stdin.
    """
    if output is None and sys.stdout.isatty():
        raise click.UsageError("Specify --output FILE, or redirect stdout.", click.get_current_context())
    wanted = {"model": model, "input": _text(text), "voice": voice, "speed": speed, "response_format": "wav"}
    speech = gateway.ask("/v1/audio/speech", wanted)
    with click.open_file(output or "-", "wb") as file:
        file.write(speech)


@click.command()
@model_argument
@click.argument("recording", type=click.File("rb"), metavar="FILE")
@click.option("--language", metavar="CODE", help="Such as `en`; detected otherwise, where the engine can.")
@asks_the_gateway
def transcribe(gateway: Gateway, model: str, recording: BinaryIO, language: str | None) -> None:
    """Print what is said in a recording.

    FILE `-` is stdin.
    """
    fields = {"model": model, "response_format": "json"} | ({"language": language} if language else {})
    name = Path(recording.name).name if isinstance(recording.name, str) else "recording.wav"
    answer = gateway.send_file("/v1/audio/transcriptions", recording.read(), name=name, fields=fields)
    click.echo(sanitized_lines(_parsed(gateway, answer, "text")))


def _text(words: tuple[str, ...]) -> str:
    """Of the arguments, else of stdin."""
    text = " ".join(words) if words else sys.stdin.read().strip()
    if not text:
        raise click.UsageError("Specify a text, or write it to stdin.", click.get_current_context())
    return text


def _print_answer(gateway: Gateway, request: dict[str, Any]) -> str:
    said = []
    with gateway.stream_chat(request) as pieces:
        for piece in pieces:
            said.append(piece)
            click.echo(sanitized_lines(piece), nl=False)
            sys.stdout.flush()
    click.echo()
    return "".join(said)


def _parsed(gateway: Gateway, answer: bytes, field: str) -> Any:
    """Raises GatewayUnavailable if the answer is another one."""
    from aima_core.errors import GatewayUnavailable

    try:
        return json.loads(answer)[field]
    except (ValueError, KeyError, TypeError) as wrong:
        detail = f"its answer has no `{field}`: {sanitized(answer[:80].decode(errors='replace'))!r}"
        raise GatewayUnavailable(url=gateway.url, detail=detail) from wrong
