"""The nftables rules that bring an application's connections to its sidecar without its knowledge. Pure.

Rules:
- All is in one table of our own, `inet meshca`, for IPv4 and IPv6, and is replaced as a whole: applying twice is applying once.
- Outbound, every TCP connection is taken but those of Envoy itself (told by its user, so that nothing goes in circles), of other users who
  are left alone, within this host, to link-local addresses (metadata services), to DNS, and to the router.
- Inbound, only connections to the application's own ports are taken: a management port such as SSH is never in danger.
- UDP is left alone, and so are connections that were there before the rules.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from meshca.errors import InvalidInput

TABLE = "inet meshca"
OUTBOUND_PORT, INBOUND_PORT = 15001, 15006
NEVER_PORTS = frozenset({53, 15010})
"""DNS over TCP, and the router."""
LINK_LOCAL = ("169.254.0.0/16", "fe80::/10")
REMOVAL = f"table {TABLE}\ndelete table {TABLE}\n"
"""What nft is told to remove the table, whether it is there or not."""

_MAX_PORT = 65535
_MAX_UID = 2**32 - 2
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """What is taken, and to where. Connections of `envoy_uid` and of `exclude_uids` are let through, as are those to what is excluded.

    `apps` maps each port of the application to the port of its inbound listener; None: the listener is of the application's own port, and
    is reached through `inbound_port`. Raises InvalidInput for what would catch nothing, or Envoy itself.
    """

    envoy_uid: int
    outbound_port: int = OUTBOUND_PORT
    inbound_port: int = INBOUND_PORT
    apps: Mapping[int, int | None] = field(default_factory=dict)
    exclude_uids: frozenset[int] = frozenset()
    exclude_ports: frozenset[int] = frozenset()
    exclude_cidrs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.envoy_uid == 0:
            raise InvalidInput("Envoy needs a user of its own: if it were root, whatever runs as root would go past it")
        for uid in (self.envoy_uid, *self.exclude_uids):
            if not 0 <= uid <= _MAX_UID:
                raise InvalidInput(f"{uid} is no user id")
        inner = (port for pair in self.apps.items() for port in pair if port is not None)
        for port in (self.outbound_port, self.inbound_port, *inner, *self.exclude_ports):
            if not 1 <= port <= _MAX_PORT:
                raise InvalidInput(f"port {port} is not between 1 and {_MAX_PORT}")
        if self.outbound_port == self.inbound_port:
            raise InvalidInput(
                f"port {self.inbound_port} can not be Envoy's inbound and its outbound port: give one another"
            )
        if taken := self.apps.keys() & {self.outbound_port, self.inbound_port, *self.apps.values()}:
            raise InvalidInput(f"port {min(taken)} is Envoy's: it can not be the application's too")
        _networks(self.exclude_cidrs)


def ruleset(capture: Capture) -> str:
    """The rules as a document for `nft -f -`, which replaces the table that is there, if any."""
    return "\n".join(
        [
            f"table {TABLE}",
            f"delete table {TABLE}",
            f"table {TABLE} {{",
            *_chain("outbound", "output", _outbound(capture)),
            *_chain("inbound", "prerouting", _inbound(capture)),
            "}",
            "",
        ]
    )


def _outbound(capture: Capture) -> list[str]:
    networks = _networks((*LINK_LOCAL, *capture.exclude_cidrs))
    return [
        "meta l4proto != tcp return",
        'oifname "lo" return',
        f"meta skuid {_set(sorted({capture.envoy_uid, *capture.exclude_uids}))} return",
        f"tcp dport {_set(sorted(NEVER_PORTS | capture.exclude_ports))} return",
        *(f"{family} daddr {_set(found)} return" for family, found in networks.items()),
        f"meta l4proto tcp redirect to :{capture.outbound_port}",
    ]


def _inbound(capture: Capture) -> list[str]:
    """A port of its own keeps the address that was called, since Envoy may listen on that one only."""
    taken = sorted(capture.apps.items())
    return [
        'iifname "lo" return',
        "fib daddr type != local return",
        *(f"tcp dport {port} dnat to :{inbound}" for port, inbound in taken if inbound),
        *(f"tcp dport {port} redirect to :{capture.inbound_port}" for port, inbound in taken if not inbound),
    ]


def _chain(name: str, hook: str, rules: Iterable[str]) -> list[str]:
    head = f"type nat hook {hook} priority -100; policy accept;"
    return [f"\tchain {name} {{", *(f"\t\t{rule}" for rule in (head, *rules)), "\t}"]


def _set(values: Iterable[object]) -> str:
    return f"{{ {', '.join(map(str, values))} }}"


def _networks(written: Iterable[str]) -> dict[str, list[_Network]]:
    """The networks by the word of nft for their family, none within another. Raises InvalidInput."""
    try:
        networks = [ipaddress.ip_network(each) for each in written]
    except ValueError as error:
        raise InvalidInput(f"{error}: write a network such as 10.0.0.0/8") from error
    four = ipaddress.collapse_addresses(each for each in networks if isinstance(each, ipaddress.IPv4Network))
    six = ipaddress.collapse_addresses(each for each in networks if isinstance(each, ipaddress.IPv6Network))
    return {"ip": list(four), "ip6": list(six)}
