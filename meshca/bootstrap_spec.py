"""What one Envoy shall be, for `meshca.bootstrap` to write down. Pure.

Rules:
- Every listener names its peers exactly. Who may call is configuration, whom to trust is the SDS validator's.
- One trust domain per TLS context (design section 5): `ALL` is refused, since Envoy would take a leaf with two URIs of a
  partner for ours.
- What Envoy would refuse later, or accept and do wrongly, is refused here with the value.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from meshca.errors import InvalidInput
from meshca.model import ROUTER_PATH
from spiffe.id import SCHEME, SpiffeID, TrustDomain

_LOOPBACK = "127.0.0.1"
_MAX_PORT = 65535
_MAX_SOCKET_BYTES = 107  # sockaddr_un, without the final NUL


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """A mutual TLS listener in front of a local application: exactly one of `app_port` (on 127.0.0.1) and `response` (a fixed body).

    `peers` are the SPIFFE IDs that may call, `secret` and `validation` the SDS names of our SVID and of the bundle that judges theirs.
    The application finds the caller's ID in x-forwarded-client-cert; a fixed response carries it in `x-client-spiffe-id`.
    """

    port: int
    peers: tuple[SpiffeID, ...]
    app_port: int | None = None
    response: str | None = None
    address: str = "0.0.0.0"  # noqa: S104 - a sidecar is there to be reached; only named peers get through
    secret: str = "default"  # noqa: S105 - the name of a secret
    validation: str = "ROOTCA"
    max_requests_per_connection: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        """Refuse a listener that nothing is behind, or that anybody may call."""
        _check_context(self.peers, self.validation)
        _check_port(self.port)
        if self.app_port is not None:
            _check_port(self.app_port, lowest=1)
        if (self.app_port is None) == (self.response is None):
            raise InvalidInput(f"inbound port {self.port} needs either an application port or a fixed response")

    @property
    def label(self) -> str:
        """The name of the listener: the given one, or `inbound-<port>`."""
        return self.name or f"inbound-{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbound:
    """A plain listener on 127.0.0.1 whose requests go to one upstream over mutual TLS; each answer says who gave it (`x-server-spiffe-id`).

    `peer` is the only SPIFFE ID that the upstream may show. `max_requests_per_connection` (0: no limit) makes new handshakes happen.
    """

    port: int
    host: str
    host_port: int
    peer: SpiffeID
    secret: str = "default"  # noqa: S105 - the name of a secret
    validation: str = "ROOTCA"
    max_requests_per_connection: int = 0
    connect_timeout: timedelta = timedelta(seconds=5)
    name: str = ""

    def __post_init__(self) -> None:
        """Refuse an upstream that could be anybody or nowhere."""
        _check_context((self.peer,), self.validation)
        _check_port(self.port)
        _check_port(self.host_port, lowest=1)
        if not self.host:
            raise InvalidInput(f"outbound port {self.port} has no upstream host")

    @property
    def label(self) -> str:
        """The name of the listener: the given one, or `outbound-<port>`."""
        return self.name or f"outbound-{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transparent:
    """How a proxy takes connections that `meshca capture` redirects to it: by where they were going.

    Calls to the application come in at `inbound_port`. Without `ipv6` the host has none, and what is redirected there is refused. Where
    nobody of the mesh is known is refused, unless `passes_unknown`: then it goes on as it is, in plaintext and without an identity.
    """

    inbound_port: int = 15006
    ipv6: bool = True
    passes_unknown: bool = False

    def __post_init__(self) -> None:
        """Refuse a port that is none: the redirection has to name it."""
        _check_port(self.inbound_port, lowest=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterLink:
    """The routing server that listeners, routes and clusters come from, and what this proxy says there of its own place.

    `identity` is the only one that the router may show. `address` says which of its workload's endpoints this is (empty: all);
    `outbound_port` is where the application's calls go in; `app_ports` maps the ports of endpoints to those of the application;
    `access_log` is the file that an access log goes to if Telemetry asks for one (empty: standard output); `transparent` says how it
    takes the calls of an application that knows nothing of it. Without `incremental` the older protocol is spoken, in which the state of
    the world is sent.
    """

    host: str
    port: int
    identity: SpiffeID
    address: str = ""
    outbound_port: int = 15001
    app_ports: Mapping[int, int] = field(default_factory=dict)
    access_log: str = ""
    incremental: bool = True
    transparent: Transparent | None = None

    def __post_init__(self) -> None:
        """Refuse a router that could be anybody, and ports that are none."""
        if self.identity.path != ROUTER_PATH:
            raise InvalidInput(f"{self.identity} is no routing server: its path is {ROUTER_PATH}")
        if not self.host:
            raise InvalidInput("the routing server has no host")
        _check_port(self.port, lowest=1)
        _check_port(self.outbound_port)
        for port, app_port in self.app_ports.items():
            _check_port(port, lowest=1)
            _check_port(app_port, lowest=1)

    def own_ports(self) -> Iterator[tuple[str, int]]:
        """The ports that Envoy takes on 127.0.0.1 for what comes from the router, each with its name."""
        everywhere = self.transparent.inbound_port if self.transparent else 0
        yield "the outbound port", self.outbound_port
        yield "the inbound port", everywhere
        for port, app_port in self.app_ports.items():
            is_redirected = self.transparent is not None and port == app_port  # then Envoy does not listen there itself
            if (self.address in {"", _LOOPBACK} or port == everywhere) and not is_redirected:
                yield f"the endpoint's port {port}", port

    def other_ports(self) -> Iterator[tuple[str, int]]:
        """The ports on 127.0.0.1 that are somebody else's."""
        yield from ((f"the application behind port {port}", app_port) for port, app_port in self.app_ports.items())
        if self.host == _LOOPBACK:
            yield "the routing server", self.port


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapSpec:
    """What one Envoy shall be. `initial_fetch_timeout` zero waits for ever; `sds_retry`: first and longest pause between tries."""

    node_id: str
    node_cluster: str
    sds_socket: str
    inbound: tuple[Inbound, ...] = ()
    outbound: tuple[Outbound, ...] = ()
    router: RouterLink | None = None
    admin_port: int = 9901
    delta: bool = False
    initial_fetch_timeout: timedelta = timedelta(0)
    sds_retry: tuple[timedelta, timedelta] = (timedelta(milliseconds=100), timedelta(seconds=1))

    def __post_init__(self) -> None:
        """Refuse what Envoy would refuse later, or accept and do wrongly."""
        if not (self.node_id and self.node_cluster):
            raise InvalidInput("Envoy wants a node id and a node cluster: neither may be empty")
        if not self.sds_socket.startswith("/") or len(self.sds_socket.encode()) > _MAX_SOCKET_BYTES:
            raise InvalidInput(
                f"SDS socket {self.sds_socket!r} is not an absolute path of at most {_MAX_SOCKET_BYTES} bytes"
            )
        _check_port(self.admin_port)
        _check_unique("listener name", [each.label for each in self._listeners()])
        _check_ports(self._own_ports(), self._other_ports())

    def _listeners(self) -> list[Inbound | Outbound]:
        return [*self.inbound, *self.outbound]

    def _own_ports(self) -> Iterator[tuple[str, int]]:
        yield "the admin port", self.admin_port
        yield from ((each.label, each.port) for each in self._listeners())
        yield from self.router.own_ports() if self.router else ()

    def _other_ports(self) -> Iterator[tuple[str, int]]:
        yield from ((f"the application behind {each.label}", each.app_port) for each in self.inbound if each.app_port)
        yield from self.router.other_ports() if self.router else ()


def _check_context(peers: Sequence[SpiffeID], validation: str) -> None:
    """Raise InvalidInput unless the context has peers, and they and the bundle are of one trust domain."""
    domains = {peer.trust_domain for peer in peers}
    if not all(peer.is_workload for peer in peers):
        raise InvalidInput(
            f"peer {next(str(p) for p in peers if not p.is_workload)} has no path: a trust domain is no workload"
        )
    if len(domains) != 1:
        raise InvalidInput(f"a listener needs peers of exactly one trust domain, not {sorted(map(str, domains))}")
    if validation == "ALL":
        raise InvalidInput("ALL pools trust domains: name ROOTCA, or spiffe://<trust domain> of the peer")
    if validation.startswith(SCHEME) and TrustDomain.parse(validation) not in domains:
        raise InvalidInput(f"bundle {validation} can not vouch for a peer of {next(iter(domains))}")


def _check_port(port: int, lowest: int = 0) -> None:
    """Raise InvalidInput unless it is a port; for a listener 0 lets the kernel choose."""
    if not lowest <= port <= _MAX_PORT:
        raise InvalidInput(f"port {port} is not between {lowest} and {_MAX_PORT}")


def _check_ports(own: Iterable[tuple[str, int]], others: Iterable[tuple[str, int]]) -> None:
    """Raise InvalidInput when Envoy could not have a port of its own because it, or somebody else, has that already."""
    taken: dict[int, str] = {}
    for name, port in own:
        if port and port in taken:
            raise InvalidInput(f"port {port} is used twice, for {taken[port]} and for {name}: give one of them another")
        taken[port] = name
    for name, port in others:
        if port in taken:
            raise InvalidInput(f"port {port} is used twice, for {taken[port]} and for {name}: give one of them another")


def _check_unique(what: str, values: Sequence[object]) -> None:
    """Raise InvalidInput when two are the same."""
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise InvalidInput(f"{what} {', '.join(twice)} is used twice")
