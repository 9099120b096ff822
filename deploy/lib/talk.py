"""What the quickstart says to AIMA and to a model over HTTP, with nothing but the standard library."""

import argparse
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

ANSWER_SECONDS = 120
ASK_AGAIN_SECONDS = 0.1
opener = build_opener(ProxyHandler({}))  # what is asked is on this machine: no proxy stands in between


def main() -> None:
    parser = argparse.ArgumentParser(prog="talk", description=__doc__)
    commands = parser.add_subparsers(required=True)
    port = commands.add_parser("free-port", help="print a port of loopback that nobody listens on")
    port.set_defaults(run=lambda _: free_port())
    wait = commands.add_parser(
        "wait", help="wait until the API at URL has a live host, no longer than process PID lives"
    )
    wait.add_argument("url")
    wait.add_argument("--pid", type=int, required=True)
    wait.add_argument("--seconds", type=float, default=60)
    wait.set_defaults(run=lambda options: wait_for(options.url, options.pid, options.seconds))
    endpoint = commands.add_parser("endpoint", help="print the endpoint in the JSON on standard input")
    endpoint.set_defaults(run=lambda _: endpoint_in(json.load(sys.stdin)))
    ask = commands.add_parser("ask", help="print what the model at ENDPOINT answers to QUESTION")
    ask.add_argument("endpoint")
    ask.add_argument("question")
    ask.set_defaults(run=lambda options: answer(options.endpoint, options.question))
    options = parser.parse_args()
    print(options.run(options))  # noqa: T201 a command's answer is what it prints


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_for(url: str, pid: int, seconds: float) -> str:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if has_live_host(url):
            return "ready"
        if not alive(pid):
            sys.exit("it ended before it was ready")
        time.sleep(ASK_AGAIN_SECONDS)
    sys.exit(f"{url} had no live host within {seconds:.0f} s")


def has_live_host(url: str) -> bool:
    try:
        with opener.open(f"{url}/v1/hosts", timeout=5) as response:
            return any(host["live"] for host in json.load(response)["items"])
    except (URLError, OSError):
        return False


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def endpoint_in(record: Any) -> str:
    found = next(endpoints(record), None)
    return found or sys.exit("the service's status names no endpoint")


def endpoints(record: Any) -> Iterator[str]:
    """Every text under a key `endpoint`, however deep."""
    if isinstance(record, list):
        for each in record:
            yield from endpoints(each)
    elif isinstance(record, dict):
        if isinstance(record.get("endpoint"), str):
            yield record["endpoint"]
        for each in record.values():
            yield from endpoints(each)


def answer(endpoint: str, question: str) -> str:
    said = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 60}
    request = Request(
        f"{endpoint.rstrip('/').removesuffix('/v1')}/v1/chat/completions",
        json.dumps(said).encode(),
        {"Content-Type": "application/json"},
    )
    with opener.open(request, timeout=ANSWER_SECONDS) as response:
        text: str = json.load(response)["choices"][0]["message"]["content"]
        return text.strip()


if __name__ == "__main__":
    main()
