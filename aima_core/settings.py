"""Settings, in ascending precedence: `aima.toml`, credentials, environment (`AIMA_…`, nested by `__`), then options.

The file is the one named by AIMA_CONFIG, else `aima.toml` in the working directory, else `/etc/aima/aima.toml`.
A credential is a file with the value of one setting, which keeps secrets out of the environment: `aima_redis.url` in
systemd's CREDENTIALS_DIRECTORY, or, with precedence, the file that AIMA_REDIS__URL_FILE names.
"""

import json
import os
import socket
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Annotated, Any, Literal, Self, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from aima_core.domain.ids import HostName, Site
from aima_core.domain.units import Duration, Size, parse_duration
from aima_core.errors import BadSettings
from aima_core.redis.connection import sentinel_address
from aima_core.system.loopback import is_loopback

MIN_KEY_LENGTH = 16
"""Characters of a key in `api.keys`."""
KEY_EXAMPLE = "`openssl rand -hex 32` makes one"
CLIENT_VARIABLES = {"AIMA_URL", "AIMA_GATEWAY_URL", "AIMA_KEY", "AIMA_CA", "AIMA_CONFIG"}
"""Not settings of a node: the API's address, key and authority, and the path of the settings file."""


def _port_range(value: object) -> object:
    if isinstance(value, range):
        return value
    first, dash, last = str(value).partition("-")
    if not (dash and first.isdigit() and last.isdigit() and 1024 <= int(first) <= int(last) <= 65535):
        raise ValueError(f"{value!r} is not a range of ports; write it such as `20000-20999`")
    return range(int(first), int(last) + 1)


PortRange = Annotated[Any, BeforeValidator(_port_range)]


def _user_range(value: object) -> object:
    if isinstance(value, range) or value is None or value == "none":
        return value if isinstance(value, range) else None
    first, dash, last = str(value).partition("-")
    if not (dash and first.isdigit() and last.isdigit() and 1000 <= int(first) < int(last) < 2**31):
        raise ValueError(f"{value!r} is neither a range of user ids, such as `80000-80999`, nor `none`")
    return range(int(first), int(last) + 1)


UserRange = Annotated[Any, BeforeValidator(_user_range)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RedisSettings(Section):
    url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """`rediss://` for TLS with a verified certificate; `sentinel://` for a master discovered through Sentinels."""

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: SecretStr) -> SecretStr:
        sentinel_address(url.get_secret_value())
        return url


class TlsSettings(Section):
    certificate: Path | None = None
    """PEM: the server's certificate, then its chain. Loaded again when it changes."""
    key: Path | None = None

    @model_validator(mode="after")
    def _is_a_pair(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("TLS needs both; write certificate = '/etc/aima/tls.crt' and key = '/etc/aima/tls.key'")
        return self


class ListenerSettings(Section):
    """Where an API node or a gateway listens."""

    bind: str = "127.0.0.1"
    port: int = Field(0, ge=0, le=65535)
    tls: TlsSettings = TlsSettings()
    plain: bool = False
    """Whether it may serve beyond loopback without TLS, as behind a proxy that adds it."""
    connections: int = Field(4096, ge=1)
    """The limit of open connections of this node; the process' limit of descriptors can lower it."""
    connections_per_address: int = Field(512, ge=1)
    """The limit for one IPv4 address or one IPv6 /64 network."""
    trusted_proxies: tuple[IPvAnyNetwork, ...] = ()
    """Proxies in front of this node: exempt from the limit per address, and believed about the client's address."""

    @property
    def is_exposed(self) -> bool:
        """Reachable from the network."""
        return not is_loopback(self.bind)


class ApiSettings(ListenerSettings):
    port: int = Field(7080, ge=0, le=65535)
    keys: tuple[SecretStr, ...] = ()
    """Bearer keys with the scope `admin`; without one the API binds to loopback only."""
    requests_per_minute: int = Field(6000, ge=1)
    """Of one API key to this node; beyond it, requests get 429."""
    move_after: Duration = parse_duration("60s")
    """A host without a heartbeat for this long is lost: its instances fail over."""
    wait_for_hosts: Duration = parse_duration("10m")
    """An operation whose routes had no live consumer for this long fails."""
    streams: int = Field(2000, ge=1)
    """The limit of open event streams on this node; beyond it, requests get 429."""
    operations: int = Field(20_000, ge=1)
    """The limit of active operations; beyond it, starts and pulls get 429."""
    catalog: Path | None = None
    """A directory that overlays the shipped catalog."""

    @field_validator("keys")
    @classmethod
    def _cannot_be_guessed(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for number, key in enumerate(keys, 1):
            text = key.get_secret_value()
            if len(text.strip()) < MIN_KEY_LENGTH:
                raise ValueError(f"key {number} has less than {MIN_KEY_LENGTH} characters; {KEY_EXAMPLE}")
            if text != text.strip() or not (text.isascii() and text.isprintable()):
                raise ValueError(f"key {number} is no text that a request can carry; {KEY_EXAMPLE}")
        return keys


class GatewaySettings(ListenerSettings):
    port: int = Field(7090, ge=0, le=65535)
    url: str | None = Field(None, pattern=r"^https?://[^\s/]+(/[^\s]*)?$")
    """By which applications reach the gateways, such as a load balancer's; None is built from `bind` and `port`."""
    keys_for: Duration = parse_duration("15m")
    """How long API nodes and gateways accept a key that they know while Redis does not answer or has lost its data."""
    body: Size = ByteSize(64_000_000)
    """The limit of a request's body, and of an answer that is not streamed."""
    running: int = Field(256, ge=1)
    """The limit of requests in flight to one instance from this gateway; further ones wait."""
    waiting: int = Field(512, ge=0)
    """The limit of requests that wait for the instances of one service; beyond it, requests get 429."""
    wait: Duration = parse_duration("60s")
    """How long a request waits for an instance that can take it."""
    connect: Duration = parse_duration("2s")
    """The timeout until an engine accepts a connection."""
    first_byte: Duration = parse_duration("5m")
    """The timeout from a streamed request until its first byte."""
    answer: Duration = parse_duration("15m")
    """The timeout from a request that is not streamed until its answer."""
    silence: Duration = parse_duration("2m")
    """The timeout between two parts of a stream."""
    api: tuple[str, ...] = ()
    """URLs of API nodes, which certify the gateway's own key for `keys_for`; without one it reaches engines of its own
    machine, and exposed ones."""
    key: SecretStr | None = None
    """An API key with the scope `gateway`."""
    ca: Path | None = None
    """PEM: the authorities of the certificates of API nodes and data planes; None takes the system's."""


class DataplaneSettings(Section):
    bind: str | None = None
    """None is `host.address`. On loopback no data plane runs: no gateway of another machine reaches this host."""
    port: int = Field(7091, ge=0, le=65535)
    """0 runs none."""
    tls: TlsSettings = TlsSettings()
    connections: int = Field(1024, ge=1)
    """The limit of open connections of gateways and other hosts to this host."""
    uploads: int = Field(16, ge=0)
    """Pieces of models that it serves to other hosts at a time; 0 shares none."""
    upload_rate: Size | None = None
    """Bytes per second of models that it serves to other hosts; None is unlimited."""
    ca: Path | None = None
    """PEM: the authorities of the certificates of other hosts' data planes; None takes the system's."""


class FlowerSettings(Section):
    bind: str = "127.0.0.1"
    port: int = Field(5555, ge=0, le=65535)
    user: str = Field("aima", pattern=r"^[^:\s]+$")
    password: SecretStr | None = None
    """None generates one in the state directory, and binds Flower to loopback."""


class AcceleratorOverride(Section):
    kind: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """The first half of a route, such as `gb10`."""
    name: str
    id: str | None = None
    memory: Size | None = None
    compute_capability: str | None = None


class FactsOverride(Section):
    """Overrides of detected facts; None keeps the detected one."""

    arch: Literal["arm64", "amd64"] | None = None
    cores: int | None = Field(None, ge=1)
    memory: Size | None = None
    unified_memory: bool | None = None
    accelerators: tuple[AcceleratorOverride, ...] | None = None
    """Replaces the detected ones; an empty list hides them."""


class HostSettings(Section):
    name: HostName = Field(default_factory=lambda: HostName(socket.gethostname().lower().split(".")[0]))
    address: str = "127.0.0.1"
    """The address on which engines' ports are published; in a fleet, this host's address."""
    ports: PortRange = range(20000, 21000)
    """Leased to engines; outside the kernel's range for outgoing connections."""
    model_roots: tuple[Path, ...] = ()
    """Directories below which engines may read."""
    trusted_model_roots: tuple[Path, ...] = ()
    """Those of `model_roots` in which others than root and the worker may write: who does chooses what engines read."""
    model_store: Path | None = None
    """The directory into which the worker fetches models; no other process may write it. None is the state directory's
    name with `-models` after it."""
    model_stall: Duration = parse_duration("2m")
    """The stall timeout of a fetch of a model; after it, a retry resumes with the bytes on the disk."""
    model_connections: int = Field(4, ge=1, le=32)
    """To the origin of a model that is fetched."""
    model_rate: Size | None = None
    """Bytes per second of models that this host downloads from origins; None is unlimited."""
    site: Site = Site("default")
    """Hosts of one site fetch a model over their uplink once, and share its pieces."""
    site_model_rate: Size | None = None
    """Bytes per second of models that all hosts of the site download from origins together; None is unlimited."""
    model_collect_below: Size | None = None
    """The low watermark: with less disk free, models that nothing uses are collected, the least recently used first.
    None is twice the reserve of that disk; 0 collects for fetches that lack space only."""
    model_collect_until: Size | None = None
    """The high watermark: a collection ends once so much is free. None is twice the low one."""
    images: tuple[str, ...] = ("*",)
    """Patterns of the image references that this host may run."""
    slots: int = Field(4, ge=1, le=64)
    """The limit of concurrent starts and pulls."""
    labels: Mapping[str, str] = {}
    memory_reserve: Size | None = None
    """Memory that starts leave free; None reserves a tenth if CPU and GPU share it, else a twentieth."""
    memory_floor: Size | None = None
    """An engine is killed once less than this is available. None uses half of the reserve if CPU and GPU share the
    memory, else a quarter of it."""
    disk_reserve: Size | None = None
    """Free disk below which no start is taken; None reserves a twentieth, at most 10 GB."""
    disk_floor: Size | None = None
    """The engine that writes most is killed once less disk than this is free; None uses half of the reserve."""
    secrets: Path | None = None
    """The directory of the secrets that services may refer to. None uses `secrets` in the state directory."""
    runtime_dir: Path | None = None
    """A directory on a tmpfs, for the copies that engines read; None uses /run/aima, or one of the worker's user."""
    facts: FactsOverride = FactsOverride()


class DockerSettings(Section):
    host: str | None = None
    """Such as `unix:///run/docker.sock` or `ssh://user@box`; None follows DOCKER_HOST, then the usual socket."""
    timeout: Duration = parse_duration("60s")
    """For one call that is not a pull."""
    stall: Duration = parse_duration("2m")
    """A pull without progress for this long fails."""


class NativeSettings(Section):
    users: UserRange = range(80_000, 81_000)
    """User ids of engines that run as native processes, without accounts, where the worker may switch users; None runs
    all engines as the worker's user."""
    disk: Size | None = None
    """The disk quota of an engine's working directory; None is half of the free space at its start."""


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="AIMA_", env_nested_delimiter="__", extra="forbid", frozen=True)

    state_dir: Path = Path("~/.local/state/aima")
    installation: str = Field("aima", pattern=r"^[a-z0-9]{1,16}$")
    """Distinguishes the containers of several installations on one host."""
    signing_key: SecretStr | None = None
    """The seed of the API nodes' private key, unknown to Redis and to hosts; `aima up` generates one."""
    trusted_keys: tuple[str, ...] = ()
    """The public keys whose orders this host executes, beside the public half of `signing_key`."""
    retired_keys: tuple[str, ...] = ()
    """Public keys that verify stored records and labels, and never a new order."""
    runtime: Literal["auto", "docker", "docker-cli", "process", "fake"] = "auto"
    redis: RedisSettings = RedisSettings()
    api: ApiSettings = ApiSettings()
    gateway: GatewaySettings = GatewaySettings()
    dataplane: DataplaneSettings = DataplaneSettings()
    flower: FlowerSettings = FlowerSettings()
    host: HostSettings = Field(default_factory=HostSettings)
    docker: DockerSettings = DockerSettings()
    native: NativeSettings = NativeSettings()

    @property
    def model_store(self) -> Path:
        """Of this host."""
        state = self.state_dir.expanduser()
        return (self.host.model_store or state.with_name(f"{state.name}-models")).expanduser().absolute()

    @property
    def dataplane_url(self) -> str | None:
        """Of this host's data plane; None without one."""
        bind, port = self.dataplane.bind or self.host.address, self.dataplane.port
        if port == 0 or is_loopback(bind) or is_loopback(self.host.address):
            return None
        return _url(self.host.address, port, self.dataplane.tls)

    @property
    def inference_url(self) -> str | None:
        """The base URL of OpenAI's API for applications; None while the gateway's port is not known."""
        gateway = self.gateway
        if gateway.url is None and gateway.port == 0:
            return None
        address = self.host.address if gateway.bind in ("0.0.0.0", "::") else gateway.bind
        return f"{(gateway.url or _url(address, gateway.port, gateway.tls)).rstrip('/')}/v1"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 the base class names it
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 the base class names it
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 the base class names it
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _Variables(settings_cls), TomlConfigSettingsSource(settings_cls, toml_file=_file())


def _url(address: str, port: int, tls: TlsSettings) -> str:
    host = f"[{address}]" if ":" in address else address
    return f"{'https' if tls.certificate else 'http'}://{host}:{port}"


class _Variables(EnvSettingsSource):
    """The environment, with the credentials below it."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {variable.lower(): text for variable, text in _variables().items()}


CREDENTIAL_PREFIX = "aima_"
FILE_SUFFIX = "_FILE"


def _variables() -> dict[str, str]:
    """Variables, else credentials, without white space at their ends. Raises BadSettings."""
    given = {name: text for name, text in os.environ.items() if name.startswith("AIMA_")}
    files: dict[str, Path] = {}
    if directory := os.environ.get("CREDENTIALS_DIRECTORY"):
        for path in Path(directory).glob(f"{CREDENTIAL_PREFIX}*"):
            files[f"AIMA_{path.name.removeprefix(CREDENTIAL_PREFIX).replace('.', '__').upper()}"] = path
    for name in [name for name in given if name.endswith(FILE_SUFFIX)]:
        files[name.removesuffix(FILE_SUFFIX)] = Path(given.pop(name))
    return {variable: _credential(path, variable) for variable, path in files.items()} | given


def _credential(path: Path, variable: str) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as unreadable:
        reason = getattr(unreadable, "strerror", None) or "it is no text"
        raise BadSettings(
            detail=f"The credential {path} cannot be read: {reason}.", where=f"the file, or {variable}{FILE_SUFFIX}"
        ) from unreadable


def _file() -> Path:
    if named := os.environ.get("AIMA_CONFIG"):
        return Path(named)
    return next((path for path in (Path("aima.toml"), Path("/etc/aima/aima.toml")) if path.exists()), Path("aima.toml"))


def load_settings(**options: Any) -> Settings:
    """Loads the settings. Raises BadSettings with the place of each mistake and an example."""
    file = _file()
    if os.environ.get("AIMA_CONFIG") and not file.exists():
        raise BadSettings(detail=f"there is no file {file}.", where="AIMA_CONFIG, or unset it")
    if mistakes := [mistake for name, text in _variables().items() if (mistake := _variable_mistake(name, text))]:
        raise BadSettings(
            detail=" ".join(mistakes), where="the environment or credential; docs/operating.md lists the variables"
        )
    try:
        return Settings(**options)
    except TOMLDecodeError as error:
        raise BadSettings(
            detail=f"{file} is not TOML: {error}.", where=f"`{file}`, such as `[api]` and `port = 7080`"
        ) from error
    except ValidationError as invalid:
        detail = " ".join(f"`{'.'.join(map(str, error['loc']))}`: {_described(error)}." for error in invalid.errors())
        raise BadSettings(detail=detail, where=f"`{file}`, the AIMA_… variables or the options") from invalid


def _variable_mistake(variable: str, text: str) -> str | None:
    """Checked here, since pydantic ignores an unknown variable and raises without a place where JSON does not parse."""
    if variable in CLIENT_VARIABLES:
        return None
    annotation: Any = Settings
    for name in variable.removeprefix("AIMA_").lower().split("__"):
        fields = getattr(annotation, "model_fields", {})
        if name not in fields:
            near = get_close_matches(name, fields, 1) or sorted(fields)
            return f"{variable} is not a setting: `{name}` is none of {', '.join(near)}."
        annotation = fields[name].annotation
    kind = "model" if hasattr(annotation, "model_fields") else getattr(get_origin(annotation), "__name__", "")
    if kind in _JSON_EXAMPLES and not _is_json(text):
        return f"{variable} is not JSON; write it such as {_JSON_EXAMPLES[kind]}."
    return None


_JSON_EXAMPLES = {"tuple": '["one", "two"]', "Mapping": '{"name": "value"}', "model": "{}"}


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _described(error: Mapping[str, Any]) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    return "there is no such setting" if error["type"] == "extra_forbidden" else message
