"""The tables of the configuration: what each setting is, its default and why that is the default.

Rules:
- Unknown keys are refused. A new setting has a default with which an old file still means what it meant.
- What a single value may be is said here, at its field.
- `RELOADED` marks what SIGHUP applies; whatever is not marked needs a restart.
"""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic.fields import FieldInfo

from meshca.config import values
from meshca.config.values import LONGEST, MILLISECOND, MINUTE
from meshca.model import MIN_LEAF_TTL, KeyType

RELOADED: dict[str, Any] = {"reloaded": True}

Duration = Annotated[timedelta, BeforeValidator(values.duration), AfterValidator(values.within(MILLISECOND, LONGEST))]
LeafLifetime = Annotated[
    timedelta, BeforeValidator(values.duration), AfterValidator(values.within(MIN_LEAF_TTL, LONGEST))
]
Tick = Annotated[timedelta, BeforeValidator(values.duration), AfterValidator(values.within(10 * MILLISECOND, MINUTE))]
AbsolutePath = Annotated[Path, BeforeValidator(values.path)]
SocketPath = Annotated[Path, BeforeValidator(values.socket_path)]
Mode = Annotated[int, BeforeValidator(values.mode)]
Key = Annotated[KeyType, Field(strict=False)]
SocketName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}\z")]


def extra(field: FieldInfo) -> Mapping[str, Any]:
    """What is said of a field beside its description."""
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def is_reloaded(field: FieldInfo) -> bool:
    """Whether SIGHUP applies a change of this field."""
    return "reloaded" in extra(field)


class Section(BaseModel):
    """A table of settings."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
    )


class Socket(Section):
    """`[sockets.NAME]`: a Unix socket that workloads dial, with SDS and the SPIFFE Workload API. Callers get the selector `socket:NAME`."""

    path: SocketPath = Field(
        description="Where it is: an absolute path of at most 107 bytes, which is what the kernel takes."
    )
    mode: Mode = Field(
        default=0o666,
        description="Its permissions. Everybody may dial, since who dials is known from the kernel and not from file permissions; "
        "narrow it where a socket stands for one workload.",
    )
    group: str | None = Field(
        default=None,
        min_length=1,
        description="Its group, by name or number; by default the server's own. Needs a server that is in that group, or root.",
    )

    def __str__(self) -> str:
        return f"{self.path},mode={self.mode:04o}" + (f",group={self.group}" if self.group else "")


class HTTP(Section):
    """`[http]`: a listener for `/metrics`, `/live` and `/ready`."""

    enabled: bool = Field(
        default=True, description="Whether to listen at all. On, since a CA that nobody watches fails unseen."
    )
    address: Annotated[str, BeforeValidator(values.address)] = Field(
        default="127.0.0.1",
        description="Where to listen. Loopback, since metrics tell outsiders how much there is to attack.",
    )
    port: int = Field(
        default=9180,
        ge=0,
        le=65535,
        description="Which port; 0 takes a free one and logs it. Fixed, so that Prometheus finds it again.",
    )


class Router(Section):
    """`[router]`: a routing server in the same process, for Envoys that take their routes from a directory."""

    config_dir: AbsolutePath | None = Field(
        default=None,
        description="The directory of its configuration: there at the start, and watched from then on. None: no routing server.",
    )
    address: Annotated[str, BeforeValidator(values.address)] = Field(
        default="127.0.0.1",
        description="Where proxies dial. Loopback, since the proxies of a laptop are there; others dial over the network, by mutual TLS.",
    )
    port: int = Field(
        default=15010,
        ge=0,
        le=65535,
        description="Which port; 0 takes a free one and says it. Fixed, so that bootstraps can name it.",
    )
    domain: str = Field(
        default="cluster.local",
        min_length=1,
        description="What the short name of a service stands for ends in, as in Kubernetes: NAME.NAMESPACE.svc.DOMAIN.",
    )


class Log(Section):
    """`[log]`: events, one a line, to standard error."""

    format: Literal["console", "json"] = Field(
        default="console",
        description="`console` is for people, and the default since they come first; `json` is for collectors.",
        json_schema_extra=RELOADED,
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="The least severe events that are logged. `info` shows what changed; `debug` is for us.",
        json_schema_extra=RELOADED,
    )


class Authority(Section):
    """`[authority]`: how long keys live and how they are replaced."""

    root_lifetime: Duration = Field(
        default=timedelta(days=365),
        description="Of a root. A year, since partners that were given the bundle by hand must follow each change.",
    )
    intermediate_lifetime: Duration = Field(
        default=timedelta(hours=24),
        description="Of an intermediate. A day, since its key is used all the time and lives in this process.",
    )
    leaf_lifetime: LeafLifetime = Field(
        default=timedelta(hours=1),
        description="Of an SVID whose entry says nothing else, at least 10s. An hour: revocation is lifetime, and renewal at its half "
        "leaves half an hour to mend a server that is down.",
    )
    settle: Duration = Field(
        default=timedelta(seconds=10),
        description="How long to wait after the last holder has a bundle before the next step: handshakes in flight use the old one.",
    )
    alarm_after: Duration = Field(
        default=timedelta(minutes=15),
        description="How long a holder may be behind before there is an alarm. Longer than a restart, shorter than half a leaf's life.",
    )
    tick: Tick = Field(
        default=timedelta(seconds=1),
        description="How often to look what is due, 10ms to 1m. A second, since looking costs next to nothing.",
    )
    root_key: Key = Field(
        default=KeyType.EC_P256,
        description="The kind of key of new roots. EC P-256: every verifier takes it, and it signs fastest.",
    )
    intermediate_key: Key = Field(
        default=KeyType.EC_P256,
        description="The kind of key of new intermediates. EC P-256, for the same reasons: it signs every leaf.",
    )
    leaf_key: Key = Field(
        default=KeyType.EC_P256,
        description="The kind of key that the agent makes for workloads. EC P-256: one is made for each renewal.",
    )


class KeyManager(Section):
    """`[key_manager]`: where the private keys of authorities are kept."""

    kind: Literal["disk", "memory"] = Field(
        default="disk",
        description="`disk` keeps them in `data_dir`/keys (0600). `memory` forgets them at the end, so only with a memory store.",
    )
    passphrase_file: AbsolutePath | None = Field(
        default=None,
        description="A file whose first line encrypts the keys on disk. None by default: a passphrase beside the keys guards nothing.",
    )
    passphrase_env: Annotated[str, BeforeValidator(values.variable)] | None = Field(
        default=None,
        description="The name of an environment variable with the passphrase instead. Other processes of the same user can read it.",
    )


class Store(Section):
    """`[store]`: where entries, bundles, the journal of authorities and the issuance record are kept."""

    kind: Literal["sqlite", "postgresql", "memory"] = Field(
        default="sqlite",
        description="`sqlite` needs nothing beside it; `postgresql` is for who has one; `memory` forgets all at the end.",
    )
    path: AbsolutePath | None = Field(
        default=None, description="The file of a `sqlite` store; by default `data_dir`/store.db, beside the keys."
    )
    url: SecretStr | None = Field(
        default=None,
        description="Of a `postgresql` store: `postgresql+psycopg://USER:PASSWORD@HOST/NAME`. Never shown: it may hold a password.",
    )


class Limits(Section):
    """`[limits]`: what one caller may take, so that something is left for the others."""

    connections_per_uid: int = Field(
        default=4096,
        ge=1,
        description="Connections open at once of one user: more than a busy host has processes, fewer than would starve the others. "
        "Never more than three quarters of what fits into the limit of open files; the log at start says how many that is.",
    )
    unentitled_streams_per_uid: int = Field(
        default=64,
        ge=1,
        description="Streams of one user's processes that no entry matches. Enough for proxies "
        "that start before their entries: each has two to four.",
    )
    unentitled_stream_lifetime: Duration = Field(
        default=timedelta(minutes=5),
        description="How long such a stream may stay open. Envoy dials again, so a late entry is still served.",
    )
    max_message_bytes: int = Field(
        default=1024 * 1024,
        ge=64 * 1024,
        le=64 * 1024 * 1024,
        description="The largest message that is taken from a workload, 64 KiB to 64 MiB. 1 MiB: Envoy's first request "
        "has 62 KB, and nobody needs much more.",
    )
