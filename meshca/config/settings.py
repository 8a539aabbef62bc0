"""The whole configuration as one frozen value, and what its settings say about each other.

Contradictions are collected rather than raised one by one, so that all errors are found at once.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NamedTuple, Self

from pydantic import BeforeValidator, Field, NonNegativeInt, model_validator
from pydantic_core import PydanticCustomError

from meshca.config import values
from meshca.config.sections import (
    HTTP,
    RELOADED,
    AbsolutePath,
    Authority,
    KeyManager,
    Limits,
    Log,
    Router,
    Section,
    Socket,
    SocketName,
    SocketPath,
    Store,
)
from meshca.config.values import format_duration, key_path_written
from sds.unix_socket import SocketSpec
from spiffe.id import TrustDomain

KeyPath = tuple[str, ...]


class Problem(NamedTuple):
    """One thing that is wrong. `keys` are all settings that have to do with it, the first is to blame."""

    keys: tuple[KeyPath, ...]
    text: str


class Config(Section):
    """The whole of it. Raises ValidationError when built from what can not be; `load` is how it is read."""

    trust_domain: Annotated[TrustDomain, BeforeValidator(values.trust_domain)] = Field(
        default=TrustDomain("mesh.local"),
        description="The name of this root of trust. Set once: it is in every ID and kept in the store.",
    )
    data_dir: AbsolutePath = Field(
        description="Keys and store, for this user only.",
        json_schema_extra={
            "default": "`/var/lib/meshca` for root, else `$XDG_STATE_HOME/meshca` or `~/.local/state/meshca`"
        },
    )
    admin_socket: SocketPath = Field(
        description="Where the command line asks. Who may is decided by uid, which the kernel vouches for.",
        json_schema_extra={
            "default": "`/run/meshca/admin.sock` for root, else `$XDG_RUNTIME_DIR/meshca/admin.sock` or beside the data"
        },
    )
    admin_uids: tuple[NonNegativeInt, ...] = Field(
        default=(),
        strict=False,
        description="Users beside root and the server's own who may administer. None, since each can make itself any identity.",
        json_schema_extra=RELOADED,
    )
    sockets: dict[SocketName, Socket] = Field(
        min_length=1,
        description="The workload sockets, by name. One socket for each workload is how processes of one user are told apart.",
        json_schema_extra={"default": "one named `default`, `workload.sock` beside the admin socket's default"},
    )
    http: HTTP = Field(default_factory=HTTP)
    router: Router = Field(default_factory=Router)
    log: Log = Field(default_factory=Log)
    authority: Authority = Field(default_factory=Authority)
    key_manager: KeyManager = Field(default_factory=KeyManager)
    store: Store = Field(default_factory=Store)
    limits: Limits = Field(default_factory=Limits)

    @model_validator(mode="after")
    def _hold_relations(self) -> Self:
        if found := list(relations(self)):
            raise PydanticCustomError("relations", "settings contradict each other", {"found": found})
        return self

    @property
    def socket_specs(self) -> tuple[SocketSpec, ...]:
        """The workload sockets as the gate takes them."""
        return tuple(
            SocketSpec(name=name, path=each.path, mode=each.mode, group=_group(each.group))
            for name, each in self.sockets.items()
        )

    @property
    def router_socket(self) -> SocketSpec:
        """Where the routing server of this process gets its identity: for this user only, as the selector `socket:meshca-router`."""
        return SocketSpec(name="meshca-router", path=self.admin_socket.with_name("router-workload.sock"), mode=0o600)

    @property
    def router_status_socket(self) -> Path:
        """Where the routing server of this process tells how it is."""
        return self.admin_socket.with_name("router.sock")

    @property
    def keys_directory(self) -> Path:
        """Where a disk key manager keeps keys."""
        return self.data_dir / "keys"

    @property
    def store_url(self) -> str | None:
        """The URL of a SQL store, with its password; None for a memory store."""
        if self.store.kind == "sqlite":
            return f"sqlite:///{self.store.path or self.data_dir / 'store.db'}"
        return self.store.url.get_secret_value() if self.store.url else None


def relations(config: Config) -> Iterator[Problem]:
    """What the settings say against each other."""
    yield from _lifetimes(config.authority)
    yield from _keeping(config.key_manager, config.store)
    yield from _places(config)


def _lifetimes(authority: Authority) -> Iterator[Problem]:
    room = 2 * authority.leaf_lifetime  # an issuer is replaced two leaf lifetimes before its end
    for inner, outer in (("leaf_lifetime", "intermediate_lifetime"), ("intermediate_lifetime", "root_lifetime")):
        least = getattr(authority, inner) + room
        if getattr(authority, outer) < least:
            text = f"is shorter than {inner} and two leaf lifetimes: at least {format_duration(least)}"
            yield _problem(text, f"authority.{outer}", f"authority.{inner}", "authority.leaf_lifetime")
    if authority.settle >= authority.leaf_lifetime:
        text = f"is not shorter than leaf_lifetime, {format_duration(authority.leaf_lifetime)}"
        yield _problem(text, "authority.settle", "authority.leaf_lifetime")


def _keeping(key_manager: KeyManager, store: Store) -> Iterator[Problem]:
    if key_manager.kind == "memory" and store.kind != "memory":
        text = f"forgets the keys of a {store.kind} store that remembers their authorities: disk, or store.kind memory"
        yield _problem(text, "key_manager.kind", "store.kind")
    for key in ("passphrase_file", "passphrase_env"):
        if key_manager.kind == "memory" and getattr(key_manager, key):
            text = "encrypts keys on disk only, and kind is memory"
            yield _problem(text, f"key_manager.{key}", "key_manager.kind")
    if key_manager.passphrase_file and key_manager.passphrase_env:
        text = "is one too many: passphrase_env is set too"
        yield _problem(text, "key_manager.passphrase_file", "key_manager.passphrase_env")
    if store.path and store.kind != "sqlite":
        yield _problem(f"is for a sqlite store, and kind is {store.kind}", "store.path", "store.kind")
    if bool(store.url) != (store.kind == "postgresql"):
        text = f"is what a postgresql store needs and no other has: kind is {store.kind}"
        yield _problem(text, "store.url", "store.kind")


def _places(config: Config) -> Iterator[Problem]:
    taken: dict[Path, KeyPath] = {config.admin_socket: ("admin_socket",)}
    for name, each in config.sockets.items():
        key = ("sockets", name, "path")
        other = taken.setdefault(each.path, key)
        if other != key:
            yield Problem((key, other), f"is the path of {key_path_written(other)} too")


def _problem(text: str, *keys: str) -> Problem:
    return Problem(tuple(tuple(key.split(".")) for key in keys), text)


def _group(group: str | None) -> str | int | None:
    return int(group) if group and group.isdecimal() else group
