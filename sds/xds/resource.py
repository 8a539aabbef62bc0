"""The nouns of xDS: a resource, what one client may see of a type, who that client says it is, and the rules of each type.

Rules: a version is a hash of content, so it survives restarts and means the same on every server; a body is packed once and shared by
all streams that carry it. Clause numbers P1 to P16 are listed in docs/standards.md.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from sds.errors import SDSError

LONGEST_NAME = 2048
"""Characters in a resource name: the longest SPIFFE ID, the longest name that we serve."""

WILDCARD = "*"


class InvalidRequest(SDSError):  # noqa: N818 - the field's word
    """A client broke the protocol; its stream ends with INVALID_ARGUMENT and this text."""


def content_version(content: bytes) -> str:
    """Return the version of some content: 128 bits of its SHA-256, in hex."""
    return hashlib.sha256(content).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One named resource, ready to be sent: `body` is a serialized `google.protobuf.Any`.

    `proof` comes back in the event that says that a client has this version; the session never looks at it. A body may hold a private
    key, so it has no repr. `attempt` is counted up by who learned that not this one was to blame for a refused response: only then is a
    version sent again that was refused.
    """

    name: str
    version: str
    body: bytes = field(repr=False)
    proof: object = field(default=None, repr=False)
    attempt: int = 0

    def __post_init__(self) -> None:
        if not self.name or not self.version:
            raise SDSError(f"a resource needs a name and a version: {self!r}")


class Resources(Protocol):
    """The resources of one type that one client may see. A dict by name will do; so will something that makes them when asked."""

    def get(self, name: str, /) -> Resource | None:
        """Return the resource, or None if there is none that this client may have now."""
        ...

    def __iter__(self) -> Iterator[str]:
        """Yield the names that a wildcard subscription sees."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What one client may see of one type at one moment; it replaces the snapshot before it."""

    type_url: str
    resources: Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What a client says of itself in its first message (P15). Claims, not evidence: never decide identity by them."""

    id: str = ""
    cluster: str = ""
    user_agent: str = ""
    version: tuple[int, int, int] | None = None
    flags: frozenset[str] = frozenset()
    """Keys of the node metadata whose value is true, or the string "true"."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Texts of the node metadata whose key starts with `meshca.`: what a proxy says of its own place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeRules:
    """Which of the protocol's rules hold for a resource type."""

    type_url: str
    full_state: bool = False
    """P5: a state-of-the-world response holds everything asked for, and absence deletes."""
    wildcard: bool = False
    """P6: `*` subscribes to all, as does a first request without names."""
    removal_ends_warming: bool = False
    """A removal would let the client start without the resource: what is absent stays unanswered, in delta too (instead of P9)."""
    rewarms: tuple[str, ...] = ()
    """P13: types that a client waits for again after this one changed, although they did not."""
    most_names: int = 10_000
    """A client that asks for more is refused."""
    most_characters: int = 1_000_000
    """Of all names together, likewise: a stream keeps them."""


def _type(suffix: str) -> str:
    return f"type.googleapis.com/envoy.{suffix}"


SECRET = TypeRules(
    type_url=_type("extensions.transport_sockets.tls.v3.Secret"),
    removal_ends_warming=True,
    most_names=100,
    most_characters=16 * 1024,
)
ENDPOINT = TypeRules(type_url=_type("config.endpoint.v3.ClusterLoadAssignment"))
CLUSTER = TypeRules(
    type_url=_type("config.cluster.v3.Cluster"), full_state=True, wildcard=True, rewarms=(ENDPOINT.type_url,)
)
ROUTE = TypeRules(type_url=_type("config.route.v3.RouteConfiguration"))
LISTENER = TypeRules(
    type_url=_type("config.listener.v3.Listener"), full_state=True, wildcard=True, rewarms=(ROUTE.type_url,)
)
AGGREGATED = (CLUSTER, ENDPOINT, ROUTE, LISTENER, SECRET)
"""The types of an aggregated stream, in the order in which they are sent (P14).

A client asks for routes when it has the listener. If it still has them from an older one, Envoy lets the new listener go by those until it
is sent others (tried): so these go first.
"""


def unit(resource: Resource) -> tuple[str, str]:
    """Return what a client refuses when it refuses a resource: this attempt of this version."""
    return resource.name, f"{resource.version}/{resource.attempt}"


def versions(resources: Iterable[Resource]) -> dict[str, str]:
    """Return name -> version."""
    return {resource.name: resource.version for resource in resources}


def combined_version(parts: dict[str, str]) -> str:
    """Return one version for several named ones: of a single one its own, whatever the order."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    return content_version(repr(sorted(parts.items())).encode())


def check_names(rules: TypeRules, names: Collection[str]) -> None:
    """Refuse what no client needs: too many names, too much of them, or an overlong or empty one. Raises InvalidRequest."""
    if len(names) > rules.most_names:
        raise InvalidRequest(f"{len(names)} names for {rules.type_url}, at most {rules.most_names} are served")
    for name in names:
        if not 0 < len(name) <= LONGEST_NAME:
            raise InvalidRequest(f"a resource name has 1 to {LONGEST_NAME} characters, not {len(name)}: {name[:64]!r}")
    if (length := sum(map(len, names))) > rules.most_characters:
        raise InvalidRequest(
            f"names of {length} characters for {rules.type_url}, at most {rules.most_characters} are kept"
        )
