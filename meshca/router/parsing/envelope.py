"""What all objects have in common: metadata around a specification. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from meshca.errors import InvalidInput
from meshca.router.mesh.objects import Origin
from meshca.router.parsing import grammar
from meshca.router.parsing.documents import Tree
from meshca.router.parsing.reader import Reader
from meshca.router.parsing.report import Report
from meshca.router.parsing.scalars import filled, text, text_as
from spiffe.id import SpiffeID, TrustDomain

SOURCE_PRINCIPALS = "meshca.dev/source-principals"
SPIFFE_ID = "meshca.dev/spiffe-id"
OURS = "meshca.dev/"
DEFAULT_NAMESPACE = "default"

_BOOKKEEPING = (
    *(
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
    ),
    *("managedFields", "ownerReferences", "resourceVersion", "selfLink", "uid"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One object whose kind is known, opened: its specification is still to be read."""

    origin: Origin
    spec: Reader
    labels: Mapping[str, str]
    annotations: Reader
    trust_domain: TrustDomain

    def service_account(self, reader: Reader) -> SpiffeID | None:
        """The identity that the field `serviceAccount` stands for, in this object's namespace."""
        start = f"{self.trust_domain.id}/ns/{self.origin.namespace}/sa/"
        return reader.optional("serviceAccount", text_as(lambda name: SpiffeID.parse(start + grammar.name(name))))

    def check_annotations(self) -> None:
        """Report annotations that are not text, and those of ours that this kind does not have: a typo must not widen access."""
        for name in self.annotations.unread():
            if name.startswith(OURS):
                self.annotations.refuse(name)
            self.annotations.optional(name, text)


def open_envelope(root: Tree, report: Report, kind: str, *, protobuf: bool, trust_domain: TrustDomain) -> Envelope:
    """Read the metadata. With `protobuf` the specification is a protobuf message."""
    top = Reader(report, line=root.line, path="", tree=root)
    top.ignored("apiVersion", "kind", "status")
    metadata = top.child("metadata", required=True)
    metadata.ignored(*_BOOKKEEPING)
    name = metadata.required("name", text_as(grammar.name), "")
    namespace = metadata.optional("namespace", text_as(grammar.dns_label)) or DEFAULT_NAMESPACE
    return Envelope(
        origin=Origin(report.file, root.line, kind, namespace, name),
        spec=top.child("spec", required=True, protobuf=protobuf),
        labels=metadata.mapping("labels", grammar.label_key, text_as(grammar.label_value)),
        annotations=metadata.child("annotations", complete=False),
        trust_domain=trust_domain,
    )


def labels(reader: Reader, name: str) -> dict[str, str]:
    """A mapping of labels."""
    return reader.mapping(name, grammar.label_key, text_as(grammar.label_value))


def selector(spec: Reader, name: str, field: str) -> dict[str, str]:
    """The labels of a selector. One that is written must select: an empty one would mean all to some and none to others."""
    chosen = spec.child(name)
    if chosen.present and not chosen.has(field):
        chosen.problem(field, "required")
    found = labels(chosen, field)
    if chosen.has(field) and not found:
        chosen.problem(field, "is empty: leave the selector out to mean all")
    return found


def source_principals(envelope: Envelope) -> tuple[SpiffeID, ...]:
    """The callers to which an annotation limits all HTTP rules of an object; empty means everybody."""
    return envelope.annotations.optional(SOURCE_PRINCIPALS, text_as(_callers)) or ()


def _callers(written: str) -> tuple[SpiffeID, ...]:
    return tuple(workload_id(part.strip()) for part in filled(written).split(","))


def workload_id(written: str) -> SpiffeID:
    """A SPIFFE ID that a workload may have. Raises InvalidID, or InvalidInput for a trust domain's own."""
    spiffe_id = SpiffeID.parse(written)
    if not spiffe_id.is_workload:
        raise InvalidInput(f"{spiffe_id} is a trust domain, not a workload: add a path")
    return spiffe_id


def accept_only(reader: Reader, name: str, value: str, why: str) -> None:
    """A list that may only say what is so anyway."""
    for written in reader.several(name, text):
        if written != value:
            reader.problem(name, f"only {value!r} is supported by meshca: {why}")
