"""The nouns of meshca as frozen values, valid once built. No behaviour beyond what a value knows of itself."""

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from meshca.errors import InvalidInput
from spiffe.bundle import Bundle, BundleSet
from spiffe.id import SpiffeID, TrustDomain

AuthorityKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

MIN_LEAF_TTL = timedelta(seconds=10)
MAX_HINT_BYTES = 1024  # WA-73
RESERVED_DNS_SUFFIXES = (".meshca.internal", ".meshca.localhost")
"""Of names that are for our own servers. What ends in `localhost` leads to the own machine, whatever any DNS says (RFC 6761)."""
ROUTER_PATH = "/meshca/router"
"""Below the path that is reserved for ourselves, the one identity that an entry may give: the routing server's."""

_SELECTOR_TYPE = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_MAX_SELECTOR_VALUE = 4096
_MAX_DNS_NAME = 253
_MAX_DNS_LABEL = 63


class KeyType(StrEnum):
    """Key algorithms that every common verifier takes (facts/spiffe.md 3.6: no Ed25519)."""

    EC_P256 = "ec-p256"
    EC_P384 = "ec-p384"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"


@dataclass(frozen=True, slots=True, order=True)
class Selector:
    """A fact that an attestor vouches for, written `type:value`, such as `unix:uid:1000` (type `unix`) or `socket:frontend`."""

    type: str
    value: str

    def __post_init__(self) -> None:
        """Refuse what could not be printed and read back."""
        if not _SELECTOR_TYPE.fullmatch(self.type):
            raise InvalidInput(f"selector type {self.type!r} is not lower-case letters, digits, - and _")
        if not self.value or len(self.value) > _MAX_SELECTOR_VALUE or not self.value.isprintable():
            raise InvalidInput(
                f"selector value {self.value[:80]!r} of type {self.type!r} is empty, too long or not printable"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `type:value`. Raises InvalidInput."""
        type_, colon, value = text.partition(":")
        if not colon:
            raise InvalidInput(f"selector {text[:80]!r} is not written type:value, such as unix:uid:1000")
        return cls(type_, value)

    def __str__(self) -> str:
        return f"{self.type}:{self.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A registration entry: callers with all these selectors get this SPIFFE ID.

    `ttl` None means the server's default. `source` names who applied it (`entry apply --source`), so that pruning stays within its own.
    """

    id: str
    spiffe_id: SpiffeID
    selectors: frozenset[Selector]
    created_at: datetime
    ttl: timedelta | None = None
    dns_names: tuple[str, ...] = ()
    hint: str = ""
    default: bool = False
    federates_with: frozenset[TrustDomain] = frozenset()
    expires_at: datetime | None = None
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse an entry that could never be served rightly."""
        if not self.spiffe_id.is_workload:
            raise InvalidInput(f"{self.spiffe_id} has no path: a trust domain is no workload (X5-04)")
        if not self.selectors:
            raise InvalidInput(f"entry for {self.spiffe_id} has no selectors: it would match everybody")
        if self.ttl is not None and self.ttl < MIN_LEAF_TTL:
            raise InvalidInput(
                f"ttl {self.ttl.total_seconds():g}s is below the minimum of {MIN_LEAF_TTL.total_seconds():g}s"
            )
        if len(self.hint.encode()) > MAX_HINT_BYTES:
            raise InvalidInput(f"hint has {len(self.hint.encode())} bytes, the limit is {MAX_HINT_BYTES} (WA-73)")
        if self.spiffe_id.trust_domain in self.federates_with:
            raise InvalidInput(f"entry for {self.spiffe_id} federates with its own trust domain")
        for name in self.dns_names:
            _check_dns_name(name)

    @property
    def certified_names(self) -> tuple[str, ...]:
        """The DNS names of its leaves. The router's has two more, for clients that know a server by DNS names only (gRPC's TLS)."""
        return (*self.dns_names, *router_names(self.spiffe_id.trust_domain)) if self.is_router else self.dns_names

    @property
    def is_router(self) -> bool:
        """Whether it is for the routing server."""
        return self.spiffe_id.path == ROUTER_PATH

    def is_live(self, now: datetime) -> bool:
        """Whether the entry still grants anything."""
        return self.expires_at is None or now < self.expires_at


class Kind(StrEnum):
    """The two kinds of X.509 authority."""

    ROOT = "root"
    INTERMEDIATE = "intermediate"


class State(StrEnum):
    """The life of an authority, in order. A tainted one is no longer trusted by us, and its leaves are replaced first."""

    PREPARED = "prepared"
    ACTIVE = "active"
    OLD = "old"
    TAINTED = "tainted"


class Activation(StrEnum):
    """When a prepared authority becomes active; a root always waits until every holder has it, too."""

    BY_TIME = "by-time"
    AT_ONCE = "at-once"
    BY_HAND = "by-hand"


class Leaving(StrEnum):
    """Whether an authority is to go before its time, and why. All but NO ask for the leaves below to be replaced now.

    A tainted one is no longer trusted. A revoked intermediate takes its root with it, since verifiers know only roots.
    """

    NO = "no"
    ROTATED = "rotated"
    TAINTED = "tainted"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One authority: its certificate, where its key is, and how far it is in its life.

    `id` is the subject key identifier in hex and also the key's id at the key manager. `issuer_id` is the root's id (its own for a root).
    """

    id: str
    kind: Kind
    state: State
    certificate: x509.Certificate = field(repr=False)
    issuer_id: str
    prepared_at: datetime
    activated_at: datetime | None = None
    retired_at: datetime | None = None
    activation: Activation = Activation.BY_TIME
    leaving: Leaving = Leaving.NO
    not_before: datetime = field(init=False, repr=False, compare=False)
    not_after: datetime = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read the certificate's dates once: for each leaf below they are asked for six times."""
        object.__setattr__(self, "not_before", self.certificate.not_valid_before_utc)
        object.__setattr__(self, "not_after", self.certificate.not_valid_after_utc)

    def is_valid(self, now: datetime) -> bool:
        """Whether `now` is within the certificate's validity."""
        return self.not_before <= now < self.not_after

    @property
    def replace_leaves(self) -> bool:
        """Whether the leaves below are to be replaced now rather than at their renewal: it leaves, and another signs already."""
        return self.leaving is not Leaving.NO and self.state in {State.OLD, State.TAINTED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """All authorities of a trust domain that still matter; revoked ones are gone from here and live on in the audit log.

    `sequence` rises with each change of the published bundle (TB-05, TB-06). `revision` rises with each save.
    """

    trust_domain: TrustDomain
    slots: tuple[Slot, ...] = ()
    sequence: int = 0
    revision: int = 0

    def of(self, kind: Kind, *states: State) -> tuple[Slot, ...]:
        """The slots of a kind in any of the states (all when none is named), oldest first."""
        return tuple(s for s in self.slots if s.kind is kind and (not states or s.state in states))

    def active(self, kind: Kind) -> Slot | None:
        """The one active slot of a kind."""
        return next(iter(self.of(kind, State.ACTIVE)), None)

    def get(self, slot_id: str) -> Slot | None:
        """The slot of that id."""
        return next((s for s in self.slots if s.id == slot_id), None)

    @property
    def bundle(self) -> Bundle:
        """What is published: the roots, all of them, and nothing else (facts/spiffe.md 3.6: anchors are self-signed roots)."""
        return Bundle(
            trust_domain=self.trust_domain,
            x509_authorities=tuple(s.certificate for s in self.of(Kind.ROOT)),
            sequence=self.sequence,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A leaf in the issuance record. `holder` names the process it was made for, or `mint/<uid>` where there is none to ask."""

    serial: int
    spiffe_id: SpiffeID
    entry_id: str
    holder: str
    intermediate_id: str
    root_id: str
    issued_at: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What an agent may know of the CA, all of it at one revision: level-triggered, so that a missed event can not go unnoticed.

    `bundles` has the own trust domain and every federated one. `replace` are ids of authorities (of either kind) whose
    leaves must be replaced now. `active` is the id of the intermediate that signs now ("" while there is
    none). `cut_off` are ids of entries deleted `--now` since the server started.
    """

    trust_domain: TrustDomain
    revision: int
    entries: tuple[Entry, ...] = ()
    bundles: BundleSet = field(default_factory=BundleSet)
    active: str = ""
    replace: frozenset[str] = frozenset()
    cut_off: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueRequest:
    """Ask for one leaf: for which entry, with which key (a CSR, DER, which proves possession and says nothing else), in whose hands."""

    entry_id: str
    csr: bytes
    holder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A signed leaf: the record of it and its chain, leaf first, without the root."""

    leaf: Leaf
    chain: tuple[x509.Certificate, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class HolderReport:
    """What an agent knows of one holder.

    `bundle` is the digest that the process provably holds ("" unknown). `held` are serials of newest leaves that it provably
    uses on every stream that carries them: older ones of the same entry, of which the agent may know nothing after a restart,
    are out of use. `replaced` are serials that it no longer uses, since a newer leaf of the same entry is in its hands (or they
    never left us). `gone` means that the process has ended.
    """

    holder: str
    bundle: str = ""
    held: frozenset[int] = frozenset()
    replaced: frozenset[int] = frozenset()
    gone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A process that has a leaf of ours, as `meshca status` shows it. `since` is when it fell behind."""

    name: str
    spiffe_ids: tuple[SpiffeID, ...]
    bundle: str
    since: datetime
    expires: datetime


class AuditKind(StrEnum):
    """What an audit record tells of. `intent` is written before a key is used, `issued` after the signed certificate was checked.

    `admin` is what an administrator asked for, before it is carried out; `refused` a leaf or a wish that was refused, or failed.
    """

    INTENT = "intent"
    ISSUED = "issued"
    REFUSED = "refused"
    AUTHORITY = "authority"
    ADMIN = "admin"
    HEAD = "head"
    ANCHOR = "anchor"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One link of a writer's hash chain. `hash` covers all other fields and `previous`, the hash of the link before ("" at the start).

    `body` is canonical JSON (sorted keys, no blanks). `serial` (hex), `spiffe_id` and `not_after` are lifted out of it for queries only.
    A `kind` that is not ours is of another program, perhaps of a later version of this one: it is told as it is.
    """

    writer: str
    sequence: int
    at: datetime
    kind: AuditKind | str
    body: str
    previous: str
    hash: str
    serial: str = ""
    spiffe_id: str = ""
    not_after: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditQuery:
    """Which audit records to find; what is None does not narrow. Newest first, at most `limit`."""

    serial: int | None = None
    spiffe_id: SpiffeID | None = None
    since: datetime | None = None
    kind: AuditKind | None = None
    limit: int = 100


def router_names(trust_domain: TrustDomain) -> tuple[str, str]:
    """The DNS names of the trust domain's routing server, reserved, so that nobody else has them: anywhere, and on the own machine."""
    anywhere, here = (f"router.{trust_domain}{suffix}" for suffix in RESERVED_DNS_SUFFIXES)
    return anywhere, here


def _check_dns_name(name: str) -> None:
    """Raise InvalidInput unless the name is a lower-case DNS name that is not reserved for our own servers."""
    labels = name.removeprefix("*.").split(".")
    if len(name) > _MAX_DNS_NAME:
        raise InvalidInput(f"DNS name {name[:80]!r} has {len(name)} characters, the limit is {_MAX_DNS_NAME}")
    if long := [label for label in labels if len(label) > _MAX_DNS_LABEL]:
        raise InvalidInput(
            f"DNS name {name[:80]!r} has a label of {len(long[0])} characters, the limit is {_MAX_DNS_LABEL}"
        )
    if not all(_DNS_LABEL.fullmatch(label) for label in labels):
        raise InvalidInput(f"DNS name {name[:80]!r} is not lower-case letters, digits and - between dots")
    if suffix := next((each for each in RESERVED_DNS_SUFFIXES if name.endswith(each)), None):
        raise InvalidInput(f"DNS name {name!r} is reserved: *{suffix} is for meshca's own servers")
