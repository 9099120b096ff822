"""The stage of hostile native engines: workers that are root and an API node, as processes, on a Redis of their own.

Each attack is an engine of its own type that serves until its first health check, and attacks then. All that it is told
is its address and the attack's name, as arguments; all that the test knows it reads from the API and from /proc.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import psutil
from api.catalog.entries import write
from lab.api_process import ApiProcess
from lab.commands import SIGNING_KEY
from lab.fleet import fleet_engine
from lab.forked import Process, launch
from lab.parts import eventually, missing, size_of, xdist_worker

from aima_worker.runtimes.process.disk import remove_tree
from aima_worker.runtimes.process.users import obstacle

WITHIN = timedelta(seconds=120)
FIRST_USER = 82_000 + 100 * xdist_worker()
USERS = {"alpha": range(FIRST_USER, FIRST_USER + 50), "beta": range(FIRST_USER + 50, FIRST_USER + 100)}
"""Of the engines of each host, and of no other test or xdist worker, whose engines `kill_all` would kill."""
FIRST_PORT = 32_200 + 50 * xdist_worker()
PORTS = {"alpha": range(FIRST_PORT, FIRST_PORT + 25), "beta": range(FIRST_PORT + 25, FIRST_PORT + 50)}
"""Race: hosts that choose the same port at once both find it free."""
PYTHON = "/usr/bin/python3"
"""Every user may execute it: the Python of the tests can lie in a home directory."""
PIDS = 40
MEMORY = 64 << 20
DISK = 16 << 20
HOSTILE = r'''
import ctypes, http.server, os, signal, sys, threading, time

if os.geteuid() == 0:
    sys.exit("not as root")

address, port, attack = sys.argv[1], int(sys.argv[2]), sys.argv[3]

def forks():
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            try:
                if os.fork() == 0:
                    os.setsid()
                    os.execve(sys.executable, [sys.executable, "-S", "-c", """if 1:
                        import os, signal, time
                        signal.signal(signal.SIGTERM, signal.SIG_IGN)
                        while True:
                            try:
                                os.fork()
                            except OSError:
                                pass
                            time.sleep(0.05)"""], {})
            except OSError:
                time.sleep(0.05)

def memory():
    held = []
    while True:
        held.append(bytearray(b"x") * (4 << 20))

def disk():
    number = 0
    while True:
        number += 1
        with open(f"{os.environ['HOME']}/{number}", "wb") as file:
            file.write(b"x" * (1 << 20))
        time.sleep(0.01)

def deep():
    os.chdir(os.environ["HOME"])
    for _ in range(3000):
        os.mkdir("d")
        os.chdir("d")
    print("deep enough", flush=True)

def log():
    while True:
        os.write(1, b"flood " * 10_000 + b"\n")

def deaf():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

def tried(what, how):
    try:
        if how() == b"":
            return  # of a thread of the kernel
    except OSError:
        return
    print("SUCCEEDED:", what, flush=True)

def traced(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, pid, None, None) < 0:
        raise OSError(ctypes.get_errno())

def snoop():
    for path in open(os.path.dirname(sys.argv[0]) + "/targets").read().split():
        tried("read " + path, lambda: open(path).read(1))
        tried("write " + path, lambda: open(path, "a"))
    for path in ("/tmp/x", "/run/x", "/etc/x", os.path.dirname(sys.argv[0]) + "/x"):
        tried("create " + path, lambda: open(path, "w"))
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        if pid in (os.getpid(), 1):
            continue
        for name in ("environ", "maps", "mem"):
            tried(f"read {name} of {pid}", lambda: open(f"/proc/{pid}/{name}", "rb").read(1))
        tried(f"signal {pid}", lambda: os.kill(pid, 0))
        tried(f"trace {pid}", lambda: traced(pid))
    tried("become root", lambda: os.setuid(0))
    tried("fill /dev/shm", lambda: open("/dev/shm/x", "wb").write(b"x" * (80 << 20)))
    print(open("/proc/self/status").read(), flush=True)
    print("environment:", *sorted(os.environ), flush=True)
    print("snooped", flush=True)

def none():
    pass

class Health(http.server.BaseHTTPRequestHandler):
    begun = False
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        if not Health.begun:
            Health.begun = True
            threading.Thread(target=globals()[attack], daemon=True).start() if attack != "deaf" else deaf()
    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer((address, port), Health).serve_forever()
'''
ATTACKS = ("none", "forks", "memory", "disk", "deep", "log", "deaf", "snoop")


@contextmanager
def open_directory() -> Iterator[Path]:
    """A temporary directory that every user may enter: those of pytest are its own user's."""
    if not Path(PYTHON).exists():
        missing(f"there is no {PYTHON}; `apt-get install python3-minimal` brings it")
    directory = Path(tempfile.mkdtemp(prefix="aima-native-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        remove_tree(directory)  # deeper than shutil's recursion


class NativeHosts:
    """Hosts on this machine that differ in their name, state directory, ports and users; `alpha` by default."""

    def __init__(self, redis_url: str, directory: Path, *, states: Mapping[str, Path], **settings: str) -> None:
        self.directory, self.states = directory, states
        write(directory / "hostile.py", HOSTILE)
        for attack in ATTACKS:
            write(directory / f"catalog/engines/{attack}/{attack}-cpu.yaml", engine_of(attack, directory))
        self.api = ApiProcess(
            redis_url, directory, catalog=directory / "catalog", AIMA_STATE_DIR=str(directory / "api")
        )
        self.environment = {
            **os.environ,
            "AIMA_CONFIG": os.devnull,
            "AIMA_REDIS__URL": redis_url,
            "AIMA_SIGNING_KEY": SIGNING_KEY.get_secret_value(),
            "AIMA_RUNTIME": "process",
            "AIMA_HOST__SLOTS": "8",
            "AIMA_NATIVE__DISK": f"{DISK}B",
            **settings,
        }
        self.workers: dict[str, Process] = {}

    def start_worker(self, name: str = "alpha") -> None:
        own = {
            "AIMA_HOST__NAME": name,
            "AIMA_STATE_DIR": str(self.states[name]),
            "AIMA_HOST__PORTS": f"{PORTS[name][0]}-{PORTS[name][-1]}",
            "AIMA_NATIVE__USERS": f"{USERS[name][0]}-{USERS[name][-1]}",
        }
        with (self.directory / f"{name}.log").open("ab") as log:
            self.workers[name] = launch("aima_worker", env=self.environment | own, stdout=log, stderr=log)
        assert eventually(lambda: bool(self.get(f"hosts/{name}").get("live")), within=WITHIN), self.log()

    def stop_worker(self, name: str = "alpha") -> None:
        if (worker := self.workers.pop(name, None)) is not None:
            worker.terminate()
            try:
                worker.wait(WITHIN.total_seconds())
            finally:
                worker.kill()

    @property
    def alive(self) -> list[str]:
        """The hosts whose workers run."""
        return [name for name, worker in self.workers.items() if worker.poll() is None]

    def get(self, path: str) -> Any:
        reply = self.api.client.get(f"/v1/{path}")
        return reply.json() if reply.is_success else {}

    def started(self, *attacks: str) -> None:
        """Starts them on every host and waits until all are ready, or have been."""
        hosts = [*self.workers]
        operations = [each for attack in attacks for each in self.api.start(service_of(attack), hosts=hosts)]
        assert self.ended(operations) == {"succeeded"}, self.log()

    def stopped(self, *attacks: str) -> None:
        operations = [each for attack in attacks for each in self.api.stop(service_of(attack), grace="1s")]
        assert self.ended(operations) == {"succeeded"}, self.log()

    def ended(self, operations: list[dict[str, Any]]) -> set[str]:
        """The states in which they end."""

        def states() -> set[str]:
            return {self.get(f"operations/{operation['id']}")["state"] for operation in operations}

        assert eventually(lambda: not states() & {"queued", "running"}, within=WITHIN), self.log()
        return states()

    def instance(self, attack: str, host: str = "alpha") -> dict[str, Any]:
        instances = self.get(f"services/{service_of(attack)}")["instances"]
        [instance] = [each for each in instances if each["host"] == host]
        return dict(instance)

    def log_of(self, attack: str, host: str = "alpha") -> list[str]:
        reply = self.api.client.get(f"/v1/services/{service_of(attack)}/logs", params={"host": host})
        return [line["text"] for line in reply.json()["items"]] if reply.is_success else []

    def serves(self, attack: str, host: str = "alpha") -> bool:
        try:
            return httpx2.get(f"{self.instance(attack, host)['endpoint']}/health", timeout=60).is_success
        except httpx2.TransportError:
            return False

    def log(self) -> str:
        return "\n".join(file.read_text()[-5000:] for file in self.directory.glob("*.log"))

    def engine_directory(self, attack: str, host: str = "alpha") -> Path:
        [directory] = (self.states[host] / "processes").glob(f"*svc-{attack}-*")
        return directory

    def log_size(self, attack: str) -> int:
        return size_of(self.engine_directory(attack).glob("log*"))

    def processes_of(self, attack: str, host: str = "alpha") -> list[psutil.Process]:
        running = json.loads((self.engine_directory(attack, host) / "running.json").read_text())
        return [each for each in processes() if each.info["uids"].real == running["user"]]


@contextmanager
def native_hosts(
    redis_url: str, directory: Path, *, states: Mapping[str, Path], **settings: str
) -> Iterator[NativeHosts]:
    """One for each state directory, by name."""
    if os.geteuid() != 0 or any(map(obstacle, USERS.values())):
        missing("only root with all capabilities runs engines as other users")
    hosts = NativeHosts(redis_url, directory, states=states, **settings)
    with ExitStack() as stack:
        stack.callback(hosts.api.client.close)
        stack.callback(hosts.api.kill)
        hosts.api.up()
        stack.callback(kill_all)
        for name in states:
            stack.callback(hosts.stop_worker, name)
            hosts.start_worker(name)
        yield hosts


def processes() -> list[psutil.Process]:
    """Of the engines' users."""
    found = []
    for process in psutil.process_iter(["uids", "status"]):
        uids = process.info["uids"]
        if (
            uids
            and any(uids.real in users for users in USERS.values())
            and process.info["status"] != psutil.STATUS_ZOMBIE
        ):
            found.append(process)
    return found


def kill_all() -> None:
    for _ in range(100):
        for process in processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if not processes():
            return


def service_of(attack: str) -> str:
    return f"svc-{attack}-one"


def engine_of(attack: str, directory: Path) -> str:
    command = [PYTHON, "-S", str(directory / "hostile.py"), "{address}", "{port}", attack]
    memory = f"  memory: {MEMORY}B\n" if attack == "memory" else ""
    limits = f"limits:\n  pids: {PIDS}\n{memory}"
    return f"{fleet_engine(attack, image='hostile:1')}{limits}native:\n  command: {command}\n  install: none\n"
