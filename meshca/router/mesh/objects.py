"""What users wrote, as frozen values in our terms: one class for each kind that we do, already checked on its own.

Rules:
- A value knows where it stands (`Origin`), so that whatever is wrong with it later can be told by file, line and field.
- What was not written is None or empty here; defaults are the builders' business. References to others (hosts, subsets) are not
  resolved yet: `meshca.router.mesh.table` does that.
- Names and meanings are Istio's (networking.istio.io, security.istio.io, telemetry.istio.io); Gateway API's routes become the same values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple

from meshca.router.canary.ramp import Canary
from spiffe.id import SpiffeID

MILLION = 1_000_000


class Origin(NamedTuple):
    """Which object it was, and where: `file` as the user named it, `line` counts from 1."""

    file: str
    line: int
    kind: str
    namespace: str
    name: str

    @property
    def label(self) -> str:
        """For people: `VirtualService default/api-server`."""
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that keeps an object, or a part of it, from being used. `label` is empty when not even the object is known.

    `line` counts from 1; 0: it is of no line, such as a directory that is not there.
    """

    file: str
    line: int
    label: str
    field: str
    text: str

    def __str__(self) -> str:
        line = f":{self.line}" if self.line else ""
        place = f"{self.file}{line}: " if self.file else ""
        return place + ": ".join(part for part in (self.label, self.field, self.text) if part)


class MatchKind(StrEnum):
    """How a text is compared. `path_prefix` is Gateway API's: whole path segments."""

    EXACT = "exact"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    REGEX = "regex"
    PRESENT = "present"
    PATH_PREFIX = "path_prefix"


@dataclass(frozen=True, slots=True)
class StringMatch:
    """One comparison; `value` is empty for `present`."""

    kind: MatchKind
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPMatch:
    """Conditions that must all hold. Header and query parameter names map to how their value is compared."""

    uri: StringMatch | None = None
    ignore_uri_case: bool = False
    method: StringMatch | None = None
    authority: StringMatch | None = None
    scheme: StringMatch | None = None
    headers: tuple[tuple[str, StringMatch], ...] = ()
    without_headers: tuple[tuple[str, StringMatch], ...] = ()
    query_params: tuple[tuple[str, StringMatch], ...] = ()
    port: int | None = None
    """The service port that was dialled; None means each."""
    source_namespace: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where requests may go: `host` as written, `subset` and `port` empty where the host alone decides."""

    host: str
    subset: str = ""
    port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderOperations:
    """What is done to headers: set (overwrite), add (append), remove. Names are in lower case; values are Envoy's formats (`%%` is a %)."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedDestination:
    """A share of the requests. `line` and `where` say where it stands, for what is wrong with its reference.

    `authority` is written over the Host header (Istio: `headers.request.set.host`). Of several destinations each has a weight.
    """

    destination: Destination
    weight: int | None = None
    request_headers: HeaderOperations = field(default_factory=HeaderOperations)
    response_headers: HeaderOperations = field(default_factory=HeaderOperations)
    authority: str = ""
    line: int = 0
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """A fault: requests wait that long. `share` is in millionths."""

    fixed: timedelta
    share: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort:
    """A fault: requests end with this status, of HTTP or of gRPC. `share` is in millionths."""

    http_status: int | None = None
    grpc_status: str = ""
    share: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often and on what a request is tried again. `attempts` 0 means never; empty `retry_on` means the defaults."""

    attempts: int
    per_try_timeout: timedelta | None = None
    retry_on: tuple[str, ...] = ()
    backoff: timedelta | None = None
    ignore_previous_hosts: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """Answer with a redirect. What is None or empty stays as it was asked.

    `keep_port` asks for the port that was dialled (Istio: `derivePort: FROM_REQUEST_PORT`); else, without `port`, it is the scheme's own.
    """

    uri: str = ""
    prefix: str = ""
    """Gateway API: replaces the matched prefix."""
    authority: str = ""
    scheme: str = ""
    port: int | None = None
    keep_port: bool = False
    code: int = 301


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """Change path (its matched prefix, or the whole by a regular expression) or authority before the request goes on."""

    uri: str = ""
    full_path: str = ""
    """Gateway API: replaces the whole path."""
    regex: str = ""
    substitution: str = ""
    authority: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectResponse:
    """Answer at once."""

    status: int
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """Send a copy of a share (in millionths) of the requests, and drop what comes back."""

    destination: Destination
    share: int = MILLION
    line: int = 0
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPRule:
    """One rule: the first whose match holds decides. No matches means all. Exactly one of `route`, `redirect`, `direct_response` is there.

    `source_principals` limits it to callers (annotation `meshca.dev/source-principals`); empty means everybody.
    """

    line: int
    where: str
    """Such as `spec.http[0]`."""
    name: str = ""
    matches: tuple[HTTPMatch, ...] = ()
    source_principals: tuple[SpiffeID, ...] = ()
    route: tuple[WeightedDestination, ...] = ()
    redirect: Redirect | None = None
    direct_response: DirectResponse | None = None
    rewrite: Rewrite | None = None
    timeout: timedelta | None = None
    """None and zero: no limit."""
    retries: Retries | None = None
    """None: Istio's default policy."""
    delay: Delay | None = None
    abort: Abort | None = None
    mirrors: tuple[Mirror, ...] = ()
    request_headers: HeaderOperations = field(default_factory=HeaderOperations)
    response_headers: HeaderOperations = field(default_factory=HeaderOperations)


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualService:
    """How requests to `hosts` (as written) are routed. HTTPRoute and GRPCRoute become this too, their rules sorted by their standard."""

    origin: Origin
    hosts: tuple[str, ...]
    http: tuple[HTTPRule, ...]
    canary: Canary | None = None


class LoadBalancer(StrEnum):
    """How an endpoint is chosen."""

    LEAST_REQUEST = "LEAST_REQUEST"
    ROUND_ROBIN = "ROUND_ROBIN"
    RANDOM = "RANDOM"
    PASSTHROUGH = "PASSTHROUGH"


class TLSMode(StrEnum):
    """How a client speaks to an endpoint: `ISTIO_MUTUAL` is ours, with SVIDs."""

    DISABLE = "DISABLE"
    SIMPLE = "SIMPLE"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTLS:
    """TLS of a client. `subject_alt_names` replaces what is expected of the endpoint; `sni` and `ca_certificates` are for SIMPLE."""

    mode: TLSMode
    subject_alt_names: tuple[str, ...] = ()
    sni: str = ""
    ca_certificates: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierDetection:
    """When an endpoint is left out for a while. None means Envoy's own default; percentages are whole."""

    consecutive_5xx: int | None = None
    consecutive_gateway_errors: int | None = None
    interval: timedelta | None = None
    base_ejection_time: timedelta | None = None
    max_ejection_percent: int | None = None
    min_health_percent: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBudget:
    """How many requests may be retries: a percentage of those under way, but at least so many."""

    percent: float = 20.0
    min_retry_concurrency: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficPolicy:
    """How clients use a service. None means not written; a subset's policy overlays its host's, field by field."""

    load_balancer: LoadBalancer | None = None
    connect_timeout: timedelta | None = None
    max_connections: int | None = None
    max_pending_requests: int | None = None
    max_requests: int | None = None
    max_retries: int | None = None
    max_requests_per_connection: int | None = None
    max_concurrent_streams: int | None = None
    idle_timeout: timedelta | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTLS | None = None
    retry_budget: RetryBudget | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    """The endpoints of a host that have all these labels."""

    name: str
    labels: Mapping[str, str]
    policy: TrafficPolicy = field(default_factory=TrafficPolicy)
    port_policies: Mapping[int, TrafficPolicy] = field(default_factory=dict)
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationRule:
    """How clients use `host` (as written). `workload_selector` narrows it to clients with these labels; empty means all."""

    origin: Origin
    host: str
    policy: TrafficPolicy = field(default_factory=TrafficPolicy)
    port_policies: Mapping[int, TrafficPolicy] = field(default_factory=dict)
    subsets: tuple[Subset, ...] = ()
    workload_selector: Mapping[str, str] = field(default_factory=dict)


class Protocol(StrEnum):
    """What is spoken on a port, as far as it matters for routing."""

    HTTP = "HTTP"
    HTTP2 = "HTTP2"
    GRPC = "GRPC"
    TCP = "TCP"
    TLS = "TLS"

    @property
    def is_http(self) -> bool:
        """Whether requests can be told apart."""
        return self in {Protocol.HTTP, Protocol.HTTP2, Protocol.GRPC}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePort:
    """A port that a service has. `target_port` is where endpoints listen unless they say otherwise."""

    number: int
    name: str
    protocol: Protocol
    target_port: int | None = None


class Resolution(StrEnum):
    """How the addresses of a service are found."""

    STATIC = "STATIC"
    DNS = "DNS"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadEndpoint:
    """One place where a service, or several, can be reached. `ports` maps port names to numbers; weight None means equal shares.

    `spiffe_id` is the identity expected there: the annotation `meshca.dev/spiffe-id`, or the service account in the ns/sa scheme;
    None leaves it to the service's one `subjectAltNames`.
    """

    address: str
    ports: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    weight: int | None = None
    spiffe_id: SpiffeID | None = None
    line: int = 0
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceEntry:
    """Services that clients may call. Endpoints stand here, or are WorkloadEntries of the namespace that `workload_selector` picks."""

    origin: Origin
    hosts: tuple[str, ...]
    ports: tuple[ServicePort, ...]
    resolution: Resolution
    external: bool = False
    addresses: tuple[str, ...] = ()
    endpoints: tuple[WorkloadEndpoint, ...] = ()
    subject_alt_names: tuple[str, ...] = ()
    workload_selector: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadEntry:
    """A workload that ServiceEntries select by its labels."""

    origin: Origin
    endpoint: WorkloadEndpoint


class MTLSMode(StrEnum):
    """What a callee takes: mutual TLS only, both, or plaintext only."""

    STRICT = "STRICT"
    PERMISSIVE = "PERMISSIVE"
    DISABLE = "DISABLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAuthentication:
    """What workloads with the labels take; no selector: all of the namespace. None means not written (UNSET)."""

    origin: Origin
    selector: Mapping[str, str] = field(default_factory=dict)
    mode: MTLSMode | None = None
    port_modes: Mapping[int, MTLSMode] = field(default_factory=dict)


class Action(StrEnum):
    """What a policy does with what it matches."""

    ALLOW = "ALLOW"
    DENY = "DENY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Who calls: all fields that are there must hold, each by any of its values, none of its `not_` values. Values may have one `*`.

    `principals` are as Istio writes them (`td/ns/a/sa/b`) or whole SPIFFE IDs; `service_accounts` are `name` or `ns/name`.
    """

    principals: tuple[str, ...] = ()
    not_principals: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    not_namespaces: tuple[str, ...] = ()
    service_accounts: tuple[str, ...] = ()
    not_service_accounts: tuple[str, ...] = ()
    trust_domains: tuple[str, ...] = ()
    not_trust_domains: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What is called; as with Source. Ports are numbers."""

    hosts: tuple[str, ...] = ()
    not_hosts: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    not_ports: tuple[int, ...] = ()
    methods: tuple[str, ...] = ()
    not_methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    not_paths: tuple[str, ...] = ()

    @property
    def needs_http(self) -> bool:
        """Whether it speaks of what a TCP connection does not have."""
        return bool(self.hosts or self.not_hosts or self.methods or self.not_methods or self.paths or self.not_paths)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRule:
    """Matches when any source (none written: everybody) and any operation (none written: everything) do."""

    sources: tuple[Source, ...] = ()
    operations: tuple[Operation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationPolicy:
    """Who may do what at workloads with the labels (no selector: all of the namespace). No rules: it matches nothing.

    With `dry_run` (annotation `istio.io/dry-run`) it only counts and logs.
    """

    origin: Origin
    action: Action
    rules: tuple[PolicyRule, ...]
    selector: Mapping[str, str] = field(default_factory=dict)
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """What workloads with the labels tell of their requests. None and empty mean not written, which leaves it to the more general one.

    `sampling` is in millionths; `tags` are (name, value in Envoy's format); `collector` is the host of a service as written, empty or with
    the port. The log is kept by the client's proxy, the server's, or both; `metrics` are those that name the peer.
    """

    origin: Origin
    selector: Mapping[str, str] = field(default_factory=dict)
    collector: str = ""
    collector_port: int | None = None
    sampling: int | None = None
    tags: tuple[tuple[str, str], ...] = ()
    tracing: bool | None = None
    client_log: bool | None = None
    server_log: bool | None = None
    metrics: bool | None = None


Object = (
    VirtualService
    | DestinationRule
    | ServiceEntry
    | WorkloadEntry
    | PeerAuthentication
    | AuthorizationPolicy
    | Telemetry
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """What a set of documents says: the objects that are good on their own, and what is wrong with the others.

    `warnings` keep nothing from being used, but what they tell of is hardly meant so.
    """

    objects: tuple[Object, ...] = ()
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
