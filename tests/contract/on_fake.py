"""The bench of the fake runtime: each program is an image with a scripted behaviour."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from contract.bench import EXIT_STATUS, FLOOD, JUNK_BYTES, LAST_WORDS, Bench, Program

from aima_worker.runtimes.fake.engine import Behaviour
from aima_worker.runtimes.fake.runtime import FakeRuntime

_BEHAVIOURS = {
    Program.SERVES: Behaviour(),
    Program.CRASHES: Behaviour(stderr=LAST_WORDS.encode(), exit_code=EXIT_STATUS),
    Program.STUBBORN: Behaviour(stdout=b"deaf\n", deaf=True),
    Program.SPEAKS: Behaviour(stdout=b"out 1\nout 2\n", stderr=b"err 1\nerr 2\n"),
    Program.COUNTS: Behaviour(counts=timedelta(milliseconds=50)),
    Program.FLOODS: Behaviour(stdout=b"".join(b"line %d\n" % n for n in range(1, FLOOD + 1)), exit_code=0),
    Program.JUNK: Behaviour(stdout=JUNK_BYTES, exit_code=0),
    Program.GREEDY: Behaviour(out_of_memory=True),
}


class FakeBench(Bench):
    runtime: FakeRuntime

    def __init__(self) -> None:
        super().__init__()
        self.runtime = FakeRuntime(images=[self.image_for(program) for program in Program])
        self.runtime.published[self.absent_image] = None
        self.runtime.behaviours = {self.image_for(program): behaviour for program, behaviour in _BEHAVIOURS.items()}

    @property
    def image(self) -> str:
        return self.image_for(Program.SERVES)

    def spare_image(self) -> str:
        self.runtime.build_image("bench/spare:1")
        return "bench/spare:1"

    def image_for(self, program: Program) -> str:
        return f"bench/{program.value}:1"

    def command(self, program: Program, *, port: int) -> tuple[str, ...]:  # noqa: ARG002 its image says it all
        return (program.value,)

    def probe(self, url: str) -> int:
        return self.runtime.probe(url)

    def reaches(self, name: str, address: str, port: int) -> bool:  # noqa: ARG002 no packet flows
        return self.runtime.spec_of(name).network is None

    def writes(self, name: str, path: str, *, mebibytes: int) -> bool:
        spec = self.runtime.spec_of(name)
        sizes = [size for directory, size in spec.tmpfs.items() if path.startswith(f"{directory}/")]
        if not sizes and not spec.read_only:
            self.runtime.write(name, mebibytes << 20)
        return mebibytes << 20 <= sizes[0] if sizes else not spec.read_only

    @contextmanager
    def squatting(self, port: int) -> Iterator[None]:
        self.runtime.taken_ports.add(port)
        yield
        self.runtime.taken_ports.discard(port)
