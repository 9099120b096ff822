"""Followers: each reads one operation's events to its end, from any node, resuming after its last event."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from threading import Event as Flag
from threading import Thread
from typing import Any

import httpx2
from chaos.client import PAUSE_SECONDS, Node

ENDED = {"ready", "pulled", "stopped", "failed", "cancelled"}
SILENCE_SECONDS = 20
"""Nodes send a heartbeat every 15 seconds."""
DROPS = 0.05
"""The share of events after which a follower disconnects."""


class Follower:
    def __init__(self, operation: str, nodes: Sequence[Node], *, first: int, seed: int) -> None:
        self.operation = operation
        self.numbers: list[int] = []
        """The numbers of the events received, in order."""
        self.resets = 0
        self.lines = 0
        """How often it connected."""
        self.mishaps: list[str] = []
        self.ended_with: dict[str, Any] | None = None
        self._nodes = nodes
        self._turn = first
        self._dice = random.Random(seed)
        self._over = Flag()
        self._thread = Thread(target=self._follow, name=f"follower-{operation[:8]}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def give_up(self) -> None:
        self._over.set()

    def wait(self) -> None:
        """Waits until its thread has ended."""
        self._thread.join(SILENCE_SECONDS)

    def _follow(self) -> None:
        while self.ended_with is None and not self._over.is_set():
            node = self._nodes[self._turn % len(self._nodes)]
            self._turn += 1
            with suppress(httpx2.TransportError, httpx2.StreamError):
                self._listen(node)
            if self.ended_with is None:
                time.sleep(PAUSE_SECONDS)

    def _listen(self, node: Node) -> None:
        headers = {**node.headers, **({"Last-Event-ID": str(self.numbers[-1])} if self.numbers else {})}
        path = f"{node.url}/v1/operations/{self.operation}/events"
        with httpx2.stream("GET", path, headers=headers, timeout=SILENCE_SECONDS) as stream:
            if stream.status_code != 200:
                if stream.status_code not in (503, 404):
                    self.mishaps.append(f"was answered {stream.status_code}")
                if stream.status_code == 404:
                    self.mishaps.append("was told that there is no such operation")
                    self._over.set()
                return
            self.lines += 1
            frame: dict[str, str] = {}
            for line in stream.iter_lines():
                if line:
                    name, _, value = line.partition(":")
                    frame[name] = value.strip()
                elif frame.get("data") and self._hear(frame):
                    return
                else:
                    frame = {}

    def _hear(self, frame: dict[str, str]) -> bool:
        """Reads one connection; returns whether it delivered the end."""
        reported = json.loads(frame.pop("data"))
        self.numbers.append(int(frame["id"]))
        self.resets += frame.get("event") == "reset"
        frame.clear()
        if reported.get("phase") in ENDED:
            self.ended_with = reported
            return True
        return self._over.is_set() or self._dice.random() < DROPS
