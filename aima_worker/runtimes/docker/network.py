"""The bridge network of an installation: engines on it reach neither each other nor their host.

Inter-container traffic is off. A published port is served on the host's address, where a proxy would accept a neighbour
like any client, so a firewall chain drops new connections from the bridge to the host itself, except DNS. Only root may
write that chain, and only beside the engine: elsewhere it is missing, which the host's facts report.
"""

import subprocess
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import structlog

from aima_core.errors import AimaError, EngineRefused, NoNetwork
from aima_worker.runtime import INSTALLATION_LABEL

NO_ICC = {"com.docker.network.bridge.enable_icc": "false"}
BRIDGE_OPTION = "com.docker.network.bridge.name"
_LONGEST_INTERFACE = 15
"""Characters of an interface's name that the kernel stores."""
# The engine has no codes for these refusals, so their words are matched.
_NO_ADDRESSES = ("non-overlapping", "address pools have been fully subnetted")
_IPTABLES_TIMEOUT = "5"
"""Seconds that iptables waits for its lock."""
_NOT_PERMITTED = (3, 4)
"""Exit codes of iptables' two variants without root's privileges."""

_log = structlog.get_logger()


class EngineNetwork(NamedTuple):
    """Names, so that a second worker on the same engine finds the network of the first one."""

    installation: str

    @property
    def name(self) -> str:
        return f"{self.installation}.engines"

    @property
    def bridge(self) -> str:
        """The host's interface. The engine refuses a second network with the same one: a lock on its creation."""
        name = f"br-{self.installation}"
        return name if len(name) <= _LONGEST_INTERFACE else f"br-{sha256(name.encode()).hexdigest()[:12]}"

    @property
    def chain(self) -> str:
        return f"AIMA-{self.bridge}"

    @property
    def options(self) -> dict[str, str]:
        return {**NO_ICC, BRIDGE_OPTION: self.bridge}

    @property
    def labels(self) -> dict[str, str]:
        return {INSTALLATION_LABEL: self.installation}

    def check(self, found: Mapping[str, Any], *, host: str) -> None:
        """Raises NoNetwork if a network of this name is not AIMA's, or does not isolate its containers."""
        options, labels = found.get("Options") or {}, found.get("Labels") or {}
        if not self.labels.items() <= labels.items() or not NO_ICC.items() <= options.items():
            raise NoNetwork(
                network=self.name,
                host=host,
                detail="a network of that name exists, and is not AIMA's",
                remedy=f"Remove it on {host} with `docker network rm {self.name}`, or set another `installation`.",
            )


def lacks_addresses(refused: EngineRefused) -> bool:
    return any(sign in str(refused) for sign in _NO_ADDRESSES)


def network_refused(refused: EngineRefused, network: EngineNetwork, *, host: str) -> AimaError:
    detail = str(refused.facts["detail"])
    remedy = f"See `docker network ls` on {host}."
    if lacks_addresses(refused):
        remedy = f"On {host} run `docker network prune`, or widen `default-address-pools` in /etc/docker/daemon.json."
    return NoNetwork(network=network.name, host=host, detail=detail, remedy=remedy)


# Firewall ----------------------------------------------------------------------------------------------------------


def may_filter() -> bool:
    """Whether this process may read, and thus write, the firewall of its network namespace."""
    return _iptables("-S", "INPUT") == 0


def refuse_host(network: EngineNetwork) -> bool:
    """Drops connections from the bridge to the host's own addresses. Idempotent; False where it is not permitted.

    Race: two workers may both insert the jump, which changes nothing; `allow_host` deletes all of them.
    """
    if (checked := _iptables("-C", *_jump(network))) == 0:
        return True
    rules = (
        "*filter",
        f":{network.chain} - [0:0]",
        f"-A {network.chain} -p tcp --dport 53 -j RETURN",
        f"-A {network.chain} -p udp --dport 53 -j RETURN",
        f"-A {network.chain} -m conntrack --ctstate NEW -j DROP",
        f"-I {' '.join(_jump(network))}",
        "COMMIT\n",
    )
    written = checked not in (None, *_NOT_PERMITTED) and _iptables_restore("\n".join(rules)) == 0
    if not written:
        _log.warning("engines not isolated from their host", network=network.name, reason="the firewall is not ours")
    return written


def allow_host(network: EngineNetwork) -> None:
    """Deletes the chain. Idempotent."""
    while _iptables("-D", *_jump(network)) == 0:
        pass
    _iptables("-F", network.chain)
    _iptables("-X", network.chain)


def _jump(network: EngineNetwork) -> Sequence[str]:
    return ("INPUT", "-i", network.bridge, "-j", network.chain)


def _iptables(*arguments: str) -> int | None:
    """The exit code; None without the program."""
    return _exit_code(["iptables", "-w", _IPTABLES_TIMEOUT, *arguments])


def _iptables_restore(rules: str) -> int | None:
    return _exit_code(["iptables-restore", "-w", _IPTABLES_TIMEOUT, "--noflush"], rules)


def _exit_code(command: Sequence[str], given: str | None = None) -> int | None:
    try:
        return subprocess.run(command, input=given, text=True, capture_output=True, check=False).returncode
    except OSError:
        return None
