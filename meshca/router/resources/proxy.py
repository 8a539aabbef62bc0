"""A proxy as the router knows it: its identity by its SVID, and what it says of its own place. Pure.

Rules: what a proxy says may narrow what it gets or move its own ports, never widen: it decides nothing about anybody else. That it is gRPC
changes the shape of what it gets, not whom it may call; of the other shape there is no name that it asks for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from meshca.bootstrap_spec import Transparent
from meshca.errors import InvalidInput
from meshca.router.resources.listeners import OUTBOUND_PORT
from sds.xds.resource import InvalidRequest, Node
from spiffe.id import SpiffeID

ADDRESS, OUTBOUND, APP_PORT = "meshca.address", "meshca.outbound-port", "meshca.app-port."
_GRPC = "gRPC "
"""What gRPC's user agents begin with, in all its languages."""
ACCESS_LOG = "meshca.access-log"
TRANSPARENT, INBOUND, UNKNOWN = "meshca.transparent", "meshca.inbound-port", "meshca.unknown"
_MOST_PORT = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """One proxy. `address` says which of its identity's endpoints it is (empty: all), `app_ports` maps their ports to the application's.

    `log_path` is the file of its own that an access log goes to (empty: standard output). `transparent` says how it takes what is
    redirected to it; None: it is called by its ports only.
    """

    identity: SpiffeID
    address: str = ""
    outbound_port: int = OUTBOUND_PORT
    app_ports: Mapping[int, int] = field(default_factory=dict)
    is_grpc: bool = False
    """Whether it is a program that speaks xDS itself, through gRPC."""
    log_path: str = ""
    transparent: Transparent | None = None

    def is_at(self, address: str) -> bool:
        """Whether it may be the one at this address of its identity."""
        return self.address in {"", address}

    @classmethod
    def read(cls, identity: SpiffeID, node: Node) -> Self:
        """The proxy of this identity, placed as its node metadata says. Raises InvalidRequest for what it can not mean."""
        said = node.texts
        ports = {key.removeprefix(APP_PORT): value for key, value in said.items() if key.startswith(APP_PORT)}
        return cls(
            identity=identity,
            address=said.get(ADDRESS, ""),
            outbound_port=_port(OUTBOUND, said.get(OUTBOUND, str(OUTBOUND_PORT))),
            app_ports={_port(APP_PORT, port): _port(APP_PORT + port, value) for port, value in ports.items()},
            is_grpc=node.user_agent.startswith(_GRPC),
            log_path=said.get(ACCESS_LOG, ""),
            transparent=_transparent(said) if TRANSPARENT in said else None,
        )


def _transparent(said: Mapping[str, str]) -> Transparent:
    families = _choice(said, TRANSPARENT, "dual", "ipv4")
    unknown = _choice(said, UNKNOWN, "refuse", "pass")
    try:
        return Transparent(
            inbound_port=_port(INBOUND, said.get(INBOUND, str(Transparent().inbound_port))),
            ipv6=families == "dual",
            passes_unknown=unknown == "pass",
        )
    except InvalidInput as error:
        raise InvalidRequest(f"node metadata {INBOUND}: {error}") from error


def _choice(said: Mapping[str, str], key: str, default: str, other: str) -> str:
    value = said.get(key, default)
    if value not in {default, other}:
        raise InvalidRequest(f"node metadata {key} has {value[:40]!r}, which is neither {default} nor {other}")
    return value


def _port(key: str, text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(_MOST_PORT)) else -1
    if not 0 <= number <= _MOST_PORT:
        raise InvalidRequest(f"node metadata {key} has {text[:40]!r}, which is no port")
    return number
