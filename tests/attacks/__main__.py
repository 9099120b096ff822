"""Plays an adversary, from `tests/`: `python -m attacks --adversary redis|key|network [--seconds N] [--seed S]`.

Prints its log and the violations; exits with 1 if there are any.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

from attacks.adversary import Adversary, played
from attacks.key_holder import SCOPES, KeyHolder
from attacks.stage import AttackStage, attack_stage
from attacks.stranger import Stranger
from attacks.writer import RedisWriter
from lab.redis_server import RedisServer, redis_program


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m attacks")
    options.add_argument("--adversary", choices=("redis", "key", "network"), required=True)
    options.add_argument("--seconds", type=float, default=600)
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()
    program = redis_program()
    assert program is not None, "there is no Redis server"
    violations: list[str] = []
    with tempfile.TemporaryDirectory(prefix="aima-attacks-") as directory:
        server = RedisServer(program, Path(directory))
        server.start()
        try:
            with attack_stage(server, Path(directory)) as stage:
                adversaries = _chosen(stage, chosen.adversary, chosen.seed)
                for adversary in adversaries:
                    duration = timedelta(seconds=chosen.seconds / len(adversaries))
                    violations += played(adversary, duration=duration, seed=chosen.seed)
                    sys.stdout.write("".join(f"{line}\n" for line in adversary.log))
                    sys.stdout.write(f"{adversary.name}: {dict(adversary.outcomes)}\n")
        finally:
            server.kill()
    sys.stdout.write("".join(f"violation: {each}\n" for each in violations) or "no violation\n")
    return 1 if violations else 0


def _chosen(stage: AttackStage, name: str, seed: int) -> list[Adversary]:
    match name:
        case "redis":
            return [RedisWriter(stage, seed)]
        case "network":
            return [Stranger(stage, seed)]
        case _:
            return [KeyHolder(stage, seed, scope=scope) for scope in SCOPES]


if __name__ == "__main__":
    sys.exit(main())
