"""Which kinds are read, and by whom; and why others are not. Pure.

Rules:
- Each document is on its own: what is wrong with one keeps no other from being used.
- Files are read in the order of their names, so that the outcome does not depend on how a directory lists them.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from meshca.router.mesh.objects import AuthorizationPolicy, Object, Origin, Parsed, Problem
from meshca.router.parsing.documents import Document, Part, Sort, Tree, documents, parts
from meshca.router.parsing.envelope import DEFAULT_NAMESPACE, Envelope, open_envelope
from meshca.router.parsing.gateway import grpc_route, http_route
from meshca.router.parsing.networking import service_entry, virtual_service, workload_entry
from meshca.router.parsing.report import Report
from meshca.router.parsing.security import authorization_policy, peer_authentication
from meshca.router.parsing.telemetry import telemetry
from meshca.router.parsing.traffic import destination_rule
from meshca.router.parsing.wording import did_you_mean, shown
from spiffe.id import TrustDomain

_NETWORKING = "networking.istio.io"
_SECURITY = "security.istio.io"
_TELEMETRY = "telemetry.istio.io"
_GATEWAY = "gateway.networking.k8s.io"


_NAMES = re.compile(r"[A-Za-z0-9./-]{1,317}")


class Kind(NamedTuple):
    """A kind that we read: in these versions of its group, by this function."""

    group: str
    versions: tuple[str, ...]
    read: Callable[[Envelope], Object]

    @property
    def api_versions(self) -> tuple[str, ...]:
        """As documents write it."""
        return tuple(f"{self.group}/{version}" for version in self.versions)


_KINDS = {
    "VirtualService": Kind(_NETWORKING, ("v1alpha3", "v1beta1", "v1"), virtual_service),
    "DestinationRule": Kind(_NETWORKING, ("v1alpha3", "v1beta1", "v1"), destination_rule),
    "ServiceEntry": Kind(_NETWORKING, ("v1alpha3", "v1beta1", "v1"), service_entry),
    "WorkloadEntry": Kind(_NETWORKING, ("v1alpha3", "v1beta1", "v1"), workload_entry),
    "PeerAuthentication": Kind(_SECURITY, ("v1beta1", "v1"), peer_authentication),
    "AuthorizationPolicy": Kind(_SECURITY, ("v1beta1", "v1"), authorization_policy),
    "Telemetry": Kind(_TELEMETRY, ("v1alpha1", "v1"), telemetry),
    "HTTPRoute": Kind(_GATEWAY, ("v1beta1", "v1"), http_route),
    "GRPCRoute": Kind(_GATEWAY, ("v1alpha2", "v1"), grpc_route),
}

_WORKLOADS = "write a WorkloadEntry for each instance, or a ServiceEntry with endpoints"
_SERVICES = "write a ServiceEntry with the hosts, ports and endpoints"
_INSTEAD = {
    "ConfigMap": "only what is said about the mesh belongs here",
    "DaemonSet": _WORKLOADS,
    "Deployment": _WORKLOADS,
    "EndpointSlice": _SERVICES,
    "Endpoints": _SERVICES,
    "Ingress": "write a VirtualService",
    "List": "write its items as documents of their own, with --- between them",
    "Namespace": "a namespace is there as soon as an object names it",
    "Pod": _WORKLOADS,
    "ReplicaSet": _WORKLOADS,
    "Secret": "certificates come from meshca, other secrets do not belong here",
    "Service": _SERVICES,
    "ServiceAccount": "name it in the field `serviceAccount` of a WorkloadEntry or an endpoint",
    "StatefulSet": _WORKLOADS,
}


_POLICY = AuthorizationPolicy.__name__


class _Outcome(NamedTuple):
    """What came of one document: the object if nothing at all is wrong with it."""

    found: Object | None
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


class Parser:
    """Reads texts for one trust domain, again and again: what did not change since the last time is not parsed anew."""

    def __init__(self, trust_domain: TrustDomain) -> None:
        self._trust_domain = trust_domain
        self._divided: dict[tuple[str, str], tuple[Part, ...]] = {}
        self._known: dict[Part, tuple[_Outcome, ...]] = {}

    def parse(self, texts: Mapping[str, str]) -> Parsed:
        """Read texts (file name -> content). Whatever they hold, nothing is raised: problems and warnings tell what is wrong, and where.

        Of several objects of one kind, namespace and name the first that is good stays.
        """
        self._divided = {each: self._divided.get(each) or tuple(parts(*each)) for each in sorted(texts.items())}
        everything = [part for divided in self._divided.values() for part in divided]
        self._known = {part: self._known.get(part) or self._read(part) for part in everything}
        outcomes = [outcome for part in everything for outcome in self._known[part]]
        return _together(outcomes)

    def _read(self, part: Part) -> tuple[_Outcome, ...]:
        return tuple(_read(document, self._trust_domain) for document in documents(part))


def _together(outcomes: Sequence[_Outcome]) -> Parsed:
    """The objects, each once. A double is told at both places."""
    kept: dict[tuple[str, str, str], Object] = {}
    in_doubt: set[tuple[str, str, str]] = set()
    problems: list[Problem] = []
    warnings: list[Problem] = []
    for found, wrong, odd in outcomes:
        problems += wrong
        warnings += odd
        first = kept.setdefault(found.origin[2:], found) if found else None
        if found and first and first is not found:
            here, there = found.origin, first.origin
            if isinstance(found, AuthorizationPolicy) and replace(found, origin=there) != first:
                in_doubt.add(there[2:])  # nobody knows which of the two is meant to keep out whom
                for one, other in ((here, there), (there, here)):
                    text = f"is there twice, and otherwise at {other.file}:{other.line}: neither is used"
                    problems.append(_about(one, text))
            else:
                problems.append(_about(here, f"is there twice: that of {there.file}:{there.line} is used"))
                warnings.append(_about(there, f"is there twice: this is used, not that of {here.file}:{here.line}"))
    return Parsed(
        objects=tuple(each for key, each in kept.items() if key not in in_doubt),
        problems=tuple(sorted(problems, key=_place)),
        warnings=tuple(sorted(warnings, key=_place)),
    )


def _about(origin: Origin, text: str) -> Problem:
    return Problem(file=origin.file, line=origin.line, label=origin.label, field="", text=text)


def _place(problem: Problem) -> tuple[str, int]:
    return problem.file, problem.line


def _read(document: Document, trust_domain: TrustDomain) -> _Outcome:
    """One document."""
    report = Report(file=document.file, label=_label(document.root) if document.root else "")
    for fault in document.faults:
        report.problem(fault.line, "", fault.text)
    found = _object(document.root, report, trust_domain) if document.root else None
    report.finish()
    return _Outcome(None if report.problems else found, tuple(report.problems), tuple(report.warnings))


def _object(root: Tree, report: Report, trust_domain: TrustDomain) -> Object | None:
    name, api_version = _peek(root, "kind"), _peek(root, "apiVersion")
    kind = _KINDS.get(name)
    if kind is None or api_version not in kind.api_versions:
        place = "apiVersion" if not api_version or kind else "kind"
        line = root.fields[place].line if place in root.fields else root.line
        report.problem(line, place, _refusal(name, api_version))
        return None
    protobuf = kind.group != _GATEWAY
    envelope = open_envelope(root, report, name, protobuf=protobuf, trust_domain=trust_domain)
    found = kind.read(envelope)
    envelope.check_annotations()
    return found


def _refusal(name: str, api_version: str) -> str:
    """Why a document is not read, and what to write instead."""
    if not name or not api_version:
        return "required: an object has an apiVersion and a kind"
    if kind := _KINDS.get(name):
        return f"{name} of {shown(api_version)} is not read here, only of {', '.join(kind.api_versions)}"
    if api_version.partition("/")[0] in {_NETWORKING, _SECURITY, _TELEMETRY, _GATEWAY, "extensions.istio.io"}:
        return f"{shown(name)} of {shown(api_version)} is not supported by meshca{did_you_mean(name, _KINDS)}"
    instead = _INSTEAD.get(name, f"meshca reads {', '.join(_KINDS)}")
    return f"{shown(name)} of {shown(api_version)} is not read here: {instead}"


def _peek(tree: Tree, *path: str) -> str:
    """The text at the end of a path, empty if there is none."""
    for key in path:
        if key not in tree.fields:
            return ""
        tree = tree.fields[key].value
    return tree.text if tree.sort is Sort.TEXT else ""


def _label(root: Tree) -> str:
    """What to call a document of which nothing is known to be right: only names that can be shown as they are."""
    kind, name = _peek(root, "kind"), _peek(root, "metadata", "name")
    group = _peek(root, "apiVersion").partition("/")[0]
    if group == _SECURITY and (not kind or _POLICY in did_you_mean(kind, _KINDS)):
        kind = _POLICY  # a slip in its kind must not open what it was to close
    namespace = _peek(root, "metadata", "namespace") or DEFAULT_NAMESPACE
    parts = (kind, f"{namespace}/{name}" if name else "")
    return " ".join(part for part in parts if _NAMES.fullmatch(part))
