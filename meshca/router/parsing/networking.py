"""VirtualService, ServiceEntry and WorkloadEntry of networking.istio.io. Pure."""

from collections import Counter
from dataclasses import replace

from meshca.errors import InvalidInput
from meshca.router.mesh.objects import (
    Protocol,
    Resolution,
    ServiceEntry,
    ServicePort,
    VirtualService,
    WorkloadEndpoint,
    WorkloadEntry,
)
from meshca.router.parsing import grammar
from meshca.router.parsing.canary import canary
from meshca.router.parsing.destinations import PORT
from meshca.router.parsing.envelope import (
    SPIFFE_ID,
    Envelope,
    accept_only,
    labels,
    selector,
    source_principals,
    workload_id,
)
from meshca.router.parsing.reader import Reader, distinct
from meshca.router.parsing.routes import http_rule
from meshca.router.parsing.scalars import Convert, filled, integer, named, one_of, text_as
from meshca.router.parsing.wording import shown
from spiffe.id import SCHEME, SpiffeID

MAX_ENDPOINT_WEIGHT = 1_000_000  # Envoy's sum of the weights of a cluster must fit 32 bits

_PROTOCOLS = {protocol.value: protocol for protocol in Protocol} | {"HTTPS": Protocol.TLS}
_LOCATION = named({"MESH_EXTERNAL": True, "MESH_INTERNAL": False})
_RESOLUTION: Convert[Resolution | None] = one_of(
    Resolution,
    {
        "NONE": "name the endpoints (STATIC) or let their names be resolved (DNS)",
        "DNS_ROUND_ROBIN": "write DNS",
        "DYNAMIC_DNS": "name the hosts, with resolution DNS",
    },
)
_EVERYWHERE = "who may call decides who sees it"


def virtual_service(envelope: Envelope) -> VirtualService:
    """Read a VirtualService. Whatever is wrong with it is in the report."""
    spec = envelope.spec
    spec.unsupported("tcp", "tls", instead="routes are of HTTP requests")
    accept_only(spec, "gateways", "mesh", "there are no gateways")
    accept_only(spec, "exportTo", "*", _EVERYWHERE)
    callers = source_principals(envelope)
    hosts = spec.several("hosts", text_as(grammar.host_or_wildcard), required=True)
    _check_distinct(spec, "hosts", hosts)
    readers = spec.children("http", required=True)
    rules = tuple(http_rule(reader, callers) for reader in readers)
    for reader, rule in list(zip(readers, rules, strict=True))[:-1]:
        if not rule.matches and reader.present:
            reader.warn("match", "without a match it takes all requests: the rules below are never reached")
    return VirtualService(origin=envelope.origin, hosts=hosts, http=rules, canary=canary(envelope, rules))


def _check_distinct(reader: Reader, name: str, values: tuple[object, ...]) -> None:
    for value, times in Counter(values).items():
        if times > 1:
            reader.problem(name, f"{value} is there twice")


def service_entry(envelope: Envelope) -> ServiceEntry:
    """Read a ServiceEntry. Whatever is wrong with it is in the report."""
    spec = envelope.spec
    accept_only(spec, "exportTo", "*", _EVERYWHERE)
    ports = _ports(spec)
    resolution = spec.required("resolution", _RESOLUTION, None)
    known = frozenset(port.name for port in ports)
    address = text_as(grammar.ip_address if resolution is Resolution.STATIC else _address)
    readers = spec.children("endpoints", filled=True)
    entry = ServiceEntry(
        origin=envelope.origin,
        hosts=spec.several("hosts", text_as(grammar.host_or_wildcard), required=True),
        ports=ports,
        resolution=resolution or Resolution.STATIC,
        external=spec.optional("location", _LOCATION) is not False,
        addresses=spec.several("addresses", text_as(grammar.ip_address)),
        endpoints=tuple(_endpoint(reader, envelope, address, known) for reader in readers),
        subject_alt_names=spec.several("subjectAltNames", text_as(_subject_alt_name), filled=True),
        workload_selector=selector(spec, "workloadSelector", "labels"),
    )
    _check_distinct(spec, "hosts", entry.hosts)
    _check_endpoints(spec, resolution, entry)
    _check_identities(spec, entry)
    return entry


def _check_endpoints(spec: Reader, resolution: Resolution | None, entry: ServiceEntry) -> None:
    if spec.choice("endpoints", "workloadSelector", needed=False):
        return
    if resolution is Resolution.STATIC:
        spec.problem("endpoints", "required: STATIC means that they are known, here or by a workloadSelector")
    if resolution is Resolution.DNS and any(host.startswith("*") for host in entry.hosts):
        spec.problem("hosts", "a wildcard can not be resolved: name the hosts, or the endpoints")


def _check_identities(spec: Reader, entry: ServiceEntry) -> None:
    identities = entry.subject_alt_names or any(endpoint.spiffe_id for endpoint in entry.endpoints)
    if identities and not spec.has("location"):
        spec.warn("location", "without it a service is MESH_EXTERNAL, although identities are named: say which it is")
    if not entry.external and not all(name.startswith(SCHEME) for name in entry.subject_alt_names):
        spec.problem("subjectAltNames", "inside the mesh names are SPIFFE IDs: write spiffe://...")


def _ports(spec: Reader) -> tuple[ServicePort, ...]:
    readers = spec.children("ports", required=True)
    ports = tuple(map(_port, readers))
    distinct(readers, "name", [port.name or None for port in ports])
    distinct(readers, "number", [port.number or None for port in ports])
    return ports


def _port(reader: Reader) -> ServicePort:
    return ServicePort(
        number=reader.required("number", PORT, 0),
        name=reader.required("name", text_as(grammar.dns_label), ""),
        protocol=reader.required("protocol", text_as(_protocol), Protocol.TCP),
        target_port=reader.optional("targetPort", PORT),
    )


def _protocol(written: str) -> Protocol:
    """Istio reads it in any case."""
    if written.upper() not in _PROTOCOLS:
        raise InvalidInput(f"{shown(written)} is not one of {', '.join(_PROTOCOLS)}")
    return _PROTOCOLS[written.upper()]


def _subject_alt_name(written: str) -> str:
    return str(SpiffeID.parse(written)) if written.startswith(SCHEME) else filled(written)


def _address(written: str) -> str:
    """An address that may have to be resolved."""
    return grammar.ip_address(written) if ":" in written else grammar.host(written)


def workload_entry(envelope: Envelope) -> WorkloadEntry:
    """Read a WorkloadEntry. It has the labels of its metadata too, and these win, as in Istio."""
    endpoint = _endpoint(envelope.spec, envelope, text_as(_address), None)
    annotated = envelope.annotations.optional(SPIFFE_ID, text_as(workload_id))
    if annotated and endpoint.spiffe_id not in {None, annotated}:
        text = f"is {endpoint.spiffe_id}, but the annotation {SPIFFE_ID} says {annotated}"
        envelope.spec.problem("serviceAccount", text)
    return WorkloadEntry(
        origin=envelope.origin,
        endpoint=replace(
            endpoint,
            labels={**endpoint.labels, **envelope.labels},
            spiffe_id=annotated or endpoint.spiffe_id,
        ),
    )


def _endpoint(
    reader: Reader, envelope: Envelope, address: Convert[str], known: frozenset[str] | None
) -> WorkloadEndpoint:
    """One endpoint. With `known` its ports must be among these."""
    reader.unsupported("network", "locality")
    ports = reader.mapping("ports", grammar.dns_label, PORT)
    for name in ports:
        if known is not None and name not in known:
            reader.problem("ports", f"{name} is not a port of the service, which has {', '.join(sorted(known))}")
    return WorkloadEndpoint(
        address=reader.required("address", address, ""),
        ports=ports,
        labels=labels(reader, "labels"),
        weight=reader.optional("weight", integer(1, MAX_ENDPOINT_WEIGHT)),
        spiffe_id=envelope.service_account(reader),
        line=reader.line,
        where=reader.path,
    )
