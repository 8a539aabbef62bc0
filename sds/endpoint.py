"""Where the Workload API is: the URI of SPIFFE_ENDPOINT_SOCKET, parsed strictly (EP-10 to EP-17).

The text is matched whole rather than taken apart, since URL libraries hide a stray `?`, `#` or `:` (facts: traps). Percent-encoding is
not decoded by others, so it is refused (D-18).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Self

from sds.errors import SDSError
from sds.unix_socket import check_path

VARIABLE = "SPIFFE_ENDPOINT_SOCKET"

_UNIX = re.compile(r"unix:(?://)?(/(?!/)[A-Za-z0-9._~!$&'()*+,;=:@/-]+)", re.IGNORECASE | re.ASCII)
_TCP = re.compile(
    r"tcp://(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<v4>[0-9.]+)):(?P<port>[0-9]{1,5})", re.IGNORECASE | re.ASCII
)
_LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A Workload Endpoint. `target` is its address as gRPC writes it."""

    target: str

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Read a URI such as `unix:///run/meshca/workload.sock` or `tcp://127.0.0.1:8000`. Raises SDSError."""
        if found := _UNIX.fullmatch(uri):
            return cls.at(Path(found[1]))
        if found := _TCP.fullmatch(uri):
            return cls(_tcp_target(uri, found))
        raise SDSError(f"endpoint {uri!r} is neither unix:///absolute/path nor tcp://IP:PORT (EP-11 to EP-17)")

    @classmethod
    def at(cls, path: Path) -> Self:
        """Return the endpoint at the path of a Unix socket. Raises SDSError."""
        check_path(path)
        return cls(f"unix:{path}")


def find_endpoint(configured: str | None, environment: Mapping[str, str]) -> Endpoint:
    """Return the configured endpoint, or that of SPIFFE_ENDPOINT_SOCKET (EP-10). Raises SDSError if neither is there."""
    uri = configured or environment.get(VARIABLE)
    if not uri:
        raise SDSError(f"no endpoint is configured: set {VARIABLE}, for example to unix:///run/meshca/workload.sock")
    return Endpoint.parse(uri)


def _tcp_target(uri: str, found: re.Match[str]) -> str:
    try:
        host = f"ipv6:[{IPv6Address(found['v6'])}]" if found["v6"] else f"ipv4:{IPv4Address(found['v4'])}"
    except ValueError as error:
        raise SDSError(f"endpoint {uri!r} has no IP address as its host (EP-15)") from error
    port = int(found["port"])
    if not 0 < port <= _LAST_PORT:
        raise SDSError(f"endpoint {uri!r} has the port {port}, which is not within 1 to {_LAST_PORT} (EP-16)")
    return f"{host}:{port}"
