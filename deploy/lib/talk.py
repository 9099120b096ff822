"""What the quickstart says to AIMA and to a model over HTTP, with nothing but the standard library."""

import argparse
import json
import os
import socket
import sys
import time
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

ANSWER_SECONDS = 120
ASK_AGAIN_SECONDS = 0.1
SERVED_SECONDS = 20
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
    ask = commands.add_parser("ask", help="print what MODEL answers to QUESTION, by way of the gateway at URL")
    ask.add_argument("url")
    ask.add_argument("model")
    ask.add_argument("question")
    ask.set_defaults(run=lambda options: answer(options.url, options.model, options.question))
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


def answer(url: str, model: str, question: str) -> str:
    wait_until_served(url, model)
    said = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 60}
    request = Request(
        f"{url}/v1/chat/completions",
        json.dumps(said).encode(),
        {"Content-Type": "application/json"},
    )
    with opener.open(request, timeout=ANSWER_SECONDS) as response:
        text: str = json.load(response)["choices"][0]["message"]["content"]
        return text.strip()


def wait_until_served(url: str, model: str) -> None:
    """The gateway learns of a ready instance from an event, which may arrive after the operation has ended."""
    deadline = time.monotonic() + SERVED_SECONDS
    while not is_served(url, model):
        if time.monotonic() > deadline:
            sys.exit(f"the gateway at {url} did not serve {model} within {SERVED_SECONDS} s")
        time.sleep(ASK_AGAIN_SECONDS)


def is_served(url: str, model: str) -> bool:
    try:
        with opener.open(f"{url}/v1/models", timeout=5) as response:
            return any(served["id"] == model for served in json.load(response)["data"])
    except (URLError, OSError):
        return False


if __name__ == "__main__":
    main()
