"""Every Redis key that AIMA uses. No other module may spell one; Celery's own keys carry the same prefix.

key                            type     written by    holds, and when it expires
aima:epoch                     string   api, worker   id of this Redis data set: a new one means data loss; never
aima:fence                     string   api, worker   the last fencing token; never
aima:operations                zset     api           every operation, by age; pruned as their records expire
aima:operations:active         zset     api, worker   active operations, by when to check for a stall; until the end
aima:operations:waiting        zset     api, worker   operations pending for capacity, by age; until claimed or ended
aima:operation:<id>            hash     api, worker   the record; ENDED_TTL after its end
aima:claim:<id>                string   worker        the worker that executes it; CLAIM_TTL unless renewed
aima:log:<id>                  stream   api, worker   its events, capped; ENDED_TTL after its end
aima:log                       stream   api, worker   the events of all operations, capped; never
aima:events                    channel  api, worker   each event as it is recorded
aima:services, aima:instances  zset     api, worker   ids in order; never
aima:services:at               hash     worker        the host that last claimed each service; until removed
aima:service:<id>              string   api, worker   the signed spec; until removed
aima:starts:<service>          hash     api, worker   the route of each of its starts that has not ended; until removed
aima:revisions:<service>       hash     api, worker   its last ten signed specs by number; until removed
aima:instance:<id>             hash     api, worker   desired state and status; until removed
aima:instances:<host>          set      api, worker   the ids of a host's instances; until removed
aima:routes                    zset     api           routes by when they last had a live consumer; HEARD_FOR after that
aima:hosts                     hash     worker        the facts of every host by name; never
aima:hosts:seen                zset     worker        hosts by the time of their last heartbeat; never
aima:hosts:sessions            hash     worker        the worker that has each name; never
aima:hosts:identities          hash     worker        the name of each identity; never
aima:hosts:drained             hash     api, worker   drained hosts, and since when; until resumed
aima:hosts:labels              hash     api           labels that documents gave to hosts; until forgotten
aima:hosts:dropped             hash     worker        malformed messages dropped by each; DROPPED_TTL after the last
aima:hosts:certificates        hash     api           the certificate of each host's own key; until forgotten
aima:usage:<host>              string   worker        what it and its instances use; USAGE_TTL
aima:slots:<host>              zset     worker        its running starts and pulls, by when their claim expires
aima:held:<host>               hash     worker        the allocation of each service there; until released
aima:<queue>                   list     api, worker   queued messages, as Celery reads them
aima:ports:<host>              zset     worker        its ports by when they are free: past, to come, or never; never
aima:ports:<host>:last         hash     worker        the last port of each instance; never
aima:port:<host>:<port>        string   worker        the lease; PORT_LEASE until its container runs, then none
aima:idempotency:<digest>      string   api           the response to a request of one API key; IDEMPOTENCY_TTL
aima:keys                      hash     api           the signed record of each API key by the key's digest; never
aima:keys:used                 hash     api           when each API key was last used; until revoked
aima:aliases                   hash     api           the signed record of each alias by its name; until removed
aima:manifests                 hash     api           the signed manifest of each model by its id; never
aima:fetching:<model>          hash     worker        what each host of a site states about its fetch; FETCHING_TTL
aima:pieces:<model>            hash     worker        the digest of each piece of a model; PIECES_TTL after a fetch
aima:traffic                   hash     gateway       requests by instance of each gateway; TRAFFIC_TTL after the last
aima:audit                     stream   api           requests that change something, capped; never
aima:audit:refused             stream   api           refused requests, counted per address, capped; never
aima:upkeep                    string   api           the lock of the node that runs the controllers; seconds
aima:turn:<service>            string   api           the lock of the node that places its replicas; seconds
aima:asked:<host>              list     api           log requests to a host, capped; ASKED_TTL
aima:answer:<id>               stream   worker        the response to a log request; ANSWER_TTL
aima:lines:<instance>          stream   worker        its log lines while followed, capped; LINES_TTL
aima:last-lines:<instance>     string   worker        its last log lines; LAST_LINES_TTL unless renewed
"""

from datetime import timedelta
from typing import Final, Generic, TypeVar

from aima_core.domain.ids import AnswerId, HostName, InstanceId, OperationId, ServiceId

PREFIX: Final = "aima:"
_Owner = TypeVar("_Owner", bound=str)


class KeyPrefix(str, Generic[_Owner]):
    """The prefix of keys that end with an id; scripts append ids themselves."""

    __slots__ = ()

    def __call__(self, owner: _Owner) -> str:
        return f"{self}{owner}"


ENDED_TTL: Final = timedelta(days=7)
CLAIM_TTL: Final = timedelta(seconds=15)
HOST_DEAD: Final = timedelta(seconds=15)
"""A host without a heartbeat for this long is not live."""
USAGE_TTL: Final = timedelta(seconds=20)
PORT_LEASE: Final = timedelta(minutes=2)
TRAFFIC_TTL: Final = timedelta(seconds=15)
"""Of a gateway's last report."""
IDEMPOTENCY_TTL: Final = timedelta(days=1)
FETCHING_TTL: Final = timedelta(minutes=10)
"""After the last statement of any host; each one counts for seconds only."""
PIECES_TTL: Final = timedelta(days=1)
AUDIT_CAP: Final = 10_000
"""About how many entries of each of the two audit streams are kept."""
LOG_CAP: Final = 2000
"""About how many events of one operation are kept."""
COMMON_LOG_CAP: Final = 10000
ASKED_TTL: Final = timedelta(seconds=30)
ASKED_CAP: Final = 500
ANSWER_TTL: Final = timedelta(minutes=1)
LINES_TTL: Final = timedelta(minutes=1)
LOOK_AFTER: Final = timedelta(seconds=7)
"""A stalled operation is redelivered after this long."""
HEARD_FOR: Final = timedelta(days=1)
"""A route without a consumer for this long counts as never consumed."""
LINES_CAP: Final = 100
"""About how many batches of one instance's lines are kept for readers."""
LAST_LINES_TTL: Final = timedelta(days=7)
DROPPED_TTL: Final = timedelta(days=1)
"""The counts expire once no host has dropped a message for this long: a fixed cause is not reported for ever."""

EPOCH: Final = "aima:epoch"
FENCE: Final = "aima:fence"
OPERATIONS: Final = "aima:operations"
ACTIVE: Final = "aima:operations:active"
WAITING: Final = "aima:operations:waiting"
COMMON_LOG: Final = "aima:log"
EVENTS: Final = "aima:events"
UPKEEP: Final = "aima:upkeep"
SERVICES: Final = "aima:services"
SERVICES_AT: Final = "aima:services:at"
INSTANCES: Final = "aima:instances"
ROUTES: Final = "aima:routes"
HOSTS: Final = "aima:hosts"
HOSTS_SEEN: Final = "aima:hosts:seen"
HOSTS_SESSIONS: Final = "aima:hosts:sessions"
HOSTS_IDENTITIES: Final = "aima:hosts:identities"
DRAINED: Final = "aima:hosts:drained"
HOST_LABELS: Final = "aima:hosts:labels"
HOST_CERTIFICATES: Final = "aima:hosts:certificates"
DROPPED: Final = "aima:hosts:dropped"
API_KEYS: Final = "aima:keys"
API_KEYS_USED: Final = "aima:keys:used"
ALIASES: Final = "aima:aliases"
MANIFESTS: Final = "aima:manifests"
TRAFFIC: Final = "aima:traffic"
AUDIT: Final = "aima:audit"
AUDIT_REFUSED: Final = "aima:audit:refused"

operation: Final = KeyPrefix[OperationId]("aima:operation:")
claim: Final = KeyPrefix[OperationId]("aima:claim:")
log: Final = KeyPrefix[OperationId]("aima:log:")
service: Final = KeyPrefix[ServiceId]("aima:service:")
revisions: Final = KeyPrefix[ServiceId]("aima:revisions:")
starts: Final = KeyPrefix[ServiceId]("aima:starts:")
instance: Final = KeyPrefix[InstanceId]("aima:instance:")
instances_on: Final = KeyPrefix[HostName]("aima:instances:")
ports: Final = KeyPrefix[HostName]("aima:ports:")
port: Final = KeyPrefix[str]("aima:port:")
usage: Final = KeyPrefix[HostName]("aima:usage:")
slots: Final = KeyPrefix[HostName]("aima:slots:")
held: Final = KeyPrefix[HostName]("aima:held:")
idempotency: Final = KeyPrefix[str]("aima:idempotency:")
turn: Final = KeyPrefix[ServiceId]("aima:turn:")
asked: Final = KeyPrefix[HostName]("aima:asked:")
fetching: Final = KeyPrefix[str]("aima:fetching:")
pieces: Final = KeyPrefix[str]("aima:pieces:")
answer: Final = KeyPrefix[AnswerId]("aima:answer:")
lines: Final = KeyPrefix[InstanceId]("aima:lines:")
last_lines: Final = KeyPrefix[InstanceId]("aima:last-lines:")
queue: Final = KeyPrefix[str](PREFIX)


def last_ports(host: HostName) -> str:
    return f"{ports(host)}:last"


def port_prefix(host: HostName) -> str:
    return f"{port}{host}:"


def celery_s_own(queue: str) -> list[str]:
    """The bindings that Celery keeps for the consumers of a queue."""
    return [f"{PREFIX}_kombu.{kind}.{queue}" for kind in ("binding", "binding_permanent")]
